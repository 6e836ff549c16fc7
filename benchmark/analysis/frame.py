"""The tidy frame of results: one row per suite, cell, metric and seed.

Columns: suite, dataset, defense, cem, protocol, kind (one of KINDS, what the job did), attacker, split, metric, seed,
value (float, NaN for none), status (one of STATUSES), reason (text), key (the job's), label (how the cell departs from
the published setting, "" where it does not; `benchmark.departures` writes and reads it). cem is "off", "on" or a
variant's name; attacker and split are "" unless the kind is attack.
"""

import math
from dataclasses import dataclass

import pandas as pd
from scipy.stats import t as student_t

from benchmark.analysis import names
from benchmark.errors import UserError
from benchmark.text import plain

CELL = ["dataset", "defense", "cem", "attacker", "split", "metric"]
IDENTITY = ["suite", "protocol", *CELL, "seed"]
TEXT = ["status", "reason", "key", "label"]
COLUMNS = ["suite", "dataset", "defense", "cem", "protocol", "kind", *CELL[3:], "seed", "value", *TEXT]
_FORMULA = ("=", "+", "-", "@")  # first characters by which a spreadsheet recognises a formula
KINDS = ("train", "attack", "bounds", "efficiency")
STATUSES = ("done", "failed", "diverged", "missing", "running")


def tidy(frame: pd.DataFrame, source: str = "the results") -> pd.DataFrame:
    """The frame checked and put in canonical form: text columns as text, rows sorted, repeated rows once.

    A value is kept only on a row that is done; a done row whose value is not finite counts as diverged.
    Raises UserError, naming `source`, for missing columns, unknown statuses and kinds, values that are not numbers, and
    two different results for one cell and seed.
    """
    absent = [name for name in COLUMNS if name not in frame.columns]
    if absent:
        raise UserError(f"{source} lacks the columns {', '.join(absent)}; write it again with the report command")
    frame = frame[COLUMNS].copy()
    for name in [*IDENTITY, "kind", *TEXT]:
        frame[name] = [_text(item) for item in frame[name]]
    # an efficiency row has no CEM: the encoder that runs is the same
    frame["cem"] = frame["cem"].replace("", "off")
    for name, known in (("status", STATUSES), ("kind", KINDS)):
        unknown = sorted(set(frame[name]) - set(known))
        if unknown:
            raise UserError(f"{source} has the unknown {name} '{unknown[0]}'; known: {', '.join(known)}")
    frame["value"] = [_number(item, source) for item in frame["value"]]
    _mark_not_finite(frame)
    frame = frame.drop_duplicates([*IDENTITY, "value", "status"])
    twice = frame[frame.duplicated(IDENTITY)]
    if len(twice):
        cell = ", ".join(str(item) for item in twice.iloc[0][IDENTITY])
        raise UserError(f"{source} has two different results for {cell}; give the two settings different names")
    return frame.sort_values(IDENTITY, key=_sort_key, kind="stable").reset_index(drop=True)


def _text(item) -> str:
    if item is None or (isinstance(item, float) and math.isnan(item)) or item is pd.NA:
        return ""
    if isinstance(item, float) and item.is_integer():  # a column of seeds with a gap becomes one of floats
        return str(int(item))
    return str(item)


def _number(item, source: str) -> float:
    if item is None or item is pd.NA or item == "":
        return math.nan
    try:
        return float(item)
    except (TypeError, ValueError):
        raise UserError(f"{source} has the value {item!r}, which is not a number; leave it empty for none") from None


def _mark_not_finite(frame: pd.DataFrame) -> None:
    done = frame["status"] == "done"
    lost = done & ~frame["value"].map(math.isfinite)
    frame.loc[lost & (frame["reason"] == ""), "reason"] = "the value is not a finite number"
    frame.loc[lost, "status"] = "diverged"
    frame.loc[~done | lost, "value"] = math.nan


def _sort_key(column: pd.Series) -> pd.Series:
    """Seeds sort as numbers; everything else as text."""
    return column.map(lambda text: text.zfill(20)) if column.name == "seed" else column


