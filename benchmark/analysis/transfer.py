"""How to compare a shorter run: its MSE depends on its length; CEM's gain and the order of rows may not.

Both are computed from a diff (diff.py), so from the same pairs of numbers as its absolute values.
"""

import math

import pandas as pd

from benchmark.analysis import names
from benchmark.analysis.diff import attack

GAINS = {
    name: "ratio" if names.METRICS[name].kind == "relative" else "difference"
    for name in ("mse", "ssim", "psnr_db", "accuracy_percent")
}
FEWEST = 4  # fewer rows have no meaningful order
_PLACE = ["suite", "protocol", "dataset", "attacker", "split", "metric"]


def gains(result: pd.DataFrame) -> pd.DataFrame:
    """CEM's effect in each row, in the reference and as produced: MSE as the ratio on / off, others as on - off.

    Columns: suite, protocol, dataset, attacker, split, metric, defense, kind (`ratio` or `difference`), reference,
    produced, same_sign (whether both move the same way; None if one does not move).
    """
    wanted = result[result["metric"].isin(GAINS) & result["defense"].isin(names.DEFENSES)]
    off, on = (wanted[wanted["cem"] == cem] for cem in ("off", "on"))
    both = off.drop(columns="kind").merge(on, on=[*_PLACE, "defense"], suffixes=("_off", ""))
    both["kind"] = both["metric"].map(GAINS)
    for name in ("reference", "produced"):
        plain = both[f"{name}_off"]
        both[name] = (both[name] / plain.where(plain != 0)).where(both["kind"] == "ratio", both[name] - plain)
    found = both[[*_PLACE, "defense", "kind", "reference", "produced"]].dropna(ignore_index=True)
    still = found["kind"].map({"ratio": 1.0, "difference": 0.0})
    moves = (found["reference"] - still) * (found["produced"] - still)
    found["same_sign"] = moves.map(lambda move: None if move == 0 else bool(move > 0))
    return found


def ranks(result: pd.DataFrame) -> pd.DataFrame:
    """How similar the order of rows is: Spearman's rho of each column with FEWEST rows or more, with CEM off and on.

    Columns: suite, protocol, dataset, attacker, split, metric, cem, rows (their number), rho (NaN where all are equal).
    """
    rows = []
    wanted = result[result["metric"].isin(GAINS) & result["defense"].isin(names.DEFENSES)]
    wanted = wanted.dropna(subset=["reference", "produced"])
    for key, part in wanted.groupby([*_PLACE, "cem"], sort=False):
        if len(part) >= FEWEST:
            rho = part["reference"].rank().corr(part["produced"].rank())
            rows.append(dict(zip([*_PLACE, "cem"], key, strict=True)) | {"rows": len(part), "rho": rho})
    return pd.DataFrame(rows, columns=[*_PLACE, "cem", "rows", "rho"])


def lines(result: pd.DataFrame) -> tuple[list[list[str]], list[list[str]]]:
    """(gains, ranks) as rows of text for GAINS_HEADINGS and RANKS_HEADINGS; both empty where there are none."""
    order = [
        [row["dataset"], row["protocol"], attack(row), row["metric"], row["cem"], str(row["rows"])]
        + ["–" if math.isnan(row["rho"]) else f"{row['rho']:+.2f}"]
        for row in ranks(result).to_dict("records")
    ]
    return gain_lines(gains(result)), order


def gain_lines(found: pd.DataFrame) -> list[list[str]]:
    """The result of `gains` as rows of text for GAINS_HEADINGS."""
    signs = {True: "yes", False: "no", None: "–"}
    told = []
    for row in found.to_dict("records"):
        spec = ".2f" if row["kind"] == "ratio" else f"+.{names.metric(row['metric']).decimals}f"
        what = f"{row['metric']} on / off" if row["kind"] == "ratio" else f"{row['metric']} on - off"
        numbers = [f"{row[name]:{spec}}" for name in ("reference", "produced")]
        place = [row["dataset"], row["protocol"], names.row_label(row["defense"], "off"), attack(row)]
        told.append([*place, what, *numbers, signs[row["same_sign"]]])
    return told


GAINS_HEADINGS = [
    "data set",
    "protocol",
    "method",
    "attack",
    "change by CEM",
    "reference",
    "produced",
    "same direction",
]
RANKS_HEADINGS = ["data set", "protocol", "attack", "metric", "CEM", "rows", "Spearman's rho"]
