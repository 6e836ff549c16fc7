"""Printed numbers: how they are looked up, and how they are rounded."""

from collections.abc import Sequence
from decimal import ROUND_FLOOR, ROUND_HALF_UP, Decimal
from fractions import Fraction
from typing import NamedTuple

import pandas as pd

from benchmark.analysis import names


class Cell(NamedTuple):
    """A cell of one printed table."""

    table: str
    dataset: str
    defense: str
    cem: str
    attacker: str
    split: str
    metric: str


COLUMNS = [*Cell._fields]

# table of MSE -> table of SSIM and PSNR of the same runs
SAME_RUNS = {"1": "S1", "2": "S3", "3": "S4", "S5": "S2"}


def cells(frame: pd.DataFrame) -> dict[Cell, Decimal]:
    """The printed value of each cell, exact as printed (published.load() or a frame of the same columns)."""
    rows = frame[[*COLUMNS, "value"]].itertuples(index=False)
    return {Cell(*cell): Decimal(repr(float(value))) for *cell, value in rows}


def decimals(metric: str) -> int:
    return names.metric(metric).decimals


def rounded(value: Fraction | float, digits: int) -> Decimal:
    """Rounds half up, as printed tables do."""
    return _exact(value).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)


def truncated(value: Fraction | float, digits: int) -> Decimal:
    return _exact(value).quantize(Decimal(1).scaleb(-digits), ROUND_FLOOR)


def _exact(value: Fraction | float) -> Decimal:
    """To 20 digits: enough to tell whether a mean of printed numbers really ends in a 5."""
    if isinstance(value, Fraction):
        return Decimal(value.numerator) / Decimal(value.denominator)
    return Decimal(repr(float(value)))


def mean(values: Sequence[Decimal | Fraction]) -> Fraction:
    return sum((Fraction(value) for value in values), Fraction(0)) / len(values)