def in_printed_order(frame: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """The rows sorted by these text columns: what the paper prints, in its order, then the rest."""
    known = {
        "dataset": [*names.DATASETS],
        "defense": ["none", *names.DEFENSES],
        "cem": ["off", "on"],
        "attacker": ["", *names.ATTACKERS, *names.STRONGER],
        "split": ["", "train", "infer"],
        "metric": [*names.METRICS],
    }

    def places(column: pd.Series) -> pd.Series:
        order = sorted(set(column), key=lambda name: names.rank(name, known.get(str(column.name), [])))
        return column.map({name: place for place, name in enumerate(order)})

    return frame.sort_values(by, key=places, kind="stable", ignore_index=True)


@dataclass(frozen=True)
class Summary:
    """One cell over its seeds. values: seed -> value of those done; lost: seed -> why there is none."""

    values: dict[str, float]
    lost: dict[str, str]
    statuses: frozenset[str]
    labels: frozenset[str]

    @property
    def mean(self) -> float | None:
        return math.fsum(self.values.values()) / len(self.values) if self.values else None

    @property
    def half_width(self) -> float | None:
        return half_width(list(self.values.values()))

    @property
    def reason(self) -> str:
        """Why seeds have no value; "" if all have one."""
        reasons = sorted(set(self.lost.values()))
        if not self.values or not reasons:
            return "; ".join(reasons)
        return f"mean of {len(self.values)} of {len(self.values) + len(self.lost)} seeds; {'; '.join(reasons)}"


def half_width(values: list[float]) -> float | None:
    """Half the width of the Student t 95 % interval of the mean; None for fewer than two values."""
    count = len(values)
    if count < 2:
        return None
    mean = math.fsum(values) / count
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return float(student_t.ppf(0.975, count - 1)) * math.sqrt(variance / count)


def too_wide(metric: str, mean: float | None, half_width: float) -> bool:
    """Whether an interval says nothing: wider than the scale of its metric, or than the mean is from zero."""
    base = names.METRICS.get(names.base_metric(metric))
    scale = base.scale if base else math.inf
    return mean is None or half_width > min(abs(mean), scale / 2)


def summarise(frame: pd.DataFrame) -> dict[tuple, Summary]:
    """The cells of a tidy frame of ONE suite and protocol; the keys are the columns CELL."""
    cells: dict[tuple, list] = {}
    for row in frame.itertuples(index=False):
        cells.setdefault(tuple(getattr(row, name) for name in CELL), []).append(row)
    return {cell: _summary(rows) for cell, rows in cells.items()}


def _summary(rows: list) -> Summary:
    done = [row for row in rows if row.status == "done"]
    lost = [row for row in rows if row.status != "done"]
    return Summary(
        values={row.seed: row.value for row in done},
        lost={row.seed: _why(row.status, row.reason) for row in lost},
        statuses=frozenset(row.status for row in rows),
        labels=frozenset(row.label for row in rows),
    )


def _why(status: str, reason: str) -> str:
    if status == "running":
        return "still running"
    if status == "missing":
        return reason or "not run yet"
    return reason if reason.startswith(status) else f"{status}: {reason}" if reason else status


def csv_text(frame: pd.DataFrame, **options) -> str:
    """The frame as CSV, without an index. Text is on one line. Text that a spreadsheet would take for a formula gets an
    apostrophe in front, which `csv_value` removes. options: of DataFrame.to_csv."""
    text = frame.rename(columns=_cell)
    for place, kind in enumerate(frame.dtypes):
        if not pd.api.types.is_numeric_dtype(kind):
            text.isetitem(place, [_cell(item) for item in frame.iloc[:, place]])
    return text.to_csv(index=False, lineterminator="\n", **options)


def csv_value(text: str) -> str:
    """The value that `csv_text` wrote as `text`."""
    return text[1:] if text[:1] == "'" and text[1:].lstrip().startswith(_FORMULA) else text


def _cell(item):
    if not isinstance(item, str):
        return item
    text = plain(item)
    return f"'{text}" if text.lstrip().startswith(_FORMULA) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
