"""The bounds of every row beside the strongest attacker, and whether they rank the rows as it does."""

import math

import numpy as np
import pandas as pd

from benchmark.analysis.collect import BOUNDS
from benchmark.analysis.frame import tidy
from benchmark.analysis.ranks import associations
from benchmark.analysis.strongest import comparable, shared
from benchmark.departures import column, parted

SPLITS = ("train", "infer")
ROW = ["suite", "protocol", "dataset", "defense", "cem"]

# quantity -> (its name, sign: +1 if a larger value should go with a larger error of the attacker)
QUANTITIES = {
    "eq7_nats": ("Eq 7", -1),
    "logdet_nats": ("log-determinant term", -1),
    "released_objective": ("released objective", -1),
    "mi_upper_nats": ("information, upper", -1),
    "van_trees_mse": ("van Trees", +1),
    "linearised_mse": ("linearised", +1),
}


def bounds_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """One line for each row of the tables (ROW) with a bounds cell, seeds averaged, in the frame's order.

    Columns: ROW, seeds, every metric of BOUNDS, mse_SPLIT and attacker_SPLIT (the lowest mean MSE of an attacker that
    all attacked rows of the suite, protocol, data set and split have; strongest.py), theory_ratio and mse_SPLIT_ratio
    (to the same row without CEM), reason, label.
    """
    frame = tidy(frame)
    errors = shared(comparable(frame), ["suite", "protocol", "dataset", "split"], ["defense", "cem"])
    lines = []
    for row, part in frame.groupby(ROW, sort=False):
        found = part[part["kind"] == "bounds"]
        if not found.empty:
            lines.append(
                dict(zip(ROW, row, strict=True)) | _line(found) | _strongest(errors[errors.index.isin(part.index)])
            )
    rows = pd.DataFrame(lines)
    return rows if rows.empty else _with_ratios(rows)


def _line(found: pd.DataFrame) -> dict:
    done = found[found["status"] == "done"]
    values = done.groupby("metric")["value"].mean()
    line = {metric: values.get(metric, math.nan) for metric in BOUNDS}
    reasons = sorted(set(found[found["status"] != "done"]["reason"]) - {""})
    return line | {
        "seeds": done["seed"].nunique(),
        "reason": "; ".join(reasons),
        "label": column(parted(found["label"])),
    }


def _strongest(errors: pd.DataFrame) -> dict:
    line = {}
    for split in SPLITS:
        means = errors[errors["split"] == split].groupby("attacker")["value"].mean()
        line[f"mse_{split}"] = means.min() if len(means) else math.nan
        line[f"attacker_{split}"] = means.idxmin() if len(means) else ""
    return line


def _with_ratios(rows: pd.DataFrame) -> pd.DataFrame:
    plain = rows[ROW[:-1]].merge(rows[rows["cem"] == "off"], on=ROW[:-1], how="left")  # each row's without CEM
    changed = rows["cem"] != "off"
    nats = plain["eq7_nats"] - rows["eq7_nats"]
    rows["theory_ratio"] = np.exp(2 * nats / rows["image_dims"]).where(changed)
    for split in SPLITS:
        rows[f"mse_{split}_ratio"] = (rows[f"mse_{split}"] / plain[f"mse_{split}"]).where(changed)
    return rows


def ranks(rows: pd.DataFrame) -> pd.DataFrame:
    """How well each of QUANTITIES orders the rows as the strongest attacker's MSE does: +1 is the same order.

    rows: of `bounds_rows`. One line for each suite, protocol, data set, split and quantity: rows (their number),
    spearman, kendall, each with _low and _high (95 %, defences resampled; NaN for fewer than 4 rows or 3 defences).
    """
    lines = []
    for key, part in rows.groupby(["suite", "protocol", "dataset"], sort=False):
        for split in SPLITS:
            for quantity, (_, sign) in QUANTITIES.items():
                known = part.dropna(subset=[quantity, f"mse_{split}"])
                rho, tau = associations(sign * known[quantity], known[f"mse_{split}"], known["defense"])
                lines.append([*key, split, quantity, len(known), *rho, *tau])
    columns = ["suite", "protocol", "dataset", "split", "quantity", "rows"]
    columns += [f"{kind}{end}" for kind in ("spearman", "kendall") for end in ("", "_low", "_high")]
    return pd.DataFrame(lines, columns=columns)
