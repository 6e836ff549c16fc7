"""The numbers printed in the paper (Tables 1-3) and its supplement (S1-S6), misprints included."""

from functools import cache
from importlib.resources import files

import pandas as pd

from benchmark.analysis.frame import CELL, COLUMNS, tidy
from benchmark.metrics.facts import PARTS


@cache
def _load() -> pd.DataFrame:
    with files("benchmark.analysis").joinpath("published.csv").open(encoding="utf-8") as file:
        frame = pd.read_csv(file, dtype={"table": str}, keep_default_na=False)
    frame["defense"] = frame["defense"].replace("no_defense", "none")  # the matrix's name
    frame["cem"] = frame["cem"].replace("", "off")
    of_part = frame["split"].isin(PARTS)
    frame.loc[of_part, "metric"] = frame["split"] + "_" + frame["metric"]
    frame["kind"] = "attack"
    frame.loc[frame["attacker"] == "none", "kind"] = "train"
    frame.loc[of_part, "kind"] = "efficiency"
    frame.loc[frame["kind"] != "attack", ["attacker", "split"]] = ""
    # one seed, 125, is all the released code ever used
    fixed = {"suite": "published.csv", "protocol": "published", "seed": "125", "status": "done"}
    return frame.assign(**fixed, reason="", key="", label="")[["table", *COLUMNS]]


def load() -> pd.DataFrame:
    """Every printed number: tidy columns (frame.py) and `table`; defense "average" is a printed average."""
    return _load().copy()


def reference() -> pd.DataFrame:
    """One printed value for each cell, as a tidy frame without the averages.

    An accuracy is printed in two tables. Where they disagree (TinyImageNet Bottleneck+CEM, 52.25 in Table 2 and
    52.52 in S3) the main paper's is taken: both tables print the average that follows from 52.25.
    """
    frame = _load()
    frame = frame[frame["defense"] != "average"]
    in_supplement = frame["table"].str.startswith("S")
    return tidy(frame.assign(later=in_supplement).sort_values("later", kind="stable").drop_duplicates(CELL))


def printed(table: str) -> dict[tuple, float]:
    """One printed table and its averages: (defense, cem, attacker, split, metric) -> value; {} if unknown."""
    rows = _load().query("table == @table")
    return {tuple(row[name] for name in CELL[1:]): row["value"] for row in rows.to_dict("records")}
