"""The claims of the paper, each with a verdict by the rules of docs/STATISTICS.md."""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import pandas as pd

from benchmark.analysis import baseline
from benchmark.analysis.doubts import Doubts
from benchmark.analysis.intervals import (
    Effect,
    bootstrap_aggregate,
    bootstrap_log_ratio,
    effect,
    holm,
    interquartile_mean,
)
from benchmark.analysis.names import METRICS, base_metric, chooses, family
from benchmark.analysis.paired import CELL, Pair, pairs

ALPHA = 0.05
SUPPORTED, NOT_SUPPORTED, UNDECIDED = "supported", "not supported", "undecided"
BLIND = "with CEM and without, the attack is no better than the mean image"

# metric -> (claim, sign of the claimed change, smallest change that matters)
DIRECTED = {
    name: (f"CEM {'raises' if metric.raises else 'lowers'} {metric.title}", +1 if metric.raises else -1, metric.margin)
    for name, metric in METRICS.items()
    if name in ("mse", "ssim", "psnr_db")
}
UNCHANGED = {"accuracy_percent": ("CEM leaves accuracy unchanged", METRICS["accuracy_percent"].margin)}

COLUMNS = ["claim", *CELL, "point", "again", "seeds", "off", "on", "change"]
COLUMNS += ["low", "high", "p", "p_holm", "effect_size"]
OVER_IMAGES = ["image_low", "image_high", "images_harder_percent"]  # from per-image values, which are not shared
COLUMNS += [*OVER_IMAGES, "verdict", "reason"]

# (job key without CEM, with CEM, metric) -> the per-image values of both, or None where they were not kept
Images = Callable[[str, str, str], tuple[np.ndarray, np.ndarray] | None]


@dataclass(frozen=True)
class _Row:
    pair: Pair
    effect: Effect | None  # None if no seed has results both with and without CEM
    doubt: str  # why an attack's change says nothing, "" if it does
    point: str
    again: bool


def verdicts(
    frame: pd.DataFrame, images: Images | None = None, points: Mapping[str, object] = MappingProxyType({})
) -> pd.DataFrame:
    """One line for each claim about a row: the change from CEM off to on, its uncertainty, and the verdict.

    frame: tidy (frame.py). images: reads per-image values, for the bootstrap over seeds and images and the share
    of images that got harder. points: suite -> its point of a sweep. Columns COLUMNS: point ("" for a line that is the
    same at several points, as the accuracy is where only attacks are swept), again (whether it is such a line, and not
    the first: those are counted once), off, on (means over the paired seeds), change with low and high (95 %
    Student t interval over seeds; percent for MSE, else in the metric's unit), p and p_holm (two-sided; adjusted over
    the rows of the same claim, suite, protocol, form of CEM and family of attackers), effect_size (d_z), image_low and
    image_high (95 % bootstrap interval over seeds and images, MSE alone), images_harder_percent. Raises UserError for
    a bad frame.
    """
    lines = []
    found = pairs(frame)
    doubt = _doubts(frame, found)
    families: dict[tuple, list[_Row]] = {}
    standing, seen = Counter(map(_jobs, found)), set()
    for pair in found:
        if pair.metric in DIRECTED or pair.metric in UNCHANGED:
            change = effect([*pair.changes().values()]) if pair.base else None
            jobs = _jobs(pair)
            point = str(points.get(pair.suite, "")) if standing[jobs] == 1 else ""
            row = _Row(pair, change, doubt(pair) if pair.metric in DIRECTED else "", point, again=jobs in seen)
            seen.add(jobs)
            place = (pair.suite, pair.protocol, pair.cem, pair.metric, family(pair.attacker))
            families.setdefault(place, []).append(row)
    for rows in families.values():
        adjusted = holm([math.nan if row.effect is None else row.effect.p for row in rows])
        lines += [_line(row, p, images) for row, p in zip(rows, adjusted, strict=True)]
    return pd.DataFrame(lines, columns=COLUMNS)


def _line(row: _Row, p_holm: float, images: Images | None) -> dict:
    pair, found = row.pair, row.effect
    claim = (DIRECTED.get(pair.metric) or UNCHANGED[pair.metric])[0]
    line = {name: getattr(pair, name) for name in CELL} | {"claim": claim, "seeds": len(pair.base)}
    line |= {"point": row.point, "again": row.again}
    verdict, reason = (UNDECIDED, row.doubt) if row.doubt else judge(pair.metric, found, p_holm)
    line |= {"verdict": verdict, "reason": "; ".join(text for text in (reason, _lost(pair)) if text)}
    if found is None:
        return line
    shown = _percent if pair.relative else float
    line |= {"off": float(np.mean([*pair.base.values()])), "on": float(np.mean([*pair.other.values()]))}
    line |= {"change": shown(found.mean), "low": shown(found.low), "high": shown(found.high)}
    line |= {"p": found.p, "p_holm": p_holm, "effect_size": found.size}
    return line | _over_images(pair, images)


def once(lines: pd.DataFrame) -> pd.DataFrame:
    """The lines without those that are `again` of the same jobs."""
    return lines[~lines["again"].astype(bool)]


def _jobs(pair: Pair) -> tuple:
    """The same for pairs that are of the same jobs at several points; jobs without keys are their own."""
    keys = tuple(pair.keys.items())
    return (*pair.cell[1:], keys) if keys and all(all(both) for _, both in keys) else pair.cell


