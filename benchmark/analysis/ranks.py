"""Whether one quantity orders the rows as another does: rank correlations with a bootstrap over defences."""

import math
from typing import NamedTuple

import numpy as np

from benchmark.analysis.intervals import RESAMPLES, ends

FEWEST_ROWS, FEWEST_GROUPS = 4, 3  # below these there is no correlation, or no interval


class Association(NamedTuple):
    """A rank correlation with its 95 % percentile interval; NaN where there are too few rows or no variation."""

    value: float
    low: float
    high: float


def associations(a, b, groups, seed: int = 0) -> tuple[Association, Association]:
    """(Spearman's rho, Kendall's tau-b) of the paired values a [n] and b [n].

    groups [n]: the defence of each row. The bootstrap draws whole defences, whose rows (CEM off and on) are not
    independent of each other; resamples in which one side does not vary are left out.
    """
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if len(a) < FEWEST_ROWS:
        unknown = Association(math.nan, math.nan, math.nan)
        return unknown, unknown
    names, group = np.unique(np.asarray(groups), return_inverse=True)
    times = np.zeros((0, len(a)))
    if len(names) >= FEWEST_GROUPS:
        rng = np.random.default_rng(seed)
        times = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), RESAMPLES)[:, group]
    values = correlations(a, b, np.ones((1, len(a))))[:, 0]
    drawn = correlations(a, b, times)
    first, second = (_interval(float(value), row) for value, row in zip(values, drawn, strict=True))
    return first, second


def correlations(a: np.ndarray, b: np.ndarray, times: np.ndarray) -> np.ndarray:
    """[2, R]: Spearman's rho and Kendall's tau-b if row i occurs times[r, i] times in sample r; NaN if one side does
    not vary.

    tau-b is the correlation of the signs of all pairwise differences, and rho that of the sums of these signs over the
    second row of the pair (twice a row's rank, ties at their mean, less a constant).
    """
    signs = [np.sign(side[:, None] - side) for side in (a, b)]
    ranks = [times @ sign.T for sign in signs]
    rho = _normalised(lambda x, y: (times * ranks[x] * ranks[y]).sum(1))
    tau = _normalised(lambda x, y: ((times @ (signs[x] * signs[y])) * times).sum(1))
    return np.stack([rho, tau])


def _normalised(product) -> np.ndarray:
    """product(0, 1) / sqrt(product(0, 0) product(1, 1)); the sides' means are zero by their antisymmetry."""
    scale = np.sqrt(product(0, 0) * product(1, 1))
    return np.divide(product(0, 1), scale, out=np.full_like(scale, math.nan), where=scale > 0)


def _interval(value: float, drawn: np.ndarray) -> Association:
    drawn = drawn[~np.isnan(drawn)]
    return Association(value, *(ends(drawn) if len(drawn) else (math.nan, math.nan)))
