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
    """group: the heading above it, or ""; attacker, split: of its numbers, where all are of one; decimals: of these."""

    group: str
    heading: str
    attacker: str = ""
    split: str = ""
    metric: str = ""
    decimals: int = 0

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


def grouped(columns: Iterable[Column]) -> list[Group]:
    parts = groupby(columns, key=lambda column: column.group)
    return [Group(title, [column.heading for column in part]) for title, part in parts]


def number_of(note: str, notes: list[str]) -> int:
    """The number of a note in a table's `notes`, to which it is added if it is new; equal texts share a number."""
    if note not in notes:
        notes.append(note)
    return notes.index(note) + 1


@dataclass(frozen=True)
class Table:
    """name: stem of its files; number: as printed; stub: heading of the row labels; notes: counted from 1.

    dataset, protocol: of all cells, or ""; columns: those of `groups`, flat, with what their cells are of.
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
