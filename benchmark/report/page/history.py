"""The curves that the jobs' history.csv files hold."""

import math
from pathlib import Path

from benchmark.analysis.history import damaged, read
from benchmark.matrix.expand import Cell
from benchmark.report.page.charts import Curve
from benchmark.store.store import HISTORY, Store

_AXES = ("protocol", "dataset", "defense", "cem", "attacker", "split")
ACCURACY, LOSS = "selection_accuracy_percent", "loss"


def curves(cells: list[Cell], store: Store, kind: str, column: str) -> list[Curve]:
    """A curve for each job of that kind ("train" or "attack") whose history has the column, in the order of `cells`.

    UserError for a history that cannot be read.
    """
    found = {}
    for cell in cells:
        path = store.path(cell.job) / HISTORY
        if cell.job.kind != kind or not path.is_file():
            continue
        epochs, values = _read(path, column)
        if values:
            axes = {name: getattr(cell, name) for name in _AXES}
            # two protocols, or points of a sweep, may share a job: it is drawn under each
            strength = str(cell.strength or "")
            found[cell.job.key, cell.protocol, strength] = Curve(axes, str(cell.seed), epochs, values, strength)
    return list(found.values())


def _read(path: Path, column: str) -> tuple[list[float], list[float]]:
    """(epochs, values), without the epochs whose value is not a finite number."""
    lines = read(path) or []
    if not lines or column not in lines[0]:
        return [], []
    if "epoch" not in lines[0]:
        raise damaged(path, "it does not number its epochs")
    pairs = [(line["epoch"], line[column]) for line in lines]
    pairs = [pair for pair in pairs if math.isfinite(pair[0]) and math.isfinite(pair[1])]
    return [epoch for epoch, _ in pairs], [value for _, value in pairs]
