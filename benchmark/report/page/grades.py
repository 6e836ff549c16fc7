"""The tables with each cell's deviation from the published value, graded for colour, sign and words."""

from dataclasses import dataclass

from benchmark.analysis.diff import TOLERANCES
from benchmark.analysis.names import base_metric
from benchmark.report.table import Cell, Column, Row, Table
from benchmark.report.tables import NOT_IN_SUITE

STEPS = (1, 2, 4)  # tolerances; a deviation beyond the i-th has grade i + 1


@dataclass(frozen=True)
class Graded:
    """A cell of the page. grade: 0 within tolerance, 1 to 3 beyond it, None if it cannot be judged: without a published
    value or a tolerance, at another setting than the published one, or doubtful.

    difference: signed, "" if there is none; hint: the full explanation in words, "" without a published value.
    """

    cell: Cell
    grade: int | None
    higher: bool
    difference: str
    hint: str


@dataclass(frozen=True)
class Shown:
    """The part of a table on the page. rows: those with a cell of the suite; absent: labels of printed rows that the
    suite lacks; notes: of the rows shown; numbers: a note's number in the table -> its number among these.
    """

    rows: list[Row]
    absent: list[str]
    notes: list[str]
    numbers: dict[int, int]


def shown(table: Table) -> Shown:
    absent = table.notes.index(NOT_IN_SUITE) + 1 if NOT_IN_SUITE in table.notes else 0
    inside = [any(absent not in cell.notes for cell in row.cells) for row in table.rows]
    rows = [row for row, inner in zip(table.rows, inside, strict=True) if inner]
    lost = [row.label for row, inner in zip(table.rows, inside, strict=True) if not inner]
    used = {number for row in rows for cell in row.cells for number in cell.notes}
    notes = [note for number, note in enumerate(table.notes, 1) if number in used]
    return Shown(rows, lost, notes, {number: index for index, number in enumerate(sorted(used), 1)})


def graded(table: Table, row: Row) -> list[tuple[Column, Graded]]:
    """Each cell with its column."""
    return [(column, _graded(row, column, cell)) for column, cell in zip(table.columns, row.cells, strict=True)]


def _graded(row: Row, column: Column, cell: Cell) -> Graded:
    if not cell.behind:
        return Graded(cell, None, False, "", "")
    if row.defense == "average" and cell.notes:  # of fewer rows than the printed one
        return Graded(cell, None, False, "", f"published {cell.behind}, of all rows")
    if cell.value is None or not cell.comparable:
        return Graded(cell, None, False, "", f"published {cell.behind}")
    published = float(cell.behind)
    difference = cell.value - published
    kind, tolerance = TOLERANCES.get(base_metric(column.metric), ("relative", None))
    share = f" ({difference / abs(published):+.0%})" if published else ""
    text = f"{difference:+.{column.decimals}f}"
    unit = abs(published) if kind == "relative" else 1
    grade = None if tolerance is None else _grade(abs(difference), tolerance * unit)
    words = {None: "", 0: ", within tolerance"}.get(grade, ", beyond tolerance")
    return Graded(cell, grade, difference > 0, text, f"published {cell.behind}, difference {text}{share}{words}")


def _grade(size: float, allowed: float) -> int:
    return sum(size > step * allowed * (1 + 1e-9) for step in STEPS)
