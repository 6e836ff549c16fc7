"""The trade-off of accuracy and MSE over a suite's sweep, as Markdown, CSV and figures."""

from fnmatch import fnmatchcase
from pathlib import Path

import pandas as pd

from benchmark.analysis import names
from benchmark.analysis.frame import csv_text
from benchmark.analysis.frontier import averaged, front, gains
from benchmark.departures import Departure, told
from benchmark.matrix.cells import Point
from benchmark.report.drawing import BLUE, GREEN, MARKS, ORANGE, PURPLE, drawing, write_figure
from benchmark.report.numbers import with_interval
from benchmark.report.render import markdown_table, not_published, write_texts


def write_frontier(found: pd.DataFrame, labels: list[str], out: Path, figures: bool) -> list[Path]:
    """frontier.md, frontier.csv and frontier_gains.csv below `out`, and frontier-*.svg where `figures` are wanted.

    found: of analysis/frontier.py's `points`; nothing where it is empty. labels: how the cells depart from the
    published setting.
    """
    if found.empty:
        return []
    means, gained = averaged(found), gains(found)
    texts = {
        "frontier.csv": csv_text(means),
        "frontier_gains.csv": csv_text(gained),
        "frontier.md": _markdown(means, gained, labels),
    }
    paths = write_texts(out, texts)
    for key, part in means.groupby(["dataset", "protocol", "split"], sort=False) if figures else ():
        paths.append(_plot(part, key, out / f"frontier-{'-'.join(key)}.svg"))
    return paths


def told_without_sweep(departures: list[tuple[Departure, ...]], points: list[Point]) -> list[str]:
    """The departures of a sweep's cells, each once, without those that the sweep itself makes.

    departures: of each cell; points: the sweep's.
    """
    patterns = [_pattern(point) for point in points]
    every = [departure for of_cell in departures for departure in of_cell]
    return told(one for one in every if not any(fnmatchcase(one.path, pattern) for pattern in patterns))


def _pattern(point: Point) -> str:
    """The paths of the departures that a point of the sweep makes; for a defence and CEM, without its name."""
    section, *_, key = point.path.split(".")
    return point.path if point.of_attacks else f"{'defense' if section == 'defenses' else section}.{key}"


def _markdown(means: pd.DataFrame, gained: pd.DataFrame, labels: list[str]) -> str:
    def place(row: dict) -> list[str]:
        label = names.row_label(row["defense"], row["cem"])
        return [names.dataset_title(row["dataset"]), row["protocol"], label, row["split"]]

    compared = [
        [*place(row), row["seeds"], with_interval(row["percent"], row["low"], row["high"], "+.1f", " %")]
        + [with_interval(row["hypervolume"], row["hypervolume_low"], row["hypervolume_high"], ".3f")]
        for row in gained.to_dict("records")
    ]
    listed = [
        [*place(row), row["strength"], row["seeds"], f"{row['accuracy']:.2f}", f"{row['mse']:.5f}"]
        + ["yes" * row["on_front"]]
        for row in means.to_dict("records")
    ]
    head = ["data set", "protocol", "method", "split"]
    parts = [
        "# Accuracy against MSE",
        "Every setting at the same epochs and seeds; MSE is the lowest of any attacker. docs/STATISTICS.md says how "
        "frontiers are compared.",
        *not_published(labels),
        "## CEM on against off",
        "MSE gain at equal accuracy, over the accuracies that both frontiers span (a dash: none), and the ratio of the "
        "areas below them; in brackets 95 % bootstrap intervals over seeds.",
        markdown_table(compared, [*head, "seeds", "MSE gain", "area ratio"]),
        "## Settings",
        markdown_table(listed, [*head, "strength", "seeds", "accuracy %", "MSE", "on its frontier"]),
    ]
    return "\n\n".join(parts) + "\n"


def _plot(part: pd.DataFrame, key: tuple[str, str, str], path: Path) -> Path:
    """One panel a defence: every setting as a mark, each frontier as a line."""
    defenses = list(dict.fromkeys(part["defense"]))
    with drawing() as figure_class:
        figure = figure_class(figsize=(3.6 * len(defenses), 3.4), layout="constrained")
        _panels(figure, part, defenses)
        figure.suptitle(f"{names.dataset_title(key[0])}, protocol {key[1]}, split {key[2]}")
        return write_figure(figure, path)


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
