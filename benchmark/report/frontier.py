"""The frontier stage: from the cells of a swept suite to frontier.csv, frontier_gains.csv, frontier.md and plots."""

import math
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pandas as pd
from tabulate import tabulate

from benchmark.analysis import names
from benchmark.analysis.collect import tidy_frame
from benchmark.analysis.frame import csv_text
from benchmark.analysis.frontier import LINE, front, gain, points
from benchmark.data import DATASETS
from benchmark.departures import Departure, told
from benchmark.errors import UserError
from benchmark.matrix.expand import Cell, Point
from benchmark.report import keep
from benchmark.report.drawing import BLUE, GREEN, MARKS, ORANGE, PURPLE, drawing, write_figure
from benchmark.report.render import escape_markdown, write_text
from benchmark.store.store import Store

ROW = ["dataset", "protocol", "defense", "split"]


def write(cells: list[Cell], results: Path, out: Path) -> list[Path]:
    """Write the frontiers of `cells` below `out`; returns the paths.

    UserError for a suite without a sweep, and where no setting of one has both its accuracy and an attack.
    """
    strengths = {cell.suite: cell.strength for cell in cells if cell.strength}
    if not strengths:
        raise UserError(
            f"the suite '{cells[0].suite}' has no sweep; give it one in the matrix: sweep: {{path: [values]}}"
        )
    frame = tidy_frame(cells, Store(results))
    found = points(frame, strengths)
    if found.empty:
        raise UserError("no setting of the sweep has both an accuracy and an attack yet; run the suite first")
    keep.set_aside_richer(frame, out)
    averaged = _averaged(found)
    gains = _gains(found)
    departures = told_without_sweep([cell.departures for cell in cells], list(strengths.values()))
    files = {
        "frontier.csv": csv_text(averaged),
        "frontier_gains.csv": csv_text(gains),
        "frontier.md": _markdown(averaged, gains, departures),
    }
    paths = [write_text(out / name, text) for name, text in files.items()]
    for key, part in averaged.groupby(["dataset", "protocol", "split"], sort=False):
        paths.append(_plot(part, key, out / f"frontier-{'-'.join(key)}.svg"))
    return paths


def _averaged(found: pd.DataFrame) -> pd.DataFrame:
    """Seeds averaged; on_front: whether no other setting of the same line is better in both."""
    averaged = found.groupby([*LINE, "strength"], sort=False, as_index=False).agg(
        seeds=("seed", "nunique"), accuracy=("accuracy", "mean"), mse=("mse", "mean")
    )
    averaged["on_front"] = False
    for _, part in averaged.groupby(LINE, sort=False):
        best = {tuple(row) for row in front(part[["accuracy", "mse"]].to_numpy())}
        averaged.loc[part.index, "on_front"] = [tuple(row) in best for row in part[["accuracy", "mse"]].to_numpy()]
    return averaged


def _gains(found: pd.DataFrame) -> pd.DataFrame:
    """A line for each row and form of CEM: the Gain over the row without it, at the seeds and strengths of both."""
    lines = []
    for row, part in found.groupby(ROW, sort=False):
        chance = 100 / DATASETS.get(row[0]).classes
        for cem in sorted(set(part["cem"]) - {"off"}):
            both = _paired(part, cem)
            if both is not None:
                lines.append(dict(zip(ROW, row, strict=True)) | {"cem": cem} | vars(gain(*both, chance)))
    return pd.DataFrame(lines, columns=[*ROW, "cem", *gain.__annotations__["return"].__annotations__])


def _paired(part: pd.DataFrame, cem: str) -> tuple[np.ndarray, np.ndarray] | None:
    """[seeds, settings, 2] without and with CEM, of the settings that both have and the seeds that each of those has;
    None where there is none."""
    halves = [part[part["cem"] == side] for side in ("off", cem)]
    shared = set(halves[0]["strength"]) & set(halves[1]["strength"])
    if not shared:
        return None
    sides = [half[half["strength"].isin(shared)].pivot(index="seed", columns="strength") for half in halves]
    sides = [side[["accuracy", "mse"]].dropna() for side in sides]
    seeds = sides[0].index.intersection(sides[1].index)
    if seeds.empty:
        return None
    return tuple(np.stack([side.loc[seeds, name].to_numpy() for name in ("accuracy", "mse")], axis=2) for side in sides)


