"""Numbers that must not be interpreted: of an attack that learnt nothing, or of a classifier no better than guessing.

Such numbers are printed with a note. They are never bold, coloured or ranked, because a feature without information is
hard to invert whatever the defence.
"""

import math
from collections.abc import Iterable
from typing import Any

import pandas as pd

from benchmark.analysis import baseline
from benchmark.data import DATASETS
from benchmark.departures import Departure

METRIC = "beats_chance"  # in the tidy frame, of a training: 1 if guessing could not reach its accuracy, 0 if it could
AT_CHANCE = "accuracy at chance in one seed or more: there is little in the feature to rebuild from"
_SIGMAS = 3.0  # standard errors above the chance of 1 / classes, on the test images
_PLACE = ("suite", "protocol", "dataset", "defense", "cem", "attacker", "split")


def at_chance(dataset: str, accuracy_percent: float, departures: Iterable[Departure] = ()) -> bool:
    """Whether guessing could reach this accuracy; False for a data set that is not installed.

    departures: of the training, which say where it had fewer classes or test images than the whole data set.
    """
    if dataset not in DATASETS.names():
        return False
    source = DATASETS.get(dataset)
    other: dict[str, Any] = {departure.path: departure.value for departure in departures}
    counts = [other.get("data.test", source.nominal[1]), other.get("data.test_images")]
    chance, images = 1 / other.get("data.classes", source.classes), min(count for count in counts if count)
    error = math.sqrt(chance * (1 - chance) / images)
    return accuracy_percent <= 100 * (chance + _SIGMAS * error)


class Doubts:
    """The doubtful numbers of a tidy frame (frame.py)."""

    def __init__(self, frame: pd.DataFrame):
        self._why: dict[tuple, str] = {}
        known = (frame["metric"] == METRIC).any()  # a frame of other origin may have accuracies alone
        for row in frame[frame["status"] == "done"].itertuples(index=False):
            place = tuple(getattr(row, name) for name in _PLACE)
            if row.metric == baseline.METRIC and row.value == 0:
                self._why[place] = baseline.NOTE
            guessed = row.metric == "accuracy_percent" and not known and at_chance(row.dataset, row.value)
            if guessed or (row.metric == METRIC and row.value == 0):
                self._why[place] = AT_CHANCE

    def of(self, suite, protocol, dataset, defense, cem, attacker, split) -> str:
        """Why this cell must not be interpreted, "" if there is no doubt."""
        row = (suite, protocol, dataset, defense, cem)
        return self._why.get((*row, "", "")) or self._why.get((*row, attacker, split), "")

    def of_change(self, suite, protocol, dataset, defense, cem, attacker, split) -> str:
        """Why the change from CEM off to this form of it must not be interpreted: a doubt about either side."""
        row, attack = (suite, protocol, dataset, defense), (attacker, split)
        return self.of(*row, cem, *attack) or self.of(*row, "off", *attack)
