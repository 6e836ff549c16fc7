"""Produced cells against reference cells: the printed numbers or an earlier run's results."""

import math
from pathlib import Path

import pandas as pd

from benchmark.analysis import names
from benchmark.analysis.frame import CELL, Summary, csv_value, in_printed_order, summarise, tidy
from benchmark.departures import column, parted
from benchmark.errors import UserError

# metric -> (kind, tolerance); a form of a metric (psnr_db_per_image) has its base's
TOLERANCES = {name: (metric.kind, metric.tolerance) for name, metric in names.METRICS.items()}
BAD = ("diverged", "failed", "missing", "beyond")  # worst first
_GONE = Summary({}, {"": "not in the produced results"}, frozenset({"missing"}), frozenset())
_SLACK = 1e-9  # so that 0.813 against 0.863 is not beyond 0.05 by the last bit


def read_reference(path: Path) -> pd.DataFrame:
    """The tidy frame in a results.csv, or in a folder that holds one.

    Raises UserError where there is no such file, it cannot be read, or it is not a tidy results file.
    """
    path = Path(path)
    file = path / "results.csv" if path.is_dir() else path
    try:
        frame = pd.read_csv(file, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise UserError(f"there is no reference {file}; give a results.csv or the folder of one") from None
    except (OSError, ValueError) as error:  # pandas' parser and decoding errors are ValueErrors
        message = " ".join(str(error).split())
        raise UserError(f"cannot read the reference {file}: {message}; give a results.csv") from error
    frame = tidy(frame.map(csv_value), source=str(file))
    if frame.empty:
        raise UserError(f"the reference {file} has no rows; write it again with the report command")
    return frame


def diff(reference: pd.DataFrame, produced: pd.DataFrame, tolerances: dict[str, float] | None = None) -> pd.DataFrame:
    """One row for each cell that both frames list, seeds averaged; a lost seed never enters an average.

    reference, produced: tidy frames (frame.py); `published.reference()` for the printed numbers.
    tolerances: metric -> tolerance in place of the default, in that metric's kind (see TOLERANCES).
    Suites and protocols are matched by name; if no name matches and the reference has a single one,
    every produced one is compared with it.

    Columns: suite, protocol (the produced ones), dataset, defense, cem, attacker, split, metric, reference,
    produced, difference (produced - reference), relative (difference / |reference|), tolerance, kind,
    verdict, reason, label. verdict: "within"; "beyond" the tolerance; "missing" (not run yet, still running,
    or gone from a suite that the reference has too), "failed" or "diverged" where at least one seed is;
    "not judged" (the metric has no tolerance, or the reference no value).
    Raises UserError for frames without a cell in common and for unusable tolerances.
    """
    reference, produced = tidy(reference, "the reference"), tidy(produced, "the produced results")
    limits = _limits(tolerances or {}, set(reference["metric"]) | set(produced["metric"]))
    rows = []
    for (suite, protocol), part in produced.groupby(["suite", "protocol"], sort=True):
        other = _named_alike(_named_alike(reference, produced, "suite", suite), produced, "protocol", protocol)
        expected, found = summarise(other), summarise(part)
        same_suite = suite in set(reference["suite"])
        for cell in expected if same_suite else expected.keys() & found.keys():
            head = {"suite": suite, "protocol": protocol, **dict(zip(CELL, cell, strict=True))}
            rows.append(head | _judge(expected[cell], found.get(cell, _GONE), *limits[head["metric"]]))
    if not rows:
        raise UserError(
            f"the results ({_contents(produced)}) and the reference ({_contents(reference)}) have no rows in "
            "common; choose a suite of the reference's data sets, or another reference"
        )
    return in_printed_order(pd.DataFrame(rows), ["suite", "protocol", *CELL])


def _limits(tolerances: dict[str, float], metrics: set[str]) -> dict[str, tuple[str, float | None]]:
    for name, value in tolerances.items():
        if name not in metrics and name not in TOLERANCES:
            known = ", ".join(sorted(metrics | set(TOLERANCES)))
            raise UserError(f"there is no metric '{name}' to set a tolerance for; known: {known}")
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value < 0:
            raise UserError(f"the tolerance {name} = {value!r} is not allowed; give a number of at least 0")
    limits = {}
    for name in metrics:
        base = names.base_metric(name)
        kind, default = TOLERANCES.get(base, ("relative", None))
        limits[name] = (kind, tolerances.get(name, tolerances.get(base, default)))
    return limits


def _named_alike(reference: pd.DataFrame, produced: pd.DataFrame, column: str, value: str) -> pd.DataFrame:
    """The reference rows that a produced suite or protocol is compared with (see `diff`)."""
    known = set(reference[column])
    if len(known) == 1 and not known & set(produced[column]):
        return reference
    return reference[reference[column] == value]


def _contents(frame: pd.DataFrame) -> str:
    listed = []
    for axis in ("suite", "protocol", "dataset"):
        named = sorted(set(frame[axis]) - {""})  # an efficiency row has no protocol
        listed.append(f"{axis} {', '.join(named) or 'none'}")
    return "; ".join(listed)


def _judge(reference: Summary, produced: Summary, kind: str, tolerance: float | None) -> dict:
    expected, value = (math.nan if summary.mean is None else summary.mean for summary in (reference, produced))
    difference = value - expected
    return {
        "reference": expected,
        "produced": value,
        "difference": difference,
        "relative": difference / abs(expected) if expected else math.nan,
        "tolerance": math.nan if tolerance is None else tolerance,
        "kind": kind,
        "verdict": _verdict(produced, expected, difference, kind, tolerance),
        "reason": produced.reason or ("" if reference.values else f"no reference: {reference.reason}"),
        "label": column(parted(produced.labels)),
    }


def _verdict(produced: Summary, expected: float, difference: float, kind: str, tolerance) -> str:
    statuses = {"missing" if status == "running" else status for status in produced.statuses}
    for status in BAD[:3]:
        if status in statuses:
            return status
    if tolerance is None or math.isnan(expected):
        return "not judged"
    allowed = tolerance * (abs(expected) if kind == "relative" else 1)
    return "within" if abs(difference) <= allowed * (1 + _SLACK) else "beyond"


def exit_status(result: pd.DataFrame) -> int:
    """1 where any cell of a diff is beyond its tolerance, missing, failed or diverged, else 0."""
    return int(result["verdict"].isin(BAD).any())


def summary(result: pd.DataFrame) -> str:
    """One line: how many cells are within tolerance, the verdicts of the others, and the largest deviation."""
    counts = result["verdict"].value_counts()
    judged = len(result) - counts.get("not judged", 0)
    parts = [f"{counts.get('within', 0)} of {judged} cells within tolerance"]
    parts += [f"{counts[name]} {name}" for name in (*BAD, "not judged") if name in counts]
    worst = _largest(result)
    return ", ".join(parts) + (f"; largest deviation: {worst}" if worst else "")


def _largest(result: pd.DataFrame) -> str:
    """The judged cell with the largest deviation in units of its tolerance."""
    rows = result[result["verdict"].isin(["within", "beyond"]) & (result["difference"] != 0)]
    if rows.empty:
        return ""
    row = rows.loc[excess(rows).idxmax()]
    place = " ".join(part for part in (row["dataset"], method(row), attack(row), row["metric"]) if part)
    digits = names.metric(row["metric"]).decimals
    return f"{place} {row['produced']:.{digits}f} against {row['reference']:.{digits}f}"


def excess(rows: pd.DataFrame) -> pd.Series:
    """The deviation of each judged cell of a diff in units of its tolerance: above 1 it is beyond."""
    size = (rows["difference"].where(rows["kind"] == "absolute", rows["relative"])).abs()
    return (size / rows["tolerance"].where(rows["tolerance"] > 0, 1e-12)).fillna(math.inf)


def method(row) -> str:
    return names.row_label(row["defense"], row["cem"])


def attack(row) -> str:
    """`decoder infer`; "" for what is not an attack."""
    return f"{row['attacker']} {row['split']}".strip()
