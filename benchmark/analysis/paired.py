"""Two sides of a comparison, paired by seed: CEM on against off, or one protocol against another."""

import math
from dataclasses import dataclass

import pandas as pd

from benchmark.analysis.frame import tidy
from benchmark.analysis.names import base_metric

CELL = ("suite", "protocol", "dataset", "defense", "cem", "attacker", "split", "metric")


@dataclass(frozen=True)
class Pair:
    """One cell against the same cell at the base value of an axis; the fields name the former.

    base, other: values by seed, for the seeds that have both; keys: (base, other) job keys by seed, where both have a
    job; lost: seeds that only one side or neither has; failed: those of lost of which a side failed or diverged.
    """

    suite: str
    protocol: str
    dataset: str
    defense: str
    cem: str
    attacker: str
    split: str
    metric: str
    base: dict[str, float]
    other: dict[str, float]
    keys: dict[str, tuple[str, str]]
    lost: tuple[str, ...]
    failed: tuple[str, ...]

    @property
    def cell(self) -> tuple[str, ...]:
        """The values of CELL."""
        return tuple(getattr(self, name) for name in CELL)

    @property
    def relative(self) -> bool:
        """Whether the change is measured as log(other / base): an MSE differs by factors from row to row."""
        return base_metric(self.metric) == "mse"

    def changes(self) -> dict[str, float]:
        """By seed: log(other / base) for an MSE, else other - base in the metric's own unit."""
        if self.relative:
            return {seed: math.log(self.other[seed] / base) for seed, base in self.base.items()}
        return {seed: self.other[seed] - base for seed, base in self.base.items()}


def pairs(frame: pd.DataFrame, axis: str = "cem", base: str = "off") -> list[Pair]:
    """Every cell of a tidy frame whose `axis` is not `base`, with its counterpart at `base`, in the frame's order.

    A seed counts if both sides are done (and positive, if the change is a ratio); a cell without a counterpart is left
    out. Raises UserError for a frame that is not tidy.
    """
    frame, place = tidy(frame), CELL.index(axis)
    sides: dict[tuple, dict[str, object]] = {}
    for row in frame.itertuples(index=False):
        sides.setdefault(tuple(getattr(row, name) for name in CELL), {})[row.seed] = row
    found = []
    for cell, other in sides.items():
        counterpart = sides.get((*cell[:place], base, *cell[place + 1 :]))
        if cell[place] != base and counterpart is not None:
            found.append(_pair(cell, counterpart, other))
    return found


def _pair(cell: tuple, base: dict, other: dict) -> Pair:
    positive = base_metric(cell[-1]) == "mse"

    def usable(row) -> bool:
        return row is not None and row.status == "done" and (row.value > 0 or not positive)

    def failed(row) -> bool:
        return row is not None and row.status in ("failed", "diverged")

    seeds = sorted(set(base) | set(other), key=lambda text: text.zfill(20))
    both = [seed for seed in seeds if usable(base.get(seed)) and usable(other.get(seed))]
    return Pair(
        *cell,
        base={seed: base[seed].value for seed in both},
        other={seed: other[seed].value for seed in both},
        keys={seed: (base[seed].key, other[seed].key) for seed in seeds if seed in base and seed in other},
        lost=tuple(seed for seed in seeds if seed not in both),
        failed=tuple(seed for seed in seeds if failed(base.get(seed)) or failed(other.get(seed))),
    )
