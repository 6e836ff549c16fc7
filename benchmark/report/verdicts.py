"""From cells and the store to verdicts.md, .tex and .csv, gains.csv, and ablation.md and .csv."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
from tabulate import tabulate

from benchmark.analysis import names
from benchmark.analysis.ablation import BASE, ablation
from benchmark.analysis.collect import tidy_frame
from benchmark.analysis.frame import csv_text
from benchmark.analysis.verdicts import (
    NOT_SUPPORTED,
    OVER_IMAGES,
    SUPPORTED,
    UNDECIDED,
    Images,
    aggregate,
    verdicts,
)
from benchmark.departures import told
from benchmark.errors import UserError, foreign
from benchmark.matrix.expand import Cell
from benchmark.report import keep
from benchmark.report.render import escape_latex, escape_markdown, write_text
from benchmark.store.store import PER_IMAGE, Store
from benchmark.training import checkpoint

HEADINGS = ["protocol", "data set", "method", "attack", "claim", "seeds", "off", "on", "change", "95 % interval"]
HEADINGS += ["p (Holm)", "d_z", "images harder", "verdict", "why"]
ATTACKERS = {names.PAPER: "the paper's", names.FURTHER: "further"}


def write(cells: list[Cell], results: Path, out: Path) -> tuple[list[Path], str]:
    """Write the verdicts of `cells` below `out`; returns (paths, summary).

    UserError where the cells hold nothing to judge.
    """
    store = Store(results)
    frame = tidy_frame(cells, store)
    keep.require_some(frame, cells[0].suite, results)
    lines, gains = verdicts(frame, per_image_reader(cells, store)), aggregate(frame)
    if lines.empty:
        raise UserError("the chosen cells hold no row both with and without CEM; choose cem=off and a form of it")
    keep.set_aside_richer(frame, out)
    lines = keep.completed(lines, out / "verdicts.csv", OVER_IMAGES)
    text = summary(lines)
    labels = told(departure for cell in cells for departure in cell.departures)
    files = {
        "verdicts.md": _markdown(lines, gains, text, labels),
        "verdicts.tex": _latex(lines),
        "verdicts.csv": csv_text(lines),
        "gains.csv": csv_text(gains),
    }
    return [write_text(out / name, content) for name, content in files.items()], text


def write_ablation(cells: list[Cell], results: Path, out: Path) -> list[Path]:
    """Write ablation.md and ablation.csv below `out`. UserError where no other protocol stands beside `published`."""
    frame = tidy_frame(cells, Store(results))
    lines = ablation(frame)
    if lines.empty:
        raise UserError(
            f"the chosen cells hold no finished row under both the protocol '{BASE}' and another; "
            "choose a suite with several protocols, such as ablation, and run it first"
        )
    keep.set_aside_richer(frame, out)
    labels = told(departure for cell in cells for departure in cell.departures)
    files = {"ablation.md": _ablation(lines, labels), "ablation.csv": csv_text(lines)}
    return [write_text(out / name, content) for name, content in files.items()]


def per_image_reader(cells: list[Cell], store: Store) -> Images:
    """Reads per_image.safetensors by job key; None where one is not there (weights and tensors are not shared)."""
    jobs = {cell.job.key: cell.job for cell in cells}

    def read(off: str, on: str, metric: str) -> tuple[np.ndarray, np.ndarray] | None:
        files = [store.checkpoint(jobs[key], PER_IMAGE) for key in (off, on)]
        if not all(file.is_file() for file in files):
            return None
        with foreign(f"cannot read {' and '.join(map(str, files))}"):
            one, other = (checkpoint.load(file)[metric].double().flatten().numpy() for file in files)
        return (one, other) if len(one) == len(other) else None

    return read


def summary(lines: pd.DataFrame) -> str:
    """One line a claim: how many rows support it, do not, or leave it open."""
    texts = []
    families = lines["attacker"].map(names.family).rename("family")
    for (claim, family), part in lines.groupby(["claim", families], sort=False):
        counts = part["verdict"].value_counts()
        parts = [f"{counts.get(name, 0)} {name}" for name in (SUPPORTED, NOT_SUPPORTED, UNDECIDED)]
        whose = " (further attackers)" if family == names.FURTHER else ""
        texts.append(f"{claim}{whose}: {', '.join(parts)} of {len(part)} rows")
    return "\n".join(texts)


def text_rows(lines: pd.DataFrame) -> list[list[str]]:
    """The verdicts as text, under HEADINGS."""
    return [
        [
            row["protocol"],
            names.dataset_title(row["dataset"]),
            names.row_label(row["defense"], row["cem"]),
            " ".join(word for word in (row["attacker"], row["split"]) if word != "none"),
            row["claim"],
            str(row["seeds"]),
            *(_number(row[side], names.metric(row["metric"]).decimals) for side in ("off", "on")),
            _change(row, "change"),
            "–" if math.isnan(row["low"]) else f"{_change(row, 'low')} to {_change(row, 'high')}",
            _number(row["p_holm"], 3),
            _number(row["effect_size"], 2),
            _number(row["images_harder_percent"], 0, " %"),
            row["verdict"],
            row["reason"],
        ]
        for row in lines.to_dict("records")
    ]


def _change(row: dict, name: str) -> str:
    if math.isnan(row[name]):
        return "–"
    if names.base_metric(row["metric"]) == "mse":
        return f"{row[name]:+.1f} %"
    return f"{row[name]:+.{names.metric(row['metric']).decimals}f}"


def _number(value: float, digits: int, unit: str = "") -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}{unit}"


def _markdown(lines: pd.DataFrame, gains: pd.DataFrame, text: str, labels: list[str]) -> str:
    totals = [
        [
            row["protocol"],
            names.dataset_title(row["dataset"]),
            row["cem"],
            row["split"],
            ATTACKERS[row["family"]],
            str(row["rows"]),
        ]
        + [str(row["seeds"]), f"{row['gain_percent']:+.1f} %", _interval(row, "{:+.1f} %")]
        for row in gains.to_dict("records")
    ]
    parts = [
        "# Verdicts",
        "The rules are in docs/STATISTICS.md. Changes are from CEM off to on, paired by seed. p (Holm) is adjusted "
        "within a claim, apart for the paper's attackers and further ones.",
        *_reduced(labels),
        "\n".join(f"* {escape_markdown(line)}" for line in text.splitlines()),
        "## MSE gain over all rows",
        "Interquartile mean over rows, the attackers of a family and seeds; 95 % stratified bootstrap over seeds.",
        _table(totals, ["protocol", "data set", "CEM", "split", "attackers", "rows", "seeds", "gain", "95 % interval"]),
        "## Row by row",
        _table(text_rows(lines), HEADINGS),
    ]
    return "\n\n".join(parts) + "\n"


def _ablation(lines: pd.DataFrame, labels: list[str]) -> str:
    def rows(what: str) -> list[list[str]]:
        found = []
        for row in lines[lines["what"] == what].to_dict("records"):
            spec = "{:+.1f} %" if row["metric"] == "mse" else f"{{:+.{names.metric(row['metric']).decimals}f}}"
            attack = " ".join(word for word in (row["attacker"], row["split"]) if word != "none")
            found.append(
                [names.dataset_title(row["dataset"]), row["protocol"], row["cem"], attack, row["metric"]]
                + [str(row["rows"]), str(row["seeds"]), spec.format(row["change"]), _interval(row, spec)]
            )
        return found

    headings = ["data set", "protocol", "CEM", "attack", "metric", "rows", "seeds", "change", "95 % interval"]
    parts = [
        "# Ablation of the protocol",
        f"Each protocol against `{BASE}`, paired by seed, mean over rows. The rules are in docs/STATISTICS.md.",
        *_reduced(labels),
        "## What it does to the gain of CEM",
        "The change that CEM makes under the protocol, less the change that it makes under the published one.",
        _table(rows("gain"), headings),
        "## What it does to the values themselves",
        _table(rows("value"), headings),
    ]
    return "\n\n".join(parts) + "\n"


def _interval(row: dict, spec: str) -> str:
    return "–" if math.isnan(row["low"]) else f"{spec.format(row['low'])} to {spec.format(row['high'])}"


def _reduced(labels: list[str]) -> list[str]:
    return [f"Not at the published setting: {escape_markdown('; '.join(labels))}."] if labels else []


def _table(rows: list[list[str]], headings: list[str]) -> str:
    escaped = [[escape_markdown(item) for item in row] for row in rows]
    return tabulate(escaped, headers=headings, tablefmt="pipe", disable_numparse=True)


def _latex(lines: pd.DataFrame) -> str:
    rows = [[escape_latex(item) for item in row] for row in text_rows(lines)]
    body = "\n".join(" & ".join(row) + r" \\" for row in [[escape_latex(name) for name in HEADINGS]])
    body += "\n\\midrule\n" + "\n".join(" & ".join(row) + r" \\" for row in rows)
    return (
        "% needs \\usepackage{booktabs,graphicx}\n\\begin{table}[htbp]\n\\centering\n"
        "\\caption{Change from CEM off to on, paired by seed, and the verdict on each claim.}\n\\label{tab:verdicts}\n"
        "\\resizebox{\\linewidth}{!}{%\n\\begin{tabular}{" + "l" * len(HEADINGS) + "}\n\\toprule\n" + body + "\n"
        "\\bottomrule\n\\end{tabular}}\n\\end{table}\n"
    )
