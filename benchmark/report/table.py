"""A table as plain data, whatever it is rendered to."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby


@dataclass(frozen=True)
class Cell:
    """text: what is printed; behind: the published value or ""; notes: numbers of the table's notes.

    comparable: False if the number must not be compared with the published one: another setting, or doubtful.
    """

    text: str
    bold: bool = False
    behind: str = ""
    notes: tuple[int, ...] = ()
    value: float | None = None
    half_width: float | None = None
    comparable: bool = True


@dataclass(frozen=True)
class Column:
    group: str
    heading: str
    attacker: str
    split: str
    metric: str
    decimals: int

    @property
    def cell(self) -> dict[str, str]:
        """The attacker and split of the whole column; {} if it is not of an attack."""
        return {"attacker": self.attacker, "split": self.split} if self.attacker else {}


@dataclass(frozen=True)
class Row:
    """defense: a name of the matrix, "average", or "" for other rows."""

    label: str
    cells: list[Cell]
    rule_above: bool = False
    defense: str = ""
    cem: str = ""


@dataclass(frozen=True)
class Group:
    """Neighbouring columns under one heading; title "" for columns without a group."""

    title: str
    columns: list[str]


def grouped(columns: Iterable[tuple[str, str]]) -> list[Group]:
    """The groups of columns, each (title of its group, heading)."""
    parts = groupby(columns, key=lambda column: column[0])
    return [Group(title, [heading for _, heading in part]) for title, part in parts]


@dataclass(frozen=True)
class Table:
    """name: stem of its files; number: as printed; stub: heading of the row labels; notes: counted from 1.

    dataset, protocol: of all cells, or ""; columns: those of `groups`, flat, with what their cells are of, or none.
    departures: the end of the caption, how the cells depart from the published setting, or "".
    """

    name: str
    number: str
    subject: str
    caption: str
    stub: str
    groups: list[Group]
    rows: list[Row]
    notes: list[str]
    dataset: str = ""
    protocol: str = ""
    columns: tuple[Column, ...] = ()
    departures: str = ""

    @property
    def title(self) -> str:
        return f"Table {self.number}: {self.subject}"

    @property
    def width(self) -> int:
        """Columns of cells, the row labels not counted."""
        return sum(len(group.columns) for group in self.groups)

    @property
    def heads(self) -> list[tuple[str, Column | None]]:
        """(heading, description of its cells, if the table has one) of every column."""
        flat = [heading for group in self.groups for heading in group.columns]
        return list(zip(flat, self.columns or [None] * len(flat), strict=True))
