"""The verdicts and the ablation of a suite as Markdown, LaTeX and CSV."""

import math
from pathlib import Path

import pandas as pd

from benchmark.analysis import names
from benchmark.analysis.ablation import BASE
from benchmark.analysis.diff import attack
from benchmark.analysis.frame import csv_text
from benchmark.analysis.verdicts import NOT_SUPPORTED, OVER_IMAGES, SUPPORTED, UNDECIDED, once
from benchmark.report import keep
from benchmark.report.latex import Latex, align
from benchmark.report.render import escape_markdown, markdown_table, not_published, rendered, write_texts
from benchmark.report.table import Cell

IMAGES = "images harder"  # the column from values of single images
NUMBERS = {"seeds", "off", "on", "change", "p (Holm)", "d_z", IMAGES}
ATTACKERS = {names.PAPER: "the paper's", names.FURTHER: "further"}


def write_verdicts(lines: pd.DataFrame, gains: pd.DataFrame, labels: list[str], out: Path) -> list[Path]:
    """verdicts.md, .tex, .csv and gains.csv below `out`; nothing if there is nothing to judge.

    lines, gains: from analysis/verdicts.py; labels: how the cells depart from the published setting. Per-image values
    that `lines` lack are taken from the existing file (keep.py).
    """
    if lines.empty:
        return []
    lines = keep.completed(lines, out / "verdicts.csv", OVER_IMAGES)
    files = {
        "verdicts.md": _markdown(lines, gains, labels),
        "verdicts.tex": _latex(lines),
        "verdicts.csv": csv_text(lines),
        "gains.csv": csv_text(gains),
    }
    return write_texts(out, files)


def write_ablation(lines: pd.DataFrame, labels: list[str], out: Path) -> list[Path]:
    """ablation.md and ablation.csv below `out`; nothing if there is no protocol besides `published`."""
    if lines.empty:
        return []
    return write_texts(out, {"ablation.md": _ablation(lines, labels), "ablation.csv": csv_text(lines)})


def summary(lines: pd.DataFrame) -> str:
    """A line per claim: how many rows support it, do not, leave it open (why, if for one reason), or lack results."""
    told, lines = [], once(lines)
    families = lines["attacker"].map(names.family).rename("family")
    for (claim, family), part in lines.groupby(["claim", families], sort=False):
        part, absent = part[part["seeds"] > 0], (part["seeds"] == 0).sum()
        counts = part["verdict"].value_counts()
        parts = [f"{counts.get(name, 0)} {name}" for name in (SUPPORTED, NOT_SUPPORTED, UNDECIDED)]
        whose = " (further attackers)" if family == names.FURTHER else ""
        reasons = set(part["reason"])
        why = f" ({reasons.pop()})" if len(reasons) == 1 and counts.get(UNDECIDED, 0) == len(part) else ""
        rest = f"; {absent} more without results" if absent else ""
        told.append(f"{claim}{whose}: {', '.join(parts)} of {len(part)} rows{why}{rest}")
    return "\n".join(told)


def texts(lines: pd.DataFrame) -> pd.DataFrame:
    """The verdicts as text, each once; the columns are headings. Without a sweep there is no `point`."""
    rows = [
        {
            "protocol": row["protocol"],
            "data set": names.dataset_title(row["dataset"]),
            "method": names.row_label(row["defense"], row["cem"]),
            "attack": attack(row),
            "point": row["point"],
            "claim": row["claim"],
            "seeds": str(row["seeds"]),
            **{side: _number(row[side], names.metric(row["metric"]).decimals) for side in ("off", "on")},
            "change": _change(row, "change"),
            "95 % interval": "–" if math.isnan(row["low"]) else f"{_change(row, 'low')} to {_change(row, 'high')}",
            "p (Holm)": _number(row["p_holm"], 3),
            "d_z": _number(row["effect_size"], 2),
            IMAGES: _number(row["images_harder_percent"], 0, " %"),
            "verdict": row["verdict"],
            "why": row["reason"],
        }
        for row in once(lines).to_dict("records")
    ]
    return pd.DataFrame(rows).drop(columns=[] if lines["point"].any() else "point", errors="ignore")


