"""The leaderboard: the rows of a tidy frame, ranked by the MSE of the strongest attacker that was used.

Per data set and split, the highest MSE first. The strongest attacker is the one with the lowest MSE on the images under
attack, so adding weak attackers does not help a row; strongest.py says which count. A row with a doubtful number
(doubts.py) or without an accuracy has no rank. Nor has one that lacks an attacker which, among those run on at least
half of the rows, is the strongest on another row: it would gain from what was not tried.
"""

from collections import Counter
from collections.abc import Collection

import pandas as pd

from benchmark.analysis.doubts import Doubts
from benchmark.analysis.flags import flags
from benchmark.analysis.frame import half_width
from benchmark.analysis.frontier import on_front
from benchmark.analysis.names import attacker_title, rank
from benchmark.analysis.strongest import comparable
from benchmark.departures import column, parted

ROW = ["suite", "protocol", "dataset", "defense", "cem", "split"]
MEASURED = ["attacker", "attackers", "seeds", "mse", "mse_half_width", "ssim"]
MEASURED += ["accuracy_percent", "accuracy_percent_half_width"]
COLUMNS = [*ROW, "rank", "frontier", *MEASURED, "flags", "label", "doubt"]
NO_ACCURACY = "no accuracy is stated"


def leaderboard(frame: pd.DataFrame, random: Collection[str]) -> pd.DataFrame:
    """A line for each row and split of a tidy frame (frame.py) that was attacked, best first; the columns are COLUMNS.

    random: the defences that draw noise or masks. rank: from 1 in each data set and split, NaN for none; frontier:
    whether no other ranked row has both an accuracy and an MSE at least as high, one of them higher; attacker: the
    strongest; seeds, mse, ssim and label (departures from the published setting) are its values; attackers: how many
    were used; half widths: of the 95 % interval over seeds, NaN for one seed; flags: the names of flags.py, separated
    by `, `; doubt: why the row has no rank, "" for a ranked one.
    """
    doubts, done = Doubts(frame), frame[frame["status"] == "done"]
    flagged = flags(frame, random, swept={})  # a store does not know suites
    accuracy = done[done["metric"] == "accuracy_percent"].groupby(ROW[:5])["value"].agg(list).to_dict()
    lines = []
    attacks = done[done["kind"] == "attack"]
    for row, part in comparable(frame).groupby(ROW, sort=True):
        errors = part.groupby("attacker")["value"].agg(list)
        strongest = errors.map(_mean).idxmin()
        stated = accuracy.get(row[:5], [])
        same = attacks[(attacks[ROW] == list(row)).all(axis=1) & (attacks["attacker"] == strongest)]
        line = {"attacker": strongest, "attackers": len(errors), "seeds": len(errors[strongest])}
        line |= {"tried": errors.map(_mean).to_dict()}
        line |= {"ssim": same[same["metric"] == "ssim"]["value"].mean(), "flags": _names(flagged, row, strongest)}
        line |= {"label": column(parted(same["label"]))}
        line |= _estimate("mse", errors[strongest]) | _estimate("accuracy_percent", stated)
        suite, protocol, dataset, defense, cem, split = row
        doubt = doubts.of(suite, protocol, dataset, defense, cem, strongest, split)
        lines.append(dict(zip(ROW, row, strict=True)) | line | {"doubt": doubt or ("" if stated else NO_ACCURACY)})
    return _ranked(pd.DataFrame(lines, columns=[*ROW, "tried", *MEASURED, "flags", "label", "doubt"]))


def _names(flagged: pd.DataFrame, row: tuple, strongest: str) -> str:
    """The row's flags, each once; the one for few draws only if the strongest attack's number has few."""
    own = flagged[(flagged[ROW] == list(row)).all(axis=1)]
    own = own[(own["flag"] != "few_draws") | (own["attacker"] == strongest)]
    return ", ".join(dict.fromkeys(own["flag"]))


def _ranked(board: pd.DataFrame) -> pd.DataFrame:
    parts = []
    places = board.groupby(["dataset", "split"], sort=False)
    for _, part in sorted(places, key=lambda item: (item[0][0], rank(item[0][1], ("train", "infer")))):
        part = part.assign(doubt=part["doubt"].where(part["doubt"] != "", _untried(part)))
        part = part.assign(doubted=part["doubt"] != "").sort_values(["doubted", "mse"], ascending=[True, False])
        sound = part[~part["doubted"]]
        best = on_front(sound[["accuracy_percent", "mse"]].to_numpy())
        ranks = pd.Series(range(1, len(sound) + 1), index=sound.index, dtype=float)
        parts.append(part.assign(rank=ranks, frontier=pd.Series(best, index=sound.index)).fillna({"frontier": False}))
    return pd.concat(parts, ignore_index=True)[COLUMNS] if parts else pd.DataFrame(columns=COLUMNS)


def _untried(part: pd.DataFrame) -> pd.Series:
    """For each row of a data set and split, which widely run attackers, strongest elsewhere, it lacks; "" for none."""
    runs = Counter(name for tried in part["tried"] for name in tried)
    wide = {name for name, count in runs.items() if 2 * count >= len(part)}
    wanted = {min(wide & tried.keys(), key=tried.get) for tried in part["tried"] if wide & tried.keys()}
    lacking = part["tried"].map(lambda tried: ", ".join(sorted(map(attacker_title, wanted - tried.keys()))))
    return lacking.map(lambda names: f"not attacked by {names}" if names else "")


def _estimate(name: str, values: list[float]) -> dict[str, float]:
    """Mean and half width; NaN for none."""
    width = half_width(values)
    return {name: _mean(values), f"{name}_half_width": float("nan") if width is None else width}


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
