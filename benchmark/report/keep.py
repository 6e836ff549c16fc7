"""Protects existing tables: one with more values is never replaced silently, and nothing of it is lost."""

import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from benchmark.analysis.frame import IDENTITY, csv_text, csv_value, tidy
from benchmark.errors import UserError
from benchmark.output import tell

ASIDE = ".replaced-"  # in the name of a folder of tables that was replaced


def require_some(frame: pd.DataFrame, suite: str, results: Path) -> None:
    """UserError, before anything is written, if no cell of a tidy frame has a result."""
    if not (frame["status"] == "done").any() and not (frame["status"] == "diverged").any():
        raise UserError(
            f"no result of the chosen cells of '{suite}' is in {results}, so there is nothing to write; run the suite "
            "first, or choose another --results"
        )


def set_aside_richer(frame: pd.DataFrame, out: Path) -> None:
    """If the results.csv in the folder `out` has values that `frame` (tidy) lacks, move the folder aside and say so: it
    may be the only copy."""
    try:
        earlier = tidy(pd.read_csv(out / "results.csv", dtype=str, keep_default_na=False).map(csv_value))
    except (OSError, ValueError, UserError):  # missing, or not one of ours
        return
    lost = len(_measured(earlier) - _measured(tidy(frame)))
    if lost:
        number = next(number for number in range(1, 10_000) if not _aside(out, number).exists())
        try:
            os.rename(out, _aside(out, number))
        except OSError as error:
            raise UserError(f"{out} has {lost} values that are not in the results here, and stays: {error}") from None
        tell(f"{out} had {lost} values that are not in the results here: kept as {_aside(out, number)}")


def _measured(frame: pd.DataFrame) -> set[tuple]:
    return set(frame[frame["status"] == "done"][IDENTITY].itertuples(index=False, name=None))


def _aside(out: Path, number: int) -> Path:
    return out.with_name(f"{out.name}{ASIDE}{number}")


def completed(frame: pd.DataFrame, path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """`frame`, about to be written as the CSV `path`, with missing values in `columns` taken from the existing file.

    These columns need per-image values, which are not shared with results. Two lines are the same if all other columns
    are equal to the last digit; the same results then give the same values.
    """
    try:
        earlier = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError):
        return frame
    now = pd.read_csv(io.StringIO(csv_text(frame)), dtype=str, keep_default_na=False)
    if list(earlier.columns) != list(now.columns):
        return frame
    others = [name for name in now.columns if name not in columns]
    there = now[others].merge(earlier.drop_duplicates(others, keep="last"), how="left", on=others)
    found, taken = frame.copy(), 0
    for name in columns:
        known = pd.to_numeric(there[name], errors="coerce").to_numpy()  # NaN for none, and for what is no number
        lost = (now[name] == "").to_numpy() & ~np.isnan(known)
        found.loc[lost, name] = known[lost]
        taken += lost.sum()
    if taken:
        tell(f"{path}: {taken} values that cannot be made from the results here are those of the file that was there")
    return found