def _doubts(frame: pd.DataFrame, found: list[Pair]) -> Callable[[Pair], str]:
    """Of a pair of attacks, why its change says nothing about CEM, "" if it does.

    Either the attack learns nothing on both sides, or a classifier is at chance on one of them: a feature without
    information is hard to invert, whatever made it so.
    """
    blind = {pair.cell[:-1] for pair in found if pair.metric == baseline.METRIC and _sees_nothing(pair)}
    doubts = Doubts(frame)

    def doubt(pair: Pair) -> str:
        row = (pair.suite, pair.protocol, pair.dataset, pair.defense)
        guessing = doubts.of_change(*row, pair.cem, attacker="", split="")
        return guessing or (BLIND if pair.cell[:-1] in blind else "")

    return doubt


def _sees_nothing(pair: Pair) -> bool:
    """Whether the attack never beats the mean image, in any seed, on either side."""
    return bool(pair.base) and not any((*pair.base.values(), *pair.other.values()))


def judge(metric: str, found: Effect | None, p_holm: float) -> tuple[str, str]:
    """(verdict, reason) for one row; the rules are those of docs/STATISTICS.md."""
    if found is None:
        return UNDECIDED, "no seed has results both with and without CEM"
    if found.n < 2:
        return UNDECIDED, "one seed says nothing about the spread between trainings"
    if metric in UNCHANGED:
        margin = UNCHANGED[metric][1]
        if found.low == found.high:
            return UNDECIDED, "every seed changed alike: an accuracy moves in steps, so the spread is not known"
        if -margin < found.low and found.high < margin:
            return SUPPORTED, f"the interval lies within ±{margin:g}"
        if found.low >= margin or found.high <= -margin:
            return NOT_SUPPORTED, f"the interval lies beyond ±{margin:g}"
        return UNDECIDED, f"the interval crosses ±{margin:g}"
    _, sign, smallest = DIRECTED[metric]
    low, high = sorted((sign * found.low, sign * found.high))
    if p_holm < ALPHA and sign * found.mean > 0:
        return SUPPORTED, "the change is significant after Holm's correction"
    if p_holm < ALPHA:
        return NOT_SUPPORTED, "the change is significant and in the other direction"
    if high < smallest:
        return NOT_SUPPORTED, "a change that matters is excluded by the interval"
    return UNDECIDED, "not significant, and a change that matters is not excluded"


def aggregate(frame: pd.DataFrame, points: Mapping[str, object] = MappingProxyType({})) -> pd.DataFrame:
    """The MSE gain over all rows, for each suite, protocol, data set, form of CEM, split and family of attackers.

    Columns: suite, point (of a sweep, from `points`: suite -> point; ""), protocol, dataset, cem, split, family, rows,
    left_out (rows whose change says nothing: see `verdicts`), seeds (fewest of a row), gain_percent (interquartile mean
    over rows, attackers and seeds of on / off), low, high (95 %, seeds resampled within rows; NaN where a row has one
    seed).
    """
    groups: dict[tuple, list[np.ndarray]] = {}
    left_out: Counter[tuple] = Counter()
    found = pairs(frame)
    doubt = _doubts(frame, found)
    for pair in found:
        if pair.metric == "mse" and pair.base and not chooses(pair.attacker):
            point = str(points.get(pair.suite, ""))
            cell = (pair.suite, point, pair.protocol, pair.dataset, pair.cem, pair.split, family(pair.attacker))
            if doubt(pair):
                left_out[cell] += 1
            else:
                groups.setdefault(cell, []).append(np.array([*pair.changes().values()]))
    lines = []
    for cell, rows in groups.items():
        seeds = min(len(row) for row in rows)
        low, high = bootstrap_aggregate(rows) if seeds > 1 else (math.nan, math.nan)
        middle = interquartile_mean(np.concatenate(rows))
        lines.append([*cell, len(rows), left_out[cell], seeds, _percent(middle), _percent(low), _percent(high)])
    columns = ["suite", "point", "protocol", "dataset", "cem", "split", "family"]
    columns += ["rows", "left_out", "seeds", "gain_percent", "low", "high"]
    return pd.DataFrame(lines, columns=columns)


def _percent(log_ratio: float) -> float:
    return 100 * math.expm1(log_ratio)


def _lost(pair: Pair) -> str:
    """Which seeds do not count; those that were not run are named only beside others that were."""
    absent = [seed for seed in pair.lost if seed not in pair.failed] if pair.base else []
    texts = [f"without seed {', '.join(pair.failed)}, which failed or diverged"] if pair.failed else []
    texts += [f"without seed {', '.join(absent)}, which lacks a side"] if absent else []
    return "; ".join(texts)


def _over_images(pair: Pair, images: Images | None) -> dict:
    """Results from per-image values, if they were kept for every seed."""
    if images is None or base_metric(pair.metric) not in ("mse", "ssim"):
        return {}
    asked = [images(*pair.keys[seed], pair.metric) for seed in pair.base]
    found = [item for item in asked if item is not None]
    if len(found) < len(asked):
        return {}
    sign = DIRECTED[pair.metric][1]
    harder = float(np.mean([np.mean(sign * on > sign * off) for off, on in found]))
    line = {"images_harder_percent": 100 * harder}
    if pair.relative:
        low, high = bootstrap_log_ratio([off for off, _ in found], [on for _, on in found])
        line |= {"image_low": _percent(low), "image_high": _percent(high)}
    return line
