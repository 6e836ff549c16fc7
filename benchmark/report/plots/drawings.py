"""The figures of a suite's cells: which there are, their names and captions, and where they are written."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmark.analysis import names, published
from benchmark.analysis.frame import csv_text, tidy
from benchmark.departures import parted
from benchmark.matrix.cells import Cell
from benchmark.report.drawing import drawing
from benchmark.report.plots import data, figures, style
from benchmark.report.render import escape_markdown, write_bytes, write_text
from benchmark.report.tables import slug
from benchmark.store.store import Store

# name -> (its figure, what that shows)
FIGURES = {
    "tradeoff": (
        figures.tradeoff,
        "accuracy against reconstruction MSE; arrows lead from a row without CEM to the same row with it",
    ),
    "bars": (figures.bars, "reconstruction MSE of every row, with and without CEM"),
    "published": (figures.against, "published against produced values; shaded: the tolerance of the command diff"),
    "training": (figures.training, "loss and accuracy in the course of training"),
    "fitting": (figures.fitting, "loss of the attackers while they are fitted, means over seeds"),
    "images": (figures.images, "MSE of single images: quartiles (box), 5 % and 95 % (whiskers), means over seeds"),
}


@dataclass(frozen=True)
class Drawing:
    """One figure. stem: of its files; caption: what it shows, of which protocol and seeds; changes: how its cells
    depart from the published setting; shown: its data; svg: the figure as wide as a column."""

    name: str
    stem: str
    dataset: str
    protocol: str
    caption: str
    changes: list[str]
    shown: pd.DataFrame
    svg: str

    def pdf(self, inches: float) -> bytes:
        """The figure so wide. Half of a report's time goes into PDFs, and the page needs none."""
        return _drawn(self.name, self.shown, self.changes, inches, style.pdf)


def drawings(cells: list[Cell], store: Store, frame: pd.DataFrame) -> list[Drawing]:
    """Every figure with something to show: for each protocol and data set of `frame` (tidy), each point of a sweep."""
    frame, found = tidy(frame), []
    several = frame["suite"].nunique() > 1  # a sweep has a suite for each of its points
    for (suite, protocol, dataset), part in frame.groupby(["suite", "protocol", "dataset"], sort=True):
        some = [cell for cell in cells if (cell.suite, cell.protocol, cell.dataset) == (suite, protocol, dataset)]
        where = suite if several else ""
        for name, shown in _shown(some, store, part).items():
            stem = slug(name, dataset, "" if protocol == "published" else protocol, where)
            caption, changes = _caption(name, part, where), _changes(part)
            svg = _drawn(name, shown, changes, style.COLUMN, style.svg)
            found.append(Drawing(name, stem, dataset, protocol, caption, changes, shown, svg))
    return found


def _drawn(name: str, shown: pd.DataFrame, changes: list[str], inches: float, save: Callable[[Any], Any]) -> Any:
    """What `save` makes of the figure, so wide."""
    with drawing(style.RC):
        figure = FIGURES[name][0](shown, inches)
        if changes:  # a figure may be used without its caption
            figure.supxlabel(f"{figure.get_supxlabel()}\n(reduced run: not at the published setting)")
        return save(figure)


def write(drawn: list[Drawing], out: Path) -> list[Path]:
    """Write the figures to `out` as SVG, two PDFs and CSV, and README.md, which says what they show; the paths."""
    paths, index = [], []
    for item in drawn:
        paths.append(write_text(out / f"{item.stem}.csv", csv_text(item.shown)))
        paths.append(write_text(out / f"{item.stem}.svg", item.svg))
        paths.append(write_bytes(out / f"{item.stem}.pdf", item.pdf(style.COLUMN)))
        paths.append(write_bytes(out / f"{item.stem}-wide.pdf", item.pdf(style.PAGE)))
        departures = f" Not at the published setting: {'; '.join(item.changes)}." if item.changes else ""
        index.append((item.stem, item.caption + departures))
    return [*paths, write_text(out / "README.md", _index(index))] if paths else []


def _shown(cells: list[Cell], store: Store, part: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The figures' names and data, those with nothing to show left out."""
    attacks = data.attacks(part)
    found = {
        "tradeoff": attacks.dropna(subset=["accuracy_percent"]),
        "bars": attacks,
        "published": data.against(part, published.reference()),
        "training": data.histories(cells, store),
        "fitting": _fitted(data.histories(cells, store, "attack")),
        "images": data.per_image(cells, store),
    }
    return {name: shown for name, shown in found.items() if len(shown)}


def _fitted(epochs: pd.DataFrame) -> pd.DataFrame:
    """The epochs whose loss can stand on a logarithmic axis."""
    if "loss" not in epochs:
        return epochs.iloc[:0]
    return epochs[(epochs["loss"] > 0) & np.isfinite(epochs[["epoch", "loss"]]).all(axis=1)]


def _caption(name: str, part: pd.DataFrame, suite: str) -> str:
    seeds = sorted(set(part[part["status"] == "done"]["seed"]) - {""}, key=int)
    text = f"{names.dataset_title(part['dataset'].iloc[0])}: {FIGURES[name][1]}. "
    text += f"Protocol {part['protocol'].iloc[0]}, seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}."
    return text + (f" {suite}." if suite else "")


def _changes(part: pd.DataFrame) -> list[str]:
    """How the finished cells depart from the published setting."""
    labels = part[(part["status"] == "done") & (part["kind"] != "efficiency")]["label"]
    return parted(labels)


def _index(entries: list[tuple[str, str]]) -> str:
    parts = [
        "# Figures",
        f"Each as SVG and PDF at the width of a column ({style.COLUMN} in) and as PDF at the width of a page "
        f"({style.PAGE} in), its data beside it as CSV.",
    ]
    parts += [
        f"![]({stem}.svg)\n\n{escape_markdown(caption)} "
        f"([PDF]({stem}.pdf), [wide]({stem}-wide.pdf), [data]({stem}.csv))"
        for stem, caption in entries
    ]
    return "\n\n".join(parts) + "\n"
