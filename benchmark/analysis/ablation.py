"""How each change of protocol affects accuracy, the attackers, and the gain from CEM."""

import math

import pandas as pd

from benchmark.analysis.frame import tidy
from benchmark.analysis.intervals import effect
from benchmark.analysis.names import base_metric
from benchmark.analysis.paired import Pair, pairs

BASE = "published"
METRICS = ("accuracy_percent", "mse", "ssim", "psnr_db")
COLUMNS = ["suite", "dataset", "protocol", "what", "cem", "attacker", "split", "metric", "rows", "seeds"]
COLUMNS += ["change", "low", "high"]


def ablation(frame: pd.DataFrame) -> pd.DataFrame:
    """The mean over rows (defences) of each protocol's change against `published`, with its interval over seeds.

    frame: tidy, with `published` and other protocols. Columns COLUMNS; `what` is "value" (how much the metric
    itself changes; one line for each form of CEM) or "gain" (how much larger CEM's effect is than under `published`: a
    difference of differences). rows: those with at least one seed. change, low, high: percent for MSE, else in the
    metric's unit; the interval is the 95 % Student t of the seeds' means over rows, NaN for one seed. Only seeds that
    each of these rows has are used.
    Raises UserError for a frame that is not tidy.
    """
    frame = tidy(frame)
    frame = frame[frame["metric"].isin(METRICS)]
    found: dict[tuple, list[dict[str, float]]] = {}
    for pair in pairs(frame, "protocol", BASE):
        found.setdefault(_line(pair, "value"), []).append(pair.changes())
    by_cell = {pair.cell: pair for pair in pairs(frame)}
    for (suite, protocol, *rest), pair in by_cell.items():
        published = by_cell.get((suite, BASE, *rest))
        if protocol != BASE and published is not None:
            ours, theirs = pair.changes(), published.changes()
            difference = {seed: ours[seed] - theirs[seed] for seed in ours if seed in theirs}
            found.setdefault(_line(pair, "gain"), []).append(difference)
    lines = [_summarise(line, rows) for line, rows in found.items()]
    return pd.DataFrame([line for line in lines if line is not None], columns=COLUMNS)


def _line(pair: Pair, what: str) -> tuple:
    return (pair.suite, pair.dataset, pair.protocol, what, pair.cem, pair.attacker, pair.split, pair.metric)


def _summarise(line: tuple, rows: list[dict[str, float]]) -> list | None:
    """One line of the table, of the rows that have a result; None if no seed has all of these."""
    rows = [row for row in rows if row]
    seeds = set.intersection(*map(set, rows)) if rows else set()
    if not seeds:
        return None
    found = effect([math.fsum(row[seed] for row in rows) / len(rows) for seed in sorted(seeds)])
    shown = (found.mean, found.low, found.high)
    if base_metric(line[-1]) == "mse":
        shown = tuple(100 * math.expm1(value) for value in shown)
    return [*line, len(rows), len(seeds), *shown]
