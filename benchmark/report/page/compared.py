"""The page's second and third answers: is the printed table right, and how do the rows compare with each other?"""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from benchmark.analysis import diff, names, published, transfer
from benchmark.analysis.doubts import Doubts
from benchmark.analysis.leaderboard import leaderboard
from benchmark.errors import UserError
from benchmark.matrix.cells import Point
from benchmark.report.numbers import number

PRINTED_HEADINGS = ["method", "attack", "change by CEM", "printed", "here", "same direction"]
RANKED_HEADINGS = ["rank", "defence", "accuracy, %", "MSE", "strongest attacker"]


@dataclass(frozen=True)
class Answer:
    """The answer of one data set and protocol, or split. cell: its filter axes; sentence: a summary of `lines`; lines:
    (filter axes, the text under each heading)."""

    title: str
    cell: dict[str, str]
    sentence: str
    lines: list[tuple[dict, list[str]]]


def printed(frame: pd.DataFrame) -> list[Answer]:
    """The answers of a tidy frame; [] where nothing of it was printed."""
    try:
        result = diff.diff(published.reference(), frame)
    except UserError:  # no cell in common
        return []
    doubts, found = Doubts(frame), []
    for (suite, protocol, dataset), part in result.groupby(["suite", "protocol", "dataset"], sort=False):
        gains, ranks = transfer.gains(part), transfer.ranks(part)
        places = gains.assign(cem="on")[["suite", "protocol", "dataset", "defense", "cem", "attacker", "split"]]
        gains = gains.loc[[not doubts.of_change(*row) for row in places.itertuples(index=False)]]
        sentence = " ".join(filter(None, (_values(part), _gains(gains), _order(ranks))))
        if sentence:
            cell, title = {"dataset": dataset, "protocol": protocol}, _title(result, suite, protocol, dataset)
            found.append(Answer(title, cell, sentence, _printed_lines(gains)))
    return found


def ranked(frame: pd.DataFrame, strengths: Mapping[str, Point]) -> list[Answer]:
    """The rows of a tidy frame by the strongest attacker's MSE, for each data set and split.

    strengths: suite -> its point of a sweep, which is named with the row.
    """
    board = leaderboard(frame, random=())
    several = board["protocol"].nunique() > 1
    board["shown"] = [  # a sweep has several of each row
        ", ".join(filter(None, (names.row_label(defense, cem), str(strengths.get(suite, "")), protocol * several)))
        for suite, protocol, defense, cem in board[["suite", "protocol", "defense", "cem"]].itertuples(index=False)
    ]
    found = []
    for (dataset, split), part in board.groupby(["dataset", "split"], sort=False):
        own = filter_axes(part, ["dataset", "protocol", "defense", "cem"])
        lines = list(zip(own, map(_ranked, part.itertuples(index=False)), strict=True))
        title = f"{names.dataset_title(dataset)}, split {split}"
        found.append(Answer(title, {"dataset": dataset, "split": split}, _best(part), lines))
    return found


def _title(result: pd.DataFrame, suite: str, protocol: str, dataset: str) -> str:
    several = result["suite"].nunique() > 1  # a sweep has a suite for each of its points
    return f"{names.dataset_title(dataset)}, protocol {protocol}{f', {suite}' if several else ''}"


def _values(part: pd.DataFrame) -> str:
    """What can be said of the absolute values."""
    judged = part[part["verdict"].isin(["within", "beyond"])]
    at_setting = judged[judged["label"] == ""]
    if len(at_setting):
        within = (at_setting["verdict"] == "within").sum()
        return f"{within} of {len(at_setting)} values lie within the tolerance of the printed ones."
    if len(judged):
        return (
            "These runs depart from the published setting (below), so their values are not compared with the printed "
            "ones. Of the changes by CEM, compare the direction; their size is a rough guide."
        )
    return ""


def _gains(gains: pd.DataFrame) -> str:
    """How much CEM changes the attackers' MSE, printed and here."""
    mse = gains[gains["metric"] == "mse"]
    if mse.empty:
        return ""
    printed, here = (f"{100 * (mse[name].median() - 1):+.0f}\u00a0%" for name in ("reference", "produced"))
    same = sum(value is True for value in mse["same_sign"])
    text = f"CEM changes the MSE by {printed} as printed and by {here} here"
    if len(mse) == 1:
        return f"{text}, in one attack."
    where = "all of them" if same == len(mse) else f"{same} of them"
    return f"{text} (medians over {len(mse)} attacks), in the same direction in {where}."


def _order(ranks: pd.DataFrame) -> str:
    rho = ranks[ranks["metric"] == "mse"]["rho"].dropna()
    if rho.empty:
        return ""
    span = f"{rho.min():+.2f}" if rho.min() == rho.max() else f"{rho.min():+.2f} to {rho.max():+.2f}"
    return f"Ordered by MSE, the defences here and in print have a rank correlation of {span}."


def _printed_lines(gains: pd.DataFrame) -> list[tuple[dict, list[str]]]:
    own = filter_axes(gains, ["dataset", "protocol", "defense", "attacker", "split"])
    return [(cell, line[2:]) for cell, line in zip(own, transfer.gain_lines(gains), strict=True)]


def filter_axes(lines: pd.DataFrame, axes: list[str]) -> list[dict[str, str]]:
    """Of each line the filter axes that it has: an accuracy has no attacker."""
    return [{axis: value for axis, value in line.items() if value} for line in lines[axes].to_dict("records")]


def _best(part: pd.DataFrame) -> str:
    """The hardest defence to invert, and those that none beats in both accuracy and MSE."""
    sound = part[part["rank"].notna()]
    if len(sound) < 2:
        return "No two defences can be compared: they are not run, at chance, or the attacks on them learnt nothing."
    if sound["defense"].nunique() == 1 and not sound.duplicated(["protocol", "cem"]).any():  # not points of a sweep
        forms = ", ".join(_described(row) for row in sound.itertuples(index=False))
        return f"No ranking yet: only {names.row_label(sound.iloc[0].defense, 'off')} can be ranked. {forms}."
    first, last = sound.iloc[0], sound.iloc[-1]
    text = f"Hardest to invert: {_described(first)}; easiest: {_described(last)}."
    best = ", ".join(sound[sound["frontier"]]["shown"])
    return f"{text} Beaten by no other in both accuracy and MSE: {best}."


def _described(row) -> str:
    return f"{row.shown} (MSE {row.mse:.4f} at {row.accuracy_percent:.1f}\u00a0% accuracy)"


def _ranked(row) -> list[str]:
    rank = f"{row.rank:.0f}{'★' if row.frontier else ''}" if pd.notna(row.rank) else "–"
    used = f"strongest of {row.attackers}" if row.attackers > 1 else "the only one used"
    attacker = f"{names.attacker_title(row.attacker)}, {used}"
    return [rank, row.shown, number(row.accuracy_percent, ".2f"), f"{row.mse:.4f}", row.doubt or attacker]
