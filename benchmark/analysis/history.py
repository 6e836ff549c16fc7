"""The epochs in a job's history.csv: the only reader of these files, which may come from a stranger."""

import csv
from pathlib import Path

from benchmark.errors import UserError, reading
from benchmark.store.store import LARGEST


def read(path: Path) -> list[dict[str, float]] | None:
    """One record an epoch, column -> number (NaN and infinities kept); None if there is no such file.

    UserError for a file that is not such a table of numbers.
    """
    try:
        with reading(path), open(path, newline="", encoding="utf-8") as file:
            return [{name: _number(text) for name, text in line.items()} for line in csv.DictReader(file)]
    except FileNotFoundError:
        return None
    except (TypeError, ValueError, csv.Error) as error:  # a line too short or too long, or not a number
        raise damaged(path, error) from None


def damaged(path: Path, error: object) -> UserError:
    """The error for a job's file that is not what the job wrote."""
    why = " ".join(str(error).split())[:200]
    return UserError(f"cannot read {path} ({why}); delete the folder {path.parent} and run again")


def _number(text: str) -> float:
    found = float(text)
    if LARGEST < abs(found) < float("inf"):
        raise ValueError(f"{text[:20]} is beyond all that is computed here")
    return found
