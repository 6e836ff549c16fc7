"""What bf16 changes against fp32: every metric of every cell, paired by seed."""

import math
from pathlib import Path

import pandas as pd
from tabulate import tabulate

from benchmark.errors import UserError
from benchmark.matrix.expand import Cell
from benchmark.report import keep, names
from benchmark.report.aggregate import devices, tidy_frame
from benchmark.report.render import csv_text, escape_markdown, write_text
from benchmark.runner.store import Store
from benchmark.statistics.intervals import effect, holm
from benchmark.statistics.paired import pairs

BASE, OTHER = "fp32", "bf16"  # the protocols of the suite that differ in nothing but the arithmetic
METRICS = ("accuracy_percent", "mse", "ssim", "psnr_db")
COLUMNS = ["dataset", "defense", "cem", "attacker", "split", "metric", "seeds", BASE, OTHER, "change", "low", "high"]
COLUMNS += ["p_holm", "spread_over_seeds"]


def compare(frame: pd.DataFrame) -> pd.DataFrame:
    """One line a cell and metric: the means in either arithmetic and the change from fp32 to bf16, paired by seed.

    frame: tidy, with the protocols `fp32` and `bf16`. change, low, high: in the metric's unit, for MSE in percent; the
    interval is Student's t, 95 % (NaN for one seed). p_holm: two-sided, adjusted over all lines. spread_over_seeds: the
    standard deviation over seeds in fp32, in the same unit, which the change is to be held against.
    """
    lines = []
    for pair in pairs(frame[frame["metric"].isin(METRICS)], "protocol", BASE):
        if pair.protocol != OTHER or not pair.base:
            continue
        found = effect(list(pair.changes().values()))
        base, other = (pd.Series(side, dtype=float) for side in (pair.base, pair.other))
        shown = [math.expm1(value) * 100 if pair.relative else value for value in (found.mean, found.low, found.high)]
        spread = 100 * base.std() / base.mean() if pair.relative else base.std()
        cell = (pair.dataset, pair.defense, pair.cem, pair.attacker, pair.split, pair.metric)
        lines.append([*cell, found.n, base.mean(), other.mean(), *shown, found.p, spread])
    table = pd.DataFrame(lines, columns=COLUMNS)
    table["p_holm"] = holm(table["p_holm"].to_numpy(dtype=float))
    return table


def write(cells: list[Cell], results: Path, out: Path) -> list[Path]:
    """precision.md and precision.csv below `out`. UserError where no cell is finished in both."""
    store = Store(results)
    frame = tidy_frame(cells, store)
    lines = compare(frame)
    if lines.empty:
        raise UserError(
            f"the chosen cells hold none that is finished under both protocols, {BASE} and {OTHER}; "
            "run the suite `precision` first"
        )
    keep.set_aside_richer(frame, out)
    records = devices(cells, store)
    where = sorted({str(record.get("device", "unknown")) for record in records})
    labels = [change for change in names.changes(cell.label for cell in cells) if "train.precision" not in change]
    files = {
        "precision.md": _markdown(lines, where, labels),
        "precision.csv": csv_text(lines),
    }
    return [write_text(out / name, text) for name, text in files.items()]


def _markdown(lines: pd.DataFrame, where: list[str], labels: list[str]) -> str:
    rows = [_row(line) for line in lines.to_dict("records")]
    headings = ["data set", "method", "attack", "metric", "seeds", BASE, OTHER, "change", "95 % interval", "p (Holm)"]
    escaped = [[escape_markdown(item) for item in row] for row in rows]
    parts = [
        "# bf16 against fp32",
        "The same cells in either arithmetic, paired by seed: a run in bf16 starts from the weights of its partner in "
        "fp32 and sees the same images and draws. What stays in fp32 either way is in docs/SPEED.md. An MSE changes "
        "by a factor, shown in percent; the other metrics by a difference.",
        "Measured on " + escape_markdown("; ".join(where)) + ".",
        *([f"Not at the published setting: {escape_markdown('; '.join(labels))}."] if labels else []),
        tabulate(escaped, headers=[*headings, "spread over seeds"], tablefmt="pipe", disable_numparse=True),
        "Spread over seeds: standard deviation in fp32, in the unit of the change.",
    ]
    return "\n\n".join(parts) + "\n"


def _row(line: dict) -> list[str]:
    relative = names.base_metric(line["metric"]) == "mse"
    decimals = names.metric(line["metric"]).decimals
    value = f"{{:.{decimals}f}}"
    change = "{:+.2f} %" if relative else f"{{:+.{decimals + 1}f}}"
    interval = "–" if math.isnan(line["low"]) else f"{change.format(line['low'])} to {change.format(line['high'])}"
    return [
        names.dataset_title(line["dataset"]),
        names.row_label(line["defense"], line["cem"]),
        " ".join(word for word in (line["attacker"], line["split"]) if word != "none"),
        line["metric"],
        str(line["seeds"]),
        value.format(line[BASE]),
        value.format(line[OTHER]),
        change.format(line["change"]),
        interval,
        "–" if math.isnan(line["p_holm"]) else f"{line['p_holm']:.3f}",
        "–" if math.isnan(line["spread_over_seeds"]) else change.format(line["spread_over_seeds"]).lstrip("+"),
    ]
