"""The search itself: successive halving over epochs, towards target values. It knows nothing of jobs and files."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from scipy.stats import qmc

from benchmark.matrix.schema import Calibration, Range

Strengths = dict[str, float]
# metrics of a row: ("accuracy_percent",) in percent, ("mse", attacker, split)
Values = dict[tuple[str, ...], float]
# (candidates, epochs) -> the values of each, None for one that failed or diverged
Evaluate = Callable[[list[Strengths], int], list[Values | None]]

ACCURACY_UNIT = 1.0  # percentage points; with MSE_UNIT the tolerances of `diff`, so that 1 is its edge
MSE_UNIT = math.log(1.2)


@dataclass(frozen=True)
class Evaluation:
    """One candidate at one budget. expected: its values extrapolated to the full budget; distance: from these to the
    targets, infinite if there are none."""

    rung: int
    epochs: int
    strengths: Strengths
    values: Values | None
    expected: Values | None
    distance: float


def distance(values: Values | None, targets: Values) -> float:
    """sqrt( (accuracy difference / 1 point)^2 + mean over the MSE targets of (log ratio / log 1.2)^2 ).

    Only over metrics that have a target; at most 1 means that the accuracy and the MSE, in the mean, lie within the
    tolerances of `diff`. Infinite where a value is missing.
    """
    if values is None or not targets.keys() <= values.keys():
        return math.inf
    terms: dict[str, list[float]] = {}
    for metric, target in targets.items():
        terms.setdefault(metric[0], []).append(_offset(metric, values[metric], target) ** 2)
    return math.sqrt(sum(sum(squares) / len(squares) for squares in terms.values()))


def _offset(metric: tuple[str, ...], value: float, target: float) -> float:
    if metric[0] == "mse":
        return math.log(value / target) / MSE_UNIT if value > 0 else math.inf
    return (value - target) / ACCURACY_UNIT


def candidates(anchor: Strengths, ranges: dict[str, Range], settings: Calibration) -> list[Strengths]:
    """The anchor, then a Latin hypercube over the ranges; the same for the same settings."""
    sample = qmc.LatinHypercube(len(ranges), seed=settings.seed).random(settings.candidates - 1)
    found = [dict(anchor)]
    for point in sample:
        found.append({name: _at(ranges[name], float(share)) for name, share in zip(ranges, point, strict=True)})
    return found


def _at(range_: Range, share: float) -> float:
    low, high = range_.low, range_.high
    value = low * (high / low) ** share if range_.scale == "log" else low + (high - low) * share
    return float(f"{value:.3g}")  # short enough to be printed and typed


def rungs(settings: Calibration, epochs: int) -> list[int]:
    """The epochs of each rung, the last the full budget."""
    return sorted({max(1, round(share * epochs)) for share in settings.rungs} | {epochs})


def search(
    anchor: Strengths,
    ranges: dict[str, Range],
    targets: Values,
    epochs: int,
    settings: Calibration,
    evaluate: Evaluate,
    log: Callable[[list[Evaluation]], None] = lambda done: None,
) -> tuple[Evaluation, list[Evaluation]]:
    """(the evaluation at the full budget that is nearest to `targets`, all evaluations in order).

    The anchor is run at every budget. The shortfall of its shorter training - a difference of accuracy, a ratio of MSE
    - is added to every candidate of that rung before it is compared with the targets: targets are for full trainings,
    and in short ones all strengths would seem too strong. The nearest `1 / keep` of each rung go on. Bounded: at most
    `candidates` trainings on the first rung, and the anchor's on the others. Source: Jamieson & Talwalkar 2016.
    """
    budgets = rungs(settings, epochs)
    by_budget = {budget: evaluate([anchor], budget)[0] for budget in budgets}
    full = by_budget[epochs]
    done: list[Evaluation] = []
    alive = candidates(anchor, ranges, settings)
    for index, budget in enumerate(budgets):
        found = []
        for strengths, values in zip(alive, evaluate(alive, budget), strict=True):
            expected = _carried(values, by_budget[budget], full)
            found.append(Evaluation(index, budget, strengths, values, expected, distance(expected, targets)))
        ranked = sorted(found, key=lambda item: item.distance)
        if anchor not in alive:  # trained for the correction alone: part of the record, and in full it may be the best
            found.append(Evaluation(index, budget, anchor, by_budget[budget], full, distance(full, targets)))
        alive = [item.strengths for item in ranked[: math.ceil(len(ranked) / settings.keep)]]
        done += found
        log(done)
    return min(found, key=lambda item: item.distance), done


def _carried(values: Values | None, anchor: Values | None, full: Values | None) -> Values | None:
    """`values` of a short training, corrected to a full one by the anchor's difference; unchanged without an anchor."""
    if values is None or anchor is None or full is None:
        return values
    return {
        metric: value * full[metric] / anchor[metric] if metric[0] == "mse" else value + full[metric] - anchor[metric]
        for metric, value in values.items()
    }
