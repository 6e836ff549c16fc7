"""The tables with each cell's deviation from the published value, graded for colour, sign and words."""

from dataclasses import dataclass

from benchmark.report.diff import TOLERANCES
from benchmark.report.names import base_metric
from benchmark.report.tables import Cell, Column, Row, Table

STEPS = (1, 2, 4)  # tolerances; a deviation beyond the i-th has grade i + 1


@dataclass(frozen=True)
class Graded:
    """A cell of the page. grade: 0 within tolerance, 1 to 3 beyond it, None without a published value or a tolerance.

    difference: signed, "" where there is none; hint: the whole of it in words.
    """

    cell: Cell
    grade: int | None
    higher: bool
    difference: str
    hint: str


def graded(table: Table, row: Row) -> list[tuple[Column, Graded]]:
    return [(column, _graded(column, cell)) for column, cell in zip(table.columns, row.cells, strict=True)]


def _graded(column: Column, cell: Cell) -> Graded:
    if not cell.behind:
        return Graded(cell, None, False, "", "no published value")
    if cell.value is None:
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
