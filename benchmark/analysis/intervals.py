"""Intervals and tests on a few paired values, and the bootstrap over seeds and images."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student_t

CONFIDENCE = 0.95
RESAMPLES = 1000
PERCENTILES = (100 * (1 - CONFIDENCE) / 2, 100 - 100 * (1 - CONFIDENCE) / 2)  # the ends of a bootstrap interval


@dataclass(frozen=True)
class Effect:
    """The mean of n paired differences with its Student t interval (NaN bounds and p for n < 2).

    p: two-sided, of the mean being 0. size: Cohen's d_z with Hedges' correction for few pairs; NaN for n < 3 (the
    correction is 0 for two) and where the differences do not vary.
    """

    n: int
    mean: float
    low: float
    high: float
    p: float
    size: float


def effect(differences) -> Effect:
    """The Effect of a sequence of finite differences, one a seed; ValueError for an empty one."""
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError("an effect needs at least one difference")
    count, mean = len(values), float(values.mean())
    if count < 2:
        return Effect(count, mean, *[math.nan] * 4)
    spread = float(values.std(ddof=1))
    error = spread / math.sqrt(count)
    half = float(student_t.ppf((1 + CONFIDENCE) / 2, count - 1)) * error
    if spread <= 1e-12 * max(1.0, abs(mean)):  # rounding alone: equal runs, or a planted constant
        return Effect(count, mean, mean, mean, 1.0 if abs(mean) <= 1e-12 else 0.0, math.nan)
    p = 2 * float(student_t.sf(abs(mean) / error, count - 1))
    size = (1 - 3 / (4 * (count - 1) - 1)) * mean / spread if count > 2 else math.nan
    return Effect(count, mean, mean - half, mean + half, p, size)


def holm(p_values) -> list[float]:
    """Holm's step-down adjustment: reject where the adjusted value is below alpha, at family-wise error alpha.

    A NaN (nothing was tested) stays NaN and does not count in the family. Source: Holm, Scand. J. Stat. 6 (1979).
    """
    p = np.asarray(p_values, dtype=np.float64)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    adjusted = np.full(len(p), math.nan)
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(factors * p[order]))
    return adjusted.tolist()


def ends(resampled) -> tuple[float, float]:
    """The ends of the bootstrap interval of a number, from its values in all resamples."""
    low, high = np.percentile(resampled, PERCENTILES)
    return float(low), float(high)


def bootstrap_log_ratio(off: list[np.ndarray], on: list[np.ndarray], seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the mean over seeds of log(mean(on) / mean(off)): seeds, then images, resampled.

    off, on: one array of positive per-image values for each seed; within a seed both are of the same images in the same
    order, and are resampled together. With one seed the interval is only over images: it says how well the test
    images determine the ratio of these two runs, and nothing about another training.
    """
    rng = np.random.default_rng(seed)
    ratios = np.stack([_resampled(a, b, rng) for a, b in zip(off, on, strict=True)])  # [seeds, RESAMPLES]
    seeds = rng.integers(len(ratios), size=(len(ratios), RESAMPLES))
    means = np.take_along_axis(ratios, seeds, axis=0).mean(axis=0)
    return ends(means)


def _resampled(off: np.ndarray, on: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """log(mean(on) / mean(off)) of RESAMPLES resamples of the images, a block of them at a time."""
    both = np.stack([off, on]).astype(np.float64)
    count = both.shape[1]
    block = max(1, 4_000_000 // count)
    found = []
    for start in range(0, RESAMPLES, block):
        chosen = rng.integers(count, size=(min(block, RESAMPLES - start), count))
        means = both[:, chosen].mean(axis=2)
        found.append(np.log(means[1] / means[0]))
    return np.concatenate(found)


def interquartile_mean(values) -> float:
    """Mean of the middle half (25 % trimmed on either side): rliable's aggregate over rows and seeds."""
    ordered = np.sort(np.asarray(values, dtype=np.float64).ravel())
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean())


def bootstrap_aggregate(rows: list[np.ndarray], seed: int = 0) -> tuple[float, float]:
    """95 % interval of the interquartile mean over all rows and seeds: seeds resampled within each row.

    rows: the effects of one row's seeds each. Source: Agarwal et al., NeurIPS 2021 (stratified bootstrap).
    """
    rng = np.random.default_rng(seed)
    drawn = np.concatenate([row[rng.integers(len(row), size=(RESAMPLES, len(row)))] for row in rows], axis=1)
    return ends([interquartile_mean(sample) for sample in drawn])
