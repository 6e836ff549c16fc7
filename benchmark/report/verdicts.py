"""The verdicts and the ablation of a suite as Markdown, LaTeX and CSV."""

from pathlib import Path

import pandas as pd

from benchmark.analysis import names
from benchmark.analysis.ablation import BASE
from benchmark.analysis.diff import attack
from benchmark.analysis.frame import csv_text
from benchmark.analysis.verdicts import NOT_SUPPORTED, OVER_IMAGES, SUPPORTED, UNDECIDED, once
from benchmark.report import keep
from benchmark.report.latex import Latex, align
from benchmark.report.numbers import between, number
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
            **{side: number(row[side], f".{names.metric(row['metric']).decimals}f") for side in ("off", "on")},
            "change": number(row["change"], *_changed(row)),
            "95 % interval": between(row["low"], row["high"], *_changed(row)),
            "p (Holm)": number(row["p_holm"], ".3f"),
            "d_z": number(row["effect_size"], ".2f"),
            IMAGES: number(row["images_harder_percent"], ".0f", " %"),
            "verdict": row["verdict"],
            "why": row["reason"],
        }
        for row in once(lines).to_dict("records")
    ]
    return pd.DataFrame(rows).drop(columns=[] if lines["point"].any() else "point", errors="ignore")


def _changed(row: dict) -> tuple[str, str]:
    """(spec, unit) of a change of the row's metric."""
    relative = names.base_metric(row["metric"]) == "mse"
    return ("+.1f", " %") if relative else (f"+.{names.metric(row['metric']).decimals}f", "")


def _markdown(lines: pd.DataFrame, gains: pd.DataFrame, labels: list[str]) -> str:
    swept = bool(gains["point"].any())
    totals = [
        [row["protocol"], names.dataset_title(row["dataset"]), row["cem"], row["split"], ATTACKERS[row["family"]]]
        + [row["point"]] * swept
        + [row["rows"], row["left_out"], row["seeds"], f"{row['gain_percent']:+.1f} %"]
        + [between(row["low"], row["high"], "+.1f", " %")]
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
        return [
            [names.dataset_title(row["dataset"]), row["protocol"], row["cem"], attack(row), row["metric"]]
            + [str(row["rows"]), str(row["seeds"]), number(row["change"], *_changed(row))]
            + [between(row["low"], row["high"], *_changed(row))]
            for row in lines[lines["what"] == what].to_dict("records")
        ]

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


def _latex(lines: pd.DataFrame) -> str:
    spec, heads, columns = "", [], []
    for name, texts_of in texts(lines).items():
        if name in NUMBERS:
            aligned = align([Cell(text) for text in texts_of])
            spec, heads, columns = spec + aligned.spec, [*heads, aligned.head(name)], [*columns, aligned.cells]
        else:
            spec, heads, columns = spec + "l", [*heads, name], [*columns, texts_of]
    return rendered("tex", "verdicts", spec=Latex(spec), heads=heads, rows=zip(*columns, strict=True))
