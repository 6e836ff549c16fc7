"""Tables in LaTeX: text printed literally, and numbers aligned at their decimal points (siunitx)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from benchmark.report.table import Cell, Row, Table

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"{\char34}",  # some language packages make the plain one a command
    "[": "{[}",  # at the start of a row it would be read as the option of the \\ before it
    "]": "{]}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "±": r"$\pm$",
    "–": "--",
    "λ": r"$\lambda$",
    "σ": r"$\sigma$",
} | {char: "\\" + char for char in "&%$#_{}"}
_NUMBER = re.compile(r"([+-]?\d+(?:\.\d+)?)(?: (±.*|\(.*\)|%))?")  # and what follows it
_FILE = re.compile(r" ?\([^()]*\b[\w/-]+\.(?:md|csv)\b[^()]*\)")
SETUP = r"\sisetup{detect-weight,mode=text,group-digits=false,retain-explicit-plus}"  # of every such table


class Latex(str):
    """Text that is LaTeX already."""


def escape_latex(item) -> str:
    """Text that LaTeX prints literally; a character its fonts may lack becomes its code point (U+4E2D)."""
    return item if isinstance(item, Latex) else "".join(_latex_character(char) for char in str(item))


def _latex_character(char: str) -> str:
    if char in _LATEX:
        return _LATEX[char]
    if char < " " or "\x7f" <= char <= "\x9f":
        return " "
    return char if char <= "\xff" else f"U+{ord(char):04X}"


def within_paper(text: str) -> str:
    """A sentence without brackets that name a file of this project, which a paper's reader does not have."""
    return _FILE.sub("", text)


@dataclass(frozen=True)
class Aligned:
    """A column of numbers as one or more LaTeX columns. cells: one text per line, with the & between them."""

    spec: str
    width: int
    cells: list[Latex]

    def head(self, title: str) -> Latex:
        return Latex(rf"\multicolumn{{{self.width}}}{{c}}{{{escape_latex(title)}}}")


def align(cells: Sequence[Cell]) -> Aligned:
    """Numbers in an S column; any text after them, notes and brackets in columns of their own."""
    split = [_NUMBER.fullmatch(cell.text) for cell in cells]
    numbers = [found[1] for found in split if found]
    parts = [(_spec(numbers), [_value(cell, found) for cell, found in zip(cells, split, strict=True)])]
    beside = [escape_latex(found[2]) if found and found[2] else "" for found in split]
    notes = [rf"\textsuperscript{{{','.join(map(str, cell.notes))}}}" if cell.notes else "" for cell in cells]
    behind = [f"({escape_latex(cell.behind)})" if cell.behind else "" for cell in cells]
    # with equal numbers of decimals, so that the decimal points on the right are aligned
    parts += [(r"@{\,}r", beside), ("@{}l", notes), (r"@{\,}r", behind)]
    parts = [parts[0], *(part for part in parts[1:] if any(part[1]))]
    lines = zip(*(texts for _, texts in parts), strict=True)
    return Aligned("".join(spec for spec, _ in parts), len(parts), [Latex(" & ".join(line)) for line in lines])


def _spec(numbers: list[str]) -> str:
    if not numbers:
        return "c"
    whole, _, decimals = zip(*(number.lstrip("+-").partition(".") for number in numbers), strict=True)
    sign = "+" if any(number[0] in "+-" for number in numbers) else ""
    places = max(map(len, decimals))
    form = f"{sign}{max(map(len, whole))}" + (f".{places}" if places else "")
    return f"S[table-format={form}]"


def _value(cell: Cell, found: re.Match | None) -> str:
    if found is None:
        return f"{{{escape_latex(cell.text)}}}"
    return rf"\bfseries {found[1]}" if cell.bold else found[1]


@dataclass(frozen=True)
class Layout:
    """A table's columns as LaTeX. spec: without the row labels'; titles: of the groups; rules: below them (first,
    last); heads: of the columns; rows: (what is above: "", "space" or "rule", the label, the cells)."""

    spec: Latex
    titles: list[Latex]
    rules: list[tuple[int, int]]
    heads: list[Latex]
    rows: list[tuple[str, str, list[Latex]]]


def layout(table: Table) -> Layout:
    """The LaTeX layout of a table; rows of one defence are together, with a gap before the next defence."""
    columns = [align([row.cells[place] for row in table.rows]) for place in range(len(table.columns))]
    titles, rules, place, first = [], [], 0, 2
    for group in table.groups:
        wide = sum(column.width for column in columns[place : place + len(group.columns)])
        titles.append(Latex(rf"\multicolumn{{{wide}}}{{c}}{{{escape_latex(group.title)}}}"))
        rules += [(first, first + wide - 1)] if group.title else []
        place, first = place + len(group.columns), first + wide
    heads = [aligned.head(column.heading) for aligned, column in zip(columns, table.columns, strict=True)]
    lines = zip(*(column.cells for column in columns), strict=True) if columns else ([] for _ in table.rows)
    above = ["rule" if table.rows and table.rows[0].rule_above else "", *(_above(*two) for two in pairwise(table.rows))]
    rows = [(what, row.label, list(line)) for what, row, line in zip(above, table.rows, lines, strict=False)]
    return Layout(Latex("".join(column.spec for column in columns)), titles, rules, heads, rows)


def _above(before: Row, row: Row) -> str:
    if row.rule_above:
        return "rule"
    return "space" if row.defense != before.defense else ""
