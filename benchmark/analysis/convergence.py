"""The rule that tells from its history whether an attack was still improving when it ended.

The mean loss of the last fifth of the epochs is compared with that of the fifth before. If the loss still fell by
LIMIT percent or more between them, the attack has not converged: a longer one may rebuild better, so its MSE says
less about the defence. Fewer than FEWEST epochs are too few to tell. A flat loss is necessary but not sufficient: a
schedule that ends at a learning rate of 0 flattens every loss, and a bad attack may be flat from the start (compare
it with the mean-image baseline, `mse_of_mean_image` in the metrics).
"""

import math
from pathlib import Path

from benchmark.analysis import history

METRIC = "converged"  # in the tidy frame: 1 for yes, 0 for no and for too short
FEWEST, LIMIT = 5, 2.0
NOTE = "not shown to have converged (attacks.md): a longer attack may rebuild more"


def decrease_percent(losses: list[float]) -> float | None:
    """By how much the loss fell over the last fifth of the epochs; None for too few epochs or a zero loss."""
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
