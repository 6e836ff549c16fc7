"""The audit's findings as Markdown, LaTeX and CSV."""

from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from benchmark.analysis import names, published
from benchmark.analysis.audit import ERROR, INCONSISTENT, NOTE, RULES, Finding, audit
from benchmark.analysis.frame import csv_text
from benchmark.analysis.printed import COLUMNS, cells
from benchmark.report.render import escape_markdown, markdown_table, rendered, write_texts

HEADINGS = ["table", "cell", "printed", "expected", "why", "rule", "severity"]


def write(out: Path) -> tuple[list[Path], str]:
    """Audit published.csv and write audit.md, .tex and .csv to the folder `out`; returns (paths, summary)."""
    found = audit(cells(published.load()))
    text = summary(found)
    latex = rendered("tex", "audit", headings=HEADINGS, rows=[*map(texts, found)])
    contents = {"audit.md": _markdown(found, text), "audit.tex": latex, "audit.csv": _csv(found)}
    return write_texts(out, contents), text


def summary(found: list[Finding]) -> str:
    """One line: how many findings there are of each severity and rule."""
    rules = Counter(finding.rule for finding in found)
    return f"{meaning(found)} Rules: {', '.join(f'{rule} {count}' for rule, count in rules.most_common())}."


def meaning(found: list[Finding]) -> str:
    """How many findings there are of each severity, as a sentence that needs no explanation."""
    counts = Counter(finding.severity for finding in found)
    return (
        f"By rules alone, {counts[ERROR]} of the printed numbers are wrong, and {counts[INCONSISTENT]} disagree with "
        f"another one, with a sentence or with the network described; {counts[NOTE]} more are worth a note."
    )


def texts(finding: Finding) -> list[str]:
    """A finding as text, under HEADINGS."""
    table, _, defense, cem, attacker, split, metric = finding.cell
    method = (names.average_label(cem) if defense == "average" else names.row_label(defense, cem)) if defense else ""
    words = [method, attacker, split, metric]
    cell = " ".join(word for word in words if word)
    return [table, cell, finding.printed, finding.expected, finding.why, finding.rule, finding.severity]


def _markdown(found: list[Finding], text: str) -> str:
    rules = "\n".join(f"* `{rule.__name__}`: {escape_markdown(str(rule.__doc__).splitlines()[0])}" for rule in RULES)
    table = markdown_table([*map(texts, found)], HEADINGS)
    intro = "What the printed tables contradict, found by rule from the printed numbers alone. error: a printed number "
    intro += "is wrong; inconsistent: two printed numbers, or a number and a sentence, disagree; note: worth knowing."
    return "\n\n".join(["# Audit of the printed tables", intro, escape_markdown(text), table, "Rules:", rules]) + "\n"


def _csv(found: list[Finding]) -> str:
    rows = [dict(zip(COLUMNS, finding.cell, strict=True)) | asdict(finding) for finding in found]
    columns = [*COLUMNS, "printed", "expected", "why", "rule", "severity"]
    return csv_text(pd.DataFrame(rows, columns=columns))
