"""A diff for people: in a terminal, as plain text, and as a comment on a pull request."""

import os
from pathlib import Path

import pandas as pd
from rich.table import Table
from rich.text import Text
from tabulate import tabulate

from benchmark.analysis import names, transfer
from benchmark.analysis.diff import BAD, attack, diff, excess, exit_status, method, summary
from benchmark.departures import parted
from benchmark.output import Console, say_lines
from benchmark.report.numbers import number
from benchmark.report.render import escape_markdown, markdown_table, write_text

COMMENT = 65_536  # characters that GitHub takes in a comment
WORST = 20  # lines that a comment shows without being opened
STYLES = {"within": "green", "beyond": "bold red", "not judged": "dim"} | dict.fromkeys(BAD[:3], "yellow")
MARKS = {"within": "✓", "beyond": "✗", "not judged": "·"} | dict.fromkeys(BAD[:3], "–")
HEADINGS = ["data set", "protocol", "method", "attack", "metric", "reference", "produced"]
HEADINGS += ["difference", "relative", "tolerance", "verdict"]
ALIGN = ["left"] * 5 + ["right"] * 5 + ["left"]


def compare(
    reference: pd.DataFrame, produced: pd.DataFrame, tolerances: dict[str, float], markdown: Path | None
) -> int:
    """Print every cell of `produced` beside that of `reference` (tidy), and write it as Markdown if a file is given;
    returns the exit status of `diff`. tolerances: as in analysis/diff.py. UserError if no cell is in both."""
    result = diff(reference, produced, tolerances)
    show(result)
    if markdown:
        write_text(markdown, to_markdown(result))
    return exit_status(result)


def show(result: pd.DataFrame) -> None:
    """Print a diff: in colour on a terminal, else (and where NO_COLOR is set) as plain text."""
    console = Console(highlight=False)
    if not console.is_terminal or os.environ.get("NO_COLOR"):
        say_lines(to_text(result).removesuffix("\n"))
        return
    for line in _reductions(result):
        console.print(Text(line, style="yellow"))
    for (dataset, protocol), part in result.groupby(["dataset", "protocol"], sort=False):
        title = Text(f"{names.dataset_title(dataset)}, protocol {protocol}", style="bold")
        console.print(_coloured(part, title))
    for title, headings, lines in _transfer(result):
        console.print(Text(title, style="bold"))
        say_lines(_simple(lines, headings) + "\n")
    console.print(Text(summary(result), style="bold red" if exit_status(result) else "bold green"), soft_wrap=True)


def to_text(result: pd.DataFrame) -> str:
    """The diff as plain text: what was reduced, one line a cell, the summary."""
    table = _simple(_lines(result), HEADINGS, colalign=ALIGN)
    more = [f"{title}\n{_simple(lines, headings)}" for title, headings, lines in _transfer(result)]
    return "\n\n".join([*_reductions(result), table, *more, summary(result)]) + "\n"


def to_markdown(result: pd.DataFrame) -> str:
    """The diff as a comment: the summary, cells beyond tolerance or without a value, and all cells, folded.

    At most COMMENT characters; the lines that do not fit are left out, and counted.
    """
    bad = result[result["verdict"].isin(BAD)]
    bad = bad.loc[excess(bad).sort_values(ascending=False, kind="stable").index]
    mark = "❌" if exit_status(result) else "✅"
    text = [f"{mark} **{escape_markdown(summary(result))}**", *map(escape_markdown, _reductions(result))]
    room = COMMENT - len("\n\n".join(text)) - 1000  # for the words around the tables
    for title, headings, lines in _transfer(result):
        table = _pipe(lines, headings)
        if len(table) < room / 2:
            room -= len(table)
            text.append(f"<details>\n<summary>{title}</summary>\n\n{table}\n</details>")
    if len(bad):
        table, shown = _fitting(bad[:WORST], room)
        room -= len(table)
        text += [table] + ([f"… and {len(bad) - shown} more."] if shown < len(bad) else [])
    table, shown = _fitting(result, room)
    text.append(f"<details>\n<summary>All {len(result)} cells</summary>\n\n{table}\n")
    if shown < len(result):
        text.append(f"{len(result) - shown} more do not fit here: `python -m benchmark diff` prints them.\n")
    text.append("</details>")
    return "\n\n".join(text) + "\n"


