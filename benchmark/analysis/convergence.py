"""Whether an attack was still improving when it ended, told from its history: the rule, in one place.

The mean loss of the last fifth of the epochs is set against that of the fifth before. An attack whose loss still fell
by LIMIT percent or more from the one to the other has not converged: a longer one may rebuild more, so its MSE says
less about the defence. Fewer than FEWEST epochs are too few to tell. A flat loss is necessary, not sufficient: a
schedule that ends at a learning rate of 0 flattens every loss, and a bad attack may be flat from the start (for that,
`mse_of_mean_image` in the metrics is what knowing nothing would give).
"""

import math
from pathlib import Path

from benchmark.analysis import history

METRIC = "converged"  # in the tidy frame: 1 for yes, 0 for no and for too short
FEWEST, LIMIT = 5, 2.0
NOTE = "not shown to have converged (attacks.md): a longer attack may rebuild more"


def decrease_percent(losses: list[float]) -> float | None:
    """By how much the loss fell over the last fifth of the epochs; None for too few epochs, or none to fall from."""
    if len(losses) < FEWEST:
        return None
    fifth = len(losses) // FEWEST
    before, last = math.fsum(losses[-2 * fifth : -fifth]), math.fsum(losses[-fifth:])
    return 100 * (1 - last / before) if before else None


def verdict(decrease: float | None) -> str:
    """`yes`, `no` or `too short`."""
    return "too short" if decrease is None else "yes" if decrease < LIMIT else "no"


def read_losses(path: Path) -> list[float] | None:
    """The loss of each epoch in a history.csv; None where there is none. UserError for a damaged one."""
    epochs = history.read(path)
    if epochs and not all("loss" in epoch for epoch in epochs):
        raise history.damaged(path, "it has no losses")
    return None if epochs is None else [epoch["loss"] for epoch in epochs]
