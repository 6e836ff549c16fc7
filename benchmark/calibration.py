"""Calibration of a suite's rows: their targets, the trainings and attacks of each candidate, and the result."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from benchmark.analysis.frame import tidy
from benchmark.analysis.search import Evaluation, Strengths, Values, rungs, search
from benchmark.departures import told
from benchmark.errors import UserError
from benchmark.matrix.cells import Cell, Job
from benchmark.matrix.expand import expand, jobs
from benchmark.matrix.load import Change, MatrixFile
from benchmark.report.calibration import LOG, STRENGTHS, write_candidates, write_strengths
from benchmark.store.store import Store

# jobs -> nothing; a failed job stays undone in the store
Run = Callable[[list[Job]], None]


class Row(NamedTuple):
    """A row of the suite, without CEM."""

    dataset: str
    defense: str
    protocol: str


@dataclass(frozen=True)
class Found:
    """The result of a calibration, and its files. rows: as in strengths.yaml, an entry for each row."""

    rows: list[dict]
    strengths: Path
    log: Path

    def told(self) -> list[str]:
        """A line for each row: its strengths, and how close they come to the targets."""
        lines = []
        for row in self.rows:
            strengths = ", ".join(f"{path} {value:g}" for path, value in row["set"].items())
            distance = row["found"]["distance"]
            near = f"distance {distance:g}, where 1 is the tolerance of `diff`"
            lines.append(f"{' '.join(row['where'].values())}: {strengths} ({near})")
        return lines


@dataclass(frozen=True)
class Calibrator:
    """Everything a calibration needs: matrix and suite, the user's choice of cells and changes, store and engine.

    reference: tidy frame whose rows without CEM hold the targets; source: its description, for the record.
    """

    file: MatrixFile
    suite: str
    where: dict[str, list[str]]
    changes: list[Change]
    data_root: Path
    store: Store
    run: Run
    reference: pd.DataFrame
    source: str
    out: Path

    def rows(self) -> list[Row]:
        """Each row of the suite that has ranges, in the matrix's order."""
        cells = self._cells(self.where, self.changes)
        if any(cell.strength for cell in cells):
            raise UserError(
                f"the suite '{self.suite}' sweeps a setting, and a calibration needs one value of each; "
                "calibrate a suite without `sweep`"
            )
        found = dict.fromkeys(Row(cell.dataset, cell.defense, cell.protocol) for cell in cells)
        return [row for row in found if row.defense in self.file.matrix.calibration.ranges]

    def calibrate(self) -> Found:
        """Search every row, and write strengths.yaml and calibration.csv below `out` (after each rung).

        UserError if no row has both ranges and targets, or if no candidate of a row could be measured.
        """
        logged: list[dict] = []
        found: list[dict] = []
        for row in self.rows():
            cells = self._row_cells(row, [])
            if targets := self._targets(row, cells):
                found.append(self._calibrate_row(row, cells[0], targets, logged))
                write_strengths(found, self.suite, self.out)
        if not found:
            raise UserError(
                f"no row of the suite '{self.suite}' has both search ranges in the matrix and values without CEM in "
                f"{self.source}; choose other rows, or give an earlier run by --against"
            )
        return Found(found, self.out / STRENGTHS, self.out / LOG)

    def _calibrate_row(self, row: Row, first: Cell, targets: Values, logged: list[dict]) -> dict:
        """The row's entry in strengths.yaml; its candidates are added to `logged`, the lines of calibration.csv."""
        settings, ranges = self.file.matrix.calibration, self.file.matrix.calibration.ranges[row.defense]
        training = first.job.cell
        params, epochs = training["defense"]["params"], training["train"]["epochs"]
        anchor = {name: params[name] for name in ranges}
        before = list(logged)

        def evaluate(many: list[Strengths], budget: int) -> list[Values | None]:
            cells = [self._row_cells(row, _changes(row.defense, one, budget)) for one in many]
            self.run(jobs([cell for part in cells for cell in part]))
            return [self._values(part, targets) for part in cells]

        def log(done: list[Evaluation]) -> None:
            logged[:] = before + [_line(row, item) for item in done]
            write_candidates(logged, self.out)

        best, done = search(anchor, ranges, targets, epochs, settings, evaluate, log)
        if best.values is None or not math.isfinite(best.distance):
            raise UserError(
                f"no candidate for {row.dataset} {row.defense} could be measured against {self.source}; see the failed "
                "jobs"
            )
        cells = self._row_cells(row, _changes(row.defense, best.strengths, epochs))
        seeds = sorted({cell.seed for cell in cells})
        record = self.store.provenance(cells[0].job)
        departures = told(departure for cell in cells for departure in cell.departures)
        return {
            "where": row._asdict(),
            "set": {f"defenses.{row.defense}.{name}": value for name, value in best.strengths.items()},
            "found": {
                "targets": _named(targets, self.source),
                "reached": _named(best.values, "measured"),
                "distance": round(best.distance, 4),
                "suite": self.suite,
                "evaluations": len(done),
                "rungs_epochs": rungs(settings, epochs),
                "trained_epochs": sum(item.epochs for item in done) * len(seeds),
                "candidates_seed": settings.seed,
                "seeds": seeds,
                **{name: record.get(name, "") for name in ("device", "commit", "finished")},
                "departs_from_the_published_setting": "; ".join(departures),
            },
        }

    def _cells(self, where: dict[str, list[str]], changes: list[Change]) -> list[Cell]:
        """The suite's cells without CEM, and without bounds, which have no targets."""
        cells = expand(self.file, self.suite, self.data_root, where | {"cem": ["off"]}, changes)
        return [cell for cell in cells if cell.kind in ("train", "attack")]

    def _row_cells(self, row: Row, changes: list[Change]) -> list[Cell]:
        chosen = {axis: [value] for axis, value in row._asdict().items()}
        return self._cells(self.where | chosen, self.changes + changes)

    def _targets(self, row: Row, cells: list[Cell]) -> Values:
        """The row's values in the reference, for the metrics that its chosen cells measure."""
        frame = tidy(self.reference)
        rows = frame[(frame["dataset"] == row.dataset) & (frame["defense"] == row.defense) & (frame["cem"] == "off")]
        rows = rows[rows["status"] == "done"]
        if row.protocol in set(rows["protocol"]):  # an earlier run may hold several; the printed numbers have one
            rows = rows[rows["protocol"] == row.protocol]
        means = rows.groupby(["metric", "attacker", "split"])["value"].mean()
        measured = {_metric(cell) for cell in cells}
        return {_key(*index): float(value) for index, value in means.items() if _key(*index) in measured}

    def _values(self, cells: list[Cell], targets: Values) -> Values | None:
        """Means over seeds of the metrics that have a target; None if one is missing."""
        values: dict[tuple[str, ...], list[float]] = {metric: [] for metric in targets}
        for cell in cells:
            metric = _metric(cell)
            if metric not in values:
                continue
            if self.store.status(cell.job)[0] != "done":
                return None
            value = self.store.metrics(cell.job)["values"].get(metric[0])
            if value is None:  # it was finite while fitted, but not when scored
                return None
            values[metric].append(value)
        return {metric: sum(found) / len(found) for metric, found in values.items()}


def _changes(defense: str, strengths: Strengths, epochs: int) -> list[Change]:
    where = "the calibration's candidate"
    found = [Change(f"defenses.{defense}.{name}", value, where) for name, value in strengths.items()]
    return [*found, Change("train.epochs", epochs, where)]


def _metric(cell: Cell) -> tuple[str, ...]:
    return _key("accuracy_percent" if cell.kind == "train" else "mse", cell.attacker, cell.split)


def _key(metric: str, attacker: str, split: str) -> tuple[str, ...]:
    return (metric, attacker, split) if attacker else (metric,)


def _named(values: Values, source: str) -> dict:
    return {"source": source} | {" ".join(metric): round(value, 6) for metric, value in values.items()}


def _line(row: Row, item: Evaluation) -> dict:
    line = row._asdict() | {"rung": item.rung, "epochs": item.epochs}
    line["strengths"] = " ".join(f"{name}={value:g}" for name, value in item.strengths.items())
    line["distance"] = f"{item.distance:.4f}"
    for kind, values in (("measured", item.values), ("expected", item.expected)):
        line[kind] = " ".join(f"{'/'.join(metric)}={value:.6g}" for metric, value in (values or {}).items())
    return line
