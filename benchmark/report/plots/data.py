"""What each figure shows, as a frame that is also written beside it; from the tidy frame and the store."""

import math

import pandas as pd

from benchmark.analysis import history
from benchmark.analysis.collect import EFFICIENCY
from benchmark.analysis.diff import diff
from benchmark.analysis.doubts import Doubts
from benchmark.analysis.frame import Summary, in_printed_order, summarise, too_wide
from benchmark.matrix.cells import Cell
from benchmark.metrics.reconstruction import QUANTILES, quantile_names
from benchmark.store.store import HISTORY, Store

ATTACKED = ["attacker", "split", "defense", "cem"]


def attacks(part: pd.DataFrame) -> pd.DataFrame:
    """One row for each attack on a row of the matrix: mean MSE and accuracy over seeds, with the half-widths of their
    Student t 95 % intervals (NaN for one seed, and if n is too small), and why it must not be interpreted ("" if it
    may). part: a tidy frame of one suite, protocol and data set."""
    summaries, doubts = summarise(part), Doubts(part)
    rows = []
    for (dataset, defense, cem, attacker, split, metric), found in summaries.items():
        if metric == "mse" and found.values:
            accuracy = summaries.get((dataset, defense, cem, "", "", "accuracy_percent"))
            row = [attacker, split, defense, cem, len(found.values), found.mean, _spread(metric, found)]
            row += [accuracy.mean, _spread("accuracy_percent", accuracy)] if accuracy else [None, None]
            doubt = doubts.of(*part.iloc[0][["suite", "protocol"]], dataset, defense, cem, attacker, split)
            rows.append([*row, doubt])
    numbers = ["seeds", "mse", "mse_half_width", "accuracy_percent", "accuracy_half_width"]
    columns = [*ATTACKED, *numbers, "doubt"]
    return in_printed_order(pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(numbers[1:], float)), ATTACKED)


def _spread(metric: str, found: Summary) -> float | None:
    """The half-width, or None for an interval so wide that it would dominate the figure."""
    width = found.half_width
    return None if width is None or too_wide(metric, found.mean, width) else width


def against(part: pd.DataFrame, reference: pd.DataFrame) -> pd.DataFrame:
    """Published and produced value of every printed cell that has both. A value made at another setting has no
    tolerance."""
    columns = [*ATTACKED, "metric", "published", "produced", "tolerance", "kind"]
    if not summarise(part).keys() & summarise(reference).keys():
        return pd.DataFrame(columns=columns)
    found = diff(reference, part).rename(columns={"reference": "published"})
    found.loc[(found["label"] != "") & ~found["metric"].isin(EFFICIENCY), "tolerance"] = math.nan
    return found.dropna(subset=["published", "produced"])[columns].reset_index(drop=True)


def histories(cells: list[Cell], store: Store, kind: str = "train") -> pd.DataFrame:
    """The epochs of every finished job of a kind ("train" or "attack"): attacker, split, defense, cem, seed, epoch, and
    the history's columns."""
    first, parts = [*ATTACKED, "seed", "epoch"], []
    for cell in cells:
        if cell.kind == kind and store.done(cell.job):
            epochs = pd.DataFrame(history.read(store.path(cell.job) / HISTORY) or [])
            if "epoch" in epochs:
                parts.append(epochs.assign(**{name: getattr(cell, name) for name in first[:-1]}))
    if not parts:
        return pd.DataFrame(columns=first)
    whole = pd.concat(parts, ignore_index=True)
    return in_printed_order(whole[[*first, *(name for name in whole.columns if name not in first)]], ATTACKED)


def per_image(cells: list[Cell], store: Store) -> pd.DataFrame:
    """Quantiles of the MSE of single images, means over seeds, of every finished attack that recorded them."""
    found: dict[tuple, list[dict]] = {}
    for cell in cells:
        values = store.metrics(cell.job)["values"] if cell.kind == "attack" and store.done(cell.job) else {}
        if all(values.get(name) is not None for name in quantile_names("mse")):
            found.setdefault((cell.attacker, cell.split, cell.defense, cell.cem), []).append(values)
    rows = []
    for key, seeds in found.items():
        means = [sum(values[name] for values in seeds) / len(seeds) for name in quantile_names("mse")]
        rows.append([*key, sum(values.get("scored_on") or 0 for values in seeds), *means])
    columns = [*ATTACKED, "images", *(f"p{percent}" for percent in QUANTILES)]
    return in_printed_order(pd.DataFrame(rows, columns=columns), ATTACKED)