def _transfer(result: pd.DataFrame) -> list[tuple[str, list[str], list[list[str]]]]:
    """(title, headings, lines) to compare a run that departs from the published setting; [] if it does not."""
    if not _reductions(result):
        return []
    gains, ranks = transfer.lines(result)
    tables = [
        ("What CEM changes, which may transfer from another length", transfer.GAINS_HEADINGS, gains),
        ("How alike the rows are ordered (+1: the same order)", transfer.RANKS_HEADINGS, ranks),
    ]
    return [table for table in tables if table[2]]


def _simple(lines: list[list[str]], headings: list[str], **options) -> str:
    return tabulate(lines, headers=headings, tablefmt="simple", disable_numparse=True, **options)


def _pipe(lines: list[list[str]], headings: list[str], **options) -> str:
    """A Markdown table without padding, which has no meaning there. options: of tabulate."""
    table = markdown_table(lines, headings, **options)
    return "\n".join(" ".join(line.split()) for line in table.splitlines())


def _fitting(rows: pd.DataFrame, room: int) -> tuple[str, int]:
    """A Markdown table of the first rows that fit into `room` characters, and how many they are."""
    lines = _lines(rows)
    shown = len(lines)
    while True:
        table = _pipe(lines[:shown], HEADINGS, colalign=ALIGN)
        if len(table) <= room or not shown:
            return table, shown
        shown = min(shown - 1, shown * room // len(table))


def _coloured(part: pd.DataFrame, title: Text) -> Table:
    """One data set's cells; 80 columns suffice, on fewer the names wrap and the numbers stay whole."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("method", "attack", "metric"):
        table.add_column(heading, overflow="fold")
    for heading in ("expected", "produced", "deviation"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", min_width=9, overflow="fold")
    for row, line in zip(part.to_dict("records"), _lines(part), strict=True):
        reference, produced, difference, relative, tolerance, verdict = line[5:]
        deviation = relative if row["kind"] == "relative" else difference
        style = STYLES[row["verdict"]]
        beyond = f" {tolerance}" if row["verdict"] == "beyond" else ""
        marked = Text(f"{MARKS[row['verdict']]} {verdict}{beyond}", style=style)
        metric = names.metric(row["metric"]).short or row["metric"]
        plain = (Text(str(item)) for item in (*line[2:4], metric, reference, produced))
        table.add_row(*plain, Text(deviation, style=style), marked)
    return table


def _reductions(result: pd.DataFrame) -> list[str]:
    changes = parted(result["label"])
    if not changes:
        return []
    which = "some cells are not" if (result["label"] == "").any() else "the results are not"
    return [f"Reduced: {which} at the published setting: {'; '.join(changes)}"]


def _lines(result: pd.DataFrame) -> list[list[str]]:
    lines = []
    for row in result.to_dict("records"):
        digits = names.metric(row["metric"]).decimals
        percent = row["kind"] == "relative"
        tolerance = row["tolerance"] * 100 if percent else row["tolerance"]
        verdict = row["verdict"] + (f" ({row['reason']})" if row["reason"] else "")
        lines.append(
            [row["dataset"], row["protocol"], method(row), attack(row), row["metric"]]
            + [number(row[name], f".{digits}f") for name in ("reference", "produced")]
            + [number(row["difference"], f"+.{digits}f"), number(row["relative"] * 100, "+.1f", " %")]
            + [number(tolerance, "g", " %" if percent else ""), verdict]
        )
    return lines