def _change(row: dict, name: str) -> str:
    if math.isnan(row[name]):
        return "–"
    if names.base_metric(row["metric"]) == "mse":
        return f"{row[name]:+.1f} %"
    return f"{row[name]:+.{names.metric(row['metric']).decimals}f}"


def _number(value: float, digits: int, unit: str = "") -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}{unit}"


def _markdown(lines: pd.DataFrame, gains: pd.DataFrame, labels: list[str]) -> str:
    swept = bool(gains["point"].any())
    totals = [
        [row["protocol"], names.dataset_title(row["dataset"]), row["cem"], row["split"], ATTACKERS[row["family"]]]
        + [row["point"]] * swept
        + [row["rows"], row["left_out"], row["seeds"], f"{row['gain_percent']:+.1f} %", _interval(row, "{:+.1f} %")]
        for row in gains.to_dict("records")
    ]
    headings = ["protocol", "data set", "CEM", "split", "attackers", *["point"] * swept]
    headings += ["rows", "left out", "seeds", "gain", "95 % interval"]
    rows = texts(lines)
    parts = [
        "# Verdicts",
        "The rules are in docs/STATISTICS.md. Changes are from CEM off to on, paired by seed. p (Holm) is adjusted "
        "within a claim, apart for the paper's attackers and further ones.",
        *not_published(labels),
        "\n".join(f"* {escape_markdown(line)}" for line in summary(lines).splitlines()),
        "## MSE gain over all rows",
        "Interquartile mean over rows, the attackers of a family and seeds; 95 % stratified bootstrap over seeds. Left "
        "out: attacks that learn nothing on either side, and rows with a classifier at chance.",
        markdown_table(totals, headings),
        "## Row by row",
        markdown_table(rows.values.tolist(), list(rows)),
    ]
    return "\n\n".join(parts) + "\n"


def _ablation(lines: pd.DataFrame, labels: list[str]) -> str:
    def rows(what: str) -> list[list[str]]:
        found = []
        for row in lines[lines["what"] == what].to_dict("records"):
            spec = "{:+.1f} %" if row["metric"] == "mse" else f"{{:+.{names.metric(row['metric']).decimals}f}}"
            found.append(
                [names.dataset_title(row["dataset"]), row["protocol"], row["cem"], attack(row), row["metric"]]
                + [str(row["rows"]), str(row["seeds"]), spec.format(row["change"]), _interval(row, spec)]
            )
        return found

    headings = ["data set", "protocol", "CEM", "attack", "metric", "rows", "seeds", "change", "95 % interval"]
    parts = [
        "# Ablation of the protocol",
        f"Each protocol against `{BASE}`, paired by seed, mean over rows. The rules are in docs/STATISTICS.md.",
        *not_published(labels),
        "## What it does to the gain of CEM",
        "The change that CEM makes under the protocol, less the change that it makes under the published one.",
        markdown_table(rows("gain"), headings),
        "## What it does to the values themselves",
        markdown_table(rows("value"), headings),
    ]
    return "\n\n".join(parts) + "\n"


def _interval(row: dict, spec: str) -> str:
    return "–" if math.isnan(row["low"]) else f"{spec.format(row['low'])} to {spec.format(row['high'])}"


def _latex(lines: pd.DataFrame) -> str:
    spec, heads, columns = "", [], []
    for name, texts_of in texts(lines).items():
        if name in NUMBERS:
            aligned = align([Cell(text) for text in texts_of])
            spec, heads, columns = spec + aligned.spec, [*heads, aligned.head(name)], [*columns, aligned.cells]
        else:
            spec, heads, columns = spec + "l", [*heads, name], [*columns, texts_of]
    return rendered("tex", "verdicts", spec=Latex(spec), heads=heads, rows=zip(*columns, strict=True))