def told_without_sweep(departures: list[tuple[Departure, ...]], points: list[Point]) -> list[str]:
    """What the cells of a sweep depart in beside what the sweep itself changes, each once.

    departures: of each cell; points: the sweep's.
    """
    patterns = [_pattern(point) for point in points]
    every = [departure for of_cell in departures for departure in of_cell]
    return told(one for one in every if not any(fnmatchcase(one.path, pattern) for pattern in patterns))


def _pattern(point: Point) -> str:
    """The paths of the departures that a point of the sweep makes: a defence's and CEM's are told without its name."""
    section, *_, key = point.path.split(".")
    return point.path if section == "attacks" else f"{'defense' if section == 'defenses' else section}.{key}"


def _markdown(averaged: pd.DataFrame, gains: pd.DataFrame, departures: list[str]) -> str:
    def signed(row: dict, name: str, low: str, high: str, spec: str) -> str:
        if math.isnan(row[name]):
            return "–"
        interval = "" if math.isnan(row[low]) else f" ({spec.format(row[low])} to {spec.format(row[high])})"
        return spec.format(row[name]) + interval

    compared = [
        [
            names.dataset_title(row["dataset"]),
            row["protocol"],
            names.row_label(row["defense"], row["cem"]),
            row["split"],
        ]
        + [str(row["seeds"]), signed(row, "percent", "low", "high", "{:+.1f} %")]
        + [signed(row, "hypervolume", "hypervolume_low", "hypervolume_high", "{:.3f}")]
        for row in gains.to_dict("records")
    ]
    listed = [
        [
            names.dataset_title(row["dataset"]),
            row["protocol"],
            names.row_label(row["defense"], row["cem"]),
            row["split"],
        ]
        + [row["strength"], str(row["seeds"]), f"{row['accuracy']:.2f}", f"{row['mse']:.5f}", "yes" * row["on_front"]]
        for row in averaged.to_dict("records")
    ]
    head = ["data set", "protocol", "method", "split"]
    parts = [
        "# Accuracy against MSE",
        "Every setting at the same epochs and seeds; MSE is the lowest of any attacker. docs/STATISTICS.md says how "
        "frontiers are compared.",
        *([f"Not at the published setting: {escape_markdown('; '.join(departures))}."] if departures else []),
        "## CEM on against off",
        "MSE gain at equal accuracy, over the accuracies that both frontiers span (a dash: none), and the ratio of the "
        "areas below them; in brackets 95 % bootstrap intervals over seeds.",
        _table(compared, [*head, "seeds", "MSE gain", "area ratio"]),
        "## Settings",
        _table(listed, [*head, "strength", "seeds", "accuracy %", "MSE", "on its frontier"]),
    ]
    return "\n\n".join(parts) + "\n"


def _table(rows: list[list[str]], headings: list[str]) -> str:
    escaped = [[escape_markdown(item) for item in row] for row in rows]
    return tabulate(escaped, headers=headings, tablefmt="pipe", disable_numparse=True)


def _plot(part: pd.DataFrame, key: tuple[str, str, str], path: Path) -> Path:
    """One panel a defence: every setting as a mark, each frontier as a line."""
    defenses = list(dict.fromkeys(part["defense"]))
    with drawing() as figure_class:
        figure = figure_class(figsize=(3.6 * len(defenses), 3.4), layout="constrained")
        _panels(figure, part, defenses)
        figure.suptitle(f"{names.dataset_title(key[0])}, protocol {key[1]}, split {key[2]}")
        return write_figure(figure, path, metadata={"Date": None})


def _panels(figure, part: pd.DataFrame, defenses: list[str]) -> None:
    for panel, defense in zip(figure.subplots(1, len(defenses), squeeze=False).flat, defenses, strict=True):
        for number, (cem, side) in enumerate(part[part["defense"] == defense].groupby("cem", sort=True)):
            colour, best = (BLUE, ORANGE, GREEN, PURPLE)[number % 4], front(side[["accuracy", "mse"]].to_numpy())
            panel.plot(side["accuracy"], side["mse"], MARKS[number % len(MARKS)], color=colour, alpha=0.6)
            panel.plot(best[:, 0], best[:, 1], color=colour, label=names.row_label(defense, cem))
        panel.set_xlabel("accuracy, %")
        panel.set_ylabel("strongest attacker's MSE")
        panel.legend(frameon=False, fontsize=8)
        panel.spines[["top", "right"]].set_visible(False)
