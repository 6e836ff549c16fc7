"""CEM on against off, paired by seed: one `Pair` for each row, attacker, split and metric of a tidy frame."""

import math
from dataclasses import dataclass

import pandas as pd

from benchmark.report.frame import tidy
from benchmark.report.names import base_metric

ROW = ["suite", "protocol", "dataset", "defense", "cem", "attacker", "split", "metric"]


@dataclass(frozen=True)
class Pair:
    """One row with CEM against the same row without. off, on: values by seed, for the seeds that have both.

    keys: (off, on) job keys by seed; lost: seeds that only one side or neither has.
    """

    suite: str
    protocol: str
    dataset: str
    defense: str
    cem: str
    attacker: str
    split: str
    metric: str
    off: dict[str, float]
    on: dict[str, float]
    keys: dict[str, tuple[str, str]]
    lost: tuple[str, ...]

    @property
    def relative(self) -> bool:
        """Whether the change is measured as log(on / off): an MSE differs by factors from row to row."""
        return base_metric(self.metric) == "mse"

    def changes(self) -> list[float]:
        """One a seed: log(on / off) for an MSE, else on - off in the metric's own unit."""
        pairs = [(self.off[seed], self.on[seed]) for seed in self.off]
        return [math.log(on / off) if self.relative else on - off for off, on in pairs]


def pairs(frame: pd.DataFrame) -> list[Pair]:
    """Every row of a tidy frame that has a side with CEM and one without, in the frame's order.

    A seed enters where both sides are done (and positive, where the change is a ratio). Raises UserError for a frame
    that is not tidy.
    """
    frame = tidy(frame)
    sides: dict[tuple, dict[str, object]] = {}
    for row in frame.itertuples(index=False):
        sides.setdefault(tuple(getattr(row, name) for name in ROW), {})[row.seed] = row
    found = []
    for cell, on in sides.items():
        off = sides.get((*cell[:4], "off", *cell[5:]))
        if cell[4] != "off" and off is not None:
            found.append(_pair(cell, off, on))
    return found


def _pair(cell: tuple, off: dict, on: dict) -> Pair:
    positive = base_metric(cell[-1]) == "mse"

    def usable(row) -> bool:
        return row is not None and row.status == "done" and (row.value > 0 or not positive)

    seeds = sorted(set(off) | set(on), key=lambda text: text.zfill(20))
    both = [seed for seed in seeds if usable(off.get(seed)) and usable(on.get(seed))]
    return Pair(
        *cell,
        off={seed: off[seed].value for seed in both},
        on={seed: on[seed].value for seed in both},
        keys={seed: (off[seed].key, on[seed].key) for seed in both},
        lost=tuple(seed for seed in seeds if seed not in both),
    )
