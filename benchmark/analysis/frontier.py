"""Accuracy against MSE with CEM off and on: the settings that no other beats in both, and CEM's gain at equal
accuracy."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from benchmark.analysis.intervals import PERCENTILES, RESAMPLES
from benchmark.analysis.strongest import comparable, shared
from benchmark.data import DATASETS
from benchmark.matrix.cells import Point

LINE = ["dataset", "protocol", "defense", "cem", "split"]
ROW = [name for name in LINE if name != "cem"]
_GRID = 201  # accuracies at which two fronts are compared


@dataclass(frozen=True)
class Gain:
    """What CEM does to a frontier. percent: MSE at equal accuracy, mean over the accuracies that both fronts reach (NaN
    where they share none); hypervolume: ratio on / off; each with a 95 % interval over seeds (NaN for one seed)."""

    percent: float
    low: float
    high: float
    hypervolume: float
    hypervolume_low: float
    hypervolume_high: float
    seeds: int


def points(frame: pd.DataFrame, strengths: dict[str, Point]) -> pd.DataFrame:
    """One line for each setting and seed: LINE, strength, seed, accuracy, mse (of the strongest attacker), attacker.

    frame: tidy; strengths: suite (a sweep's point) -> the point. The strongest is the one with the lowest MSE among
    those that all attacked settings of the row have, with CEM and without (strongest.py). A setting without accuracy
    or without such an attacker is left out.
    """
    frame = frame[(frame["status"] == "done") & frame["suite"].isin(strengths)]
    cell = ["suite", *LINE[:4], "seed"]
    accuracy = frame[frame["metric"] == "accuracy_percent"].set_index(cell)["value"].rename("accuracy")
    attacks = shared(comparable(frame), ROW, [*cell, "split"])
    attacks = attacks.loc[attacks.groupby([*cell, "split"])["value"].idxmin()]
    found = attacks.join(accuracy, on=cell, how="inner").rename(columns={"value": "mse"})
    found["strength"] = found["suite"].map(strengths).map(str)
    return found[[*LINE, "strength", "seed", "accuracy", "mse", "attacker"]].reset_index(drop=True)


def front(settings: np.ndarray) -> np.ndarray:
    """Rows of settings [n, 2] (accuracy, MSE) that no other beats in both, by falling accuracy and rising MSE."""
    ordered = settings[np.lexsort((-settings[:, 1], -settings[:, 0]))]
    best = np.maximum.accumulate(np.concatenate([[-math.inf], ordered[:-1, 1]]))
    return ordered[ordered[:, 1] > best]


def on_front(settings: np.ndarray) -> list[bool]:
    """Whether each row of settings is one that no other beats in both."""
    best = {tuple(row) for row in front(settings)}
    return [tuple(row) in best for row in settings]


def hypervolume(settings: np.ndarray, chance: float) -> float:
    """Area of (accuracy above `chance`) x (MSE above 0) that the settings' front covers."""
    inside = front(settings)
    inside = inside[inside[:, 0] > chance]
    heights = np.diff(np.concatenate([[0.0], inside[:, 1]]))
    return float(((inside[:, 0] - chance) * heights).sum())


def log_gain(off: np.ndarray, on: np.ndarray) -> float:
    """Mean of log(MSE on / MSE off) at equal accuracy, over the accuracies that both fronts span; NaN where none.

    A point between two settings of a front can be reached by using either encoder at random, if the server knows which.
    """
    fronts = [front(side)[::-1] for side in (off, on)]
    low = max(side[0, 0] for side in fronts)
    high = min(side[-1, 0] for side in fronts)
    if low >= high:
        return math.nan
    grid = np.linspace(low, high, _GRID)
    errors = [np.interp(grid, side[:, 0], side[:, 1]) for side in fronts]
    return float(np.mean(np.log(errors[1] / errors[0])))


def gain(off: np.ndarray, on: np.ndarray, chance: float, seed: int = 0) -> Gain:
    """off, on: [seeds, settings, 2] of (accuracy, MSE), the same seeds in the same order; a setting is its mean.

    The interval resamples seeds, both sides together, and computes both fronts again; a resample whose fronts share no
    accuracy is left out.
    """
    count = len(off)
    middle = _measured(off.mean(0), on.mean(0), chance)
    low = high = (math.nan, math.nan)
    if count > 1:
        rng = np.random.default_rng(seed)
        drawn = [rng.integers(count, size=count) for _ in range(RESAMPLES)]
        found = np.array([_measured(off[rows].mean(0), on[rows].mean(0), chance) for rows in drawn])
        if not np.isnan(found).all(axis=0).any():
            low, high = np.nanpercentile(found, PERCENTILES, axis=0)
    percent = [100 * math.expm1(side[0]) for side in (middle, low, high)]
    return Gain(*percent, float(middle[1]), float(low[1]), float(high[1]), count)


def _measured(off: np.ndarray, on: np.ndarray, chance: float) -> tuple[float, float]:
    """(log gain, ratio of hypervolumes)."""
    without = hypervolume(off, chance)
    return log_gain(off, on), hypervolume(on, chance) / without if without > 0 else math.nan


def averaged(found: pd.DataFrame) -> pd.DataFrame:
    """Of `points`: seeds averaged; on_front: whether no other setting of the same line is better in both."""
    means = found.groupby([*LINE, "strength"], sort=False, as_index=False).agg(
        seeds=("seed", "nunique"), accuracy=("accuracy", "mean"), mse=("mse", "mean")
    )
    means["on_front"] = False
    for _, part in means.groupby(LINE, sort=False):
        means.loc[part.index, "on_front"] = on_front(part[["accuracy", "mse"]].to_numpy())
    return means


def gains(found: pd.DataFrame) -> pd.DataFrame:
    """Of `points`: for each row and form of CEM, its Gain over the row without, at the seeds and strengths of both."""
    lines = []
    for row, part in found.groupby(ROW, sort=False):
        chance = 100 / DATASETS.get(row[0]).classes
        for cem in sorted(set(part["cem"]) - {"off"}):
            both = _paired(part, cem)
            if both is not None:
                lines.append(dict(zip(ROW, row, strict=True)) | {"cem": cem} | vars(gain(*both, chance)))
    return pd.DataFrame(lines, columns=[*ROW, "cem", *Gain.__annotations__])


def _paired(part: pd.DataFrame, cem: str) -> tuple[np.ndarray, np.ndarray] | None:
    """[seeds, settings, 2] without and with CEM, for the settings that both sides have and the seeds that all of these
    have; None if there is none."""
    sides = part[part["cem"].isin(["off", cem])]
    both = sides[sides.groupby("strength")["cem"].transform("nunique") == 2]
    table = both.pivot(index="seed", columns=["cem", "strength"], values=["accuracy", "mse"]).dropna()
    if table.empty:
        return None
    off, on = (np.stack([table[name][side] for name in ("accuracy", "mse")], axis=2) for side in ("off", cem))
    return off, on
