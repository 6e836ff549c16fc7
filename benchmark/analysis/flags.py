"""Signs in a tidy frame that a row's attack was too weak for its number to say much about the defence.

In the manner of AutoAttack (Croce & Hein, ICML 2020), which checks an evaluation by its own results. A flag is not a
verdict: it says where to look, and what a stronger attack would probably change. Errors are compared over the seeds
that both sides have, among the attackers of strongest.py.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import pandas as pd

from benchmark.analysis import convergence
from benchmark.analysis.names import attacker_title
from benchmark.analysis.strongest import comparable
from benchmark.matrix.cells import Point

ROW = ["suite", "protocol", "dataset", "defense", "cem", "split"]
COLUMNS = [*ROW, "flag", "attacker", "percent", "text"]
CLOSED_FORMS = ("ridge", "kernel")
LIMIT = 5.0  # percent by which another attacker has to beat the decoder
FEWEST_SEEDS = 3  # each draws noise and masks of its own
BUDGETS = ("epochs", "iterations")  # parameters of attackers


def flags(frame: pd.DataFrame, random: Collection[str], swept: Mapping[str, Point]) -> pd.DataFrame:
    """All flags of a tidy frame (see frame.py), a line each, in the order of the rows; the columns are COLUMNS.

    random: the defences that draw noise or masks; swept: suite (a sweep's point) -> the point. percent: by how much,
    NaN if that does not apply.
    """
    parts = [decoder_beaten(frame), still_falling(frame, swept), closed_form_wins(frame), few_draws(frame, random)]
    return pd.concat(parts, ignore_index=True).sort_values([*ROW, "flag", "attacker"], ignore_index=True)


def decoder_beaten(frame: pd.DataFrame) -> pd.DataFrame:
    """`decoder_beaten`: another attacker's MSE is more than 5 % below the printed decoder's. The strongest is named."""

    def of_row(errors: pd.DataFrame) -> list[tuple[str, float, str]]:
        best, gain = _best(errors, errors.columns.difference(["decoder"]), "decoder")
        text = f"{attacker_title(best)} rebuilds with an MSE {gain:.1f} % below the decoder's"
        return [(best, gain, text)] if gain > LIMIT else []

    return _each_row(frame, "decoder_beaten", of_row)


def closed_form_wins(frame: pd.DataFrame) -> pd.DataFrame:
    """`closed_form_wins`: an attacker without training rebuilds better than the named network, which has failed."""

    def of_row(errors: pd.DataFrame) -> list[tuple[str, float, str]]:
        found = []
        for name in errors.columns.difference(CLOSED_FORMS):
            best, gain = _best(errors, [form for form in CLOSED_FORMS if form in errors], name)
            if gain > 0:
                text = f"{attacker_title(best)}, a closed form, beats {attacker_title(name)} by {gain:.1f} %"
                found.append((name, gain, text))
        return found

    return _each_row(frame, "closed_form_wins", of_row)


def still_falling(frame: pd.DataFrame, swept: Mapping[str, Point]) -> pd.DataFrame:
    """`still_falling`: a larger budget would help. Either the attack's history in any seed says so (convergence.py;
    without a number), or the MSE falls by 2 % or more between the two largest budgets of a sweep over epochs or
    iterations."""
    lines = []
    open_ones = frame[(frame["metric"] == convergence.METRIC) & (frame["value"] == 0)]
    for key, _ in open_ones.groupby([*ROW, "attacker"], sort=True):
        text = f"{attacker_title(key[-1])} was not shown to have converged"
        lines.append((*key[:-1], "still_falling", key[-1], math.nan, text))
    points: dict[tuple, dict[Any, dict[Any, float]]] = {}
    for row in _errors(frame).itertuples():
        point = swept.get(row.suite)
        if point and point.path in [f"attacks.{row.attacker}.{name}" for name in BUDGETS]:
            key = (row.suite.removesuffix(f" {point}"), *(getattr(row, name) for name in ROW[1:]), row.attacker)
            points.setdefault(key, {}).setdefault(point.value, {})[row.seed] = row.value
    for key, budgets in points.items():
        if len(budgets) < 2:
            continue
        (less, before), (more, after) = sorted(budgets.items())[-2:]
        fall = _below(pd.DataFrame({"before": before, "after": after}), "after", "before")
        if fall >= convergence.LIMIT:
            text = f"{attacker_title(key[-1])} gains {fall:.1f} % of MSE from budget {less} to {more}"
            lines.append((*key[:-1], "still_falling", key[-1], fall, text))
    return pd.DataFrame(lines, columns=COLUMNS)


def few_draws(frame: pd.DataFrame, random: Collection[str]) -> pd.DataFrame:
    """`few_draws`: the defence is random, and the named attack was scored in fewer than 3 seeds.

    random: the defences that draw noise or masks. Each seed sends every image once.
    """
    lines = []
    for key, part in _errors(frame).groupby([*ROW, "attacker"], sort=True):
        count = part["seed"].nunique()
        if key[ROW.index("defense")] in random and count < FEWEST_SEEDS:
            text = f"a random defence, scored over {count} {'draw' if count == 1 else 'draws'}"
            lines.append((*key[:-1], "few_draws", key[-1], math.nan, text))
    return pd.DataFrame(lines, columns=COLUMNS)


def _each_row(
    frame: pd.DataFrame, flag: str, of_row: Callable[[pd.DataFrame], list[tuple[str, float, str]]]
) -> pd.DataFrame:
    """of_row: MSE, a line for each seed and a column for each attacker -> (attacker, percent, text) of the flags."""
    lines = []
    for key, part in comparable(frame).groupby(ROW, sort=True):
        found = of_row(part.pivot(index="seed", columns="attacker", values="value"))
        lines += [(*key, flag, *one) for one in found]
    return pd.DataFrame(lines, columns=COLUMNS)


def _errors(frame: pd.DataFrame) -> pd.DataFrame:
    """The MSE of the attacks that are done."""
    return frame[(frame["metric"] == "mse") & (frame["status"] == "done")]


def _best(errors: pd.DataFrame, attackers: Iterable[str], other: str) -> tuple[str, float]:
    """The attacker that is furthest below another, and by how many percent; -inf if there is none."""
    gains = {name: _below(errors, name, other) for name in attackers}
    return max(gains.items(), key=lambda item: item[1], default=("", -math.inf))


def _below(errors: pd.DataFrame, name: str, other: str) -> float:
    """Percent by which one column's mean is below another's, over the seeds of both; -inf if there are none."""
    if other not in errors:
        return -math.inf
    both = errors[[name, other]].dropna()
    mean, base = both[name].mean(), both[other].mean()
    return 100 * (1 - mean / base) if base > 0 else -math.inf
