"""A suite's findings, computed once for everything that shows them: tables, page, figures, verdicts."""

from dataclasses import dataclass

import pandas as pd

from benchmark.analysis.collect import epochs, per_image_reader, tidy_frame
from benchmark.analysis.swept import swept
from benchmark.analysis.verdicts import verdicts
from benchmark.matrix.cells import Cell, Point
from benchmark.report.pictures import Rebuilt, on_same_originals
from benchmark.report.plots.drawings import Drawing, drawings
from benchmark.report.plots.style import ordered
from benchmark.store.store import Store


@dataclass(frozen=True)
class Findings:
    """frame: tidy; verdicts: from analysis/verdicts.py, also over images; epochs: from analysis/collect.py; pictures:
    the rebuilt images, grouped by originals; drawings: the figures, empty if they are not wanted.

    strengths: suite -> its point, if it is of a sweep; attack_points: those that change only attacks; swept: the lines
    of these (analysis/swept.py).
    """

    cells: list[Cell]
    store: Store
    frame: pd.DataFrame
    verdicts: pd.DataFrame
    epochs: dict[tuple[str, str, str], str]
    pictures: list[list[Rebuilt]]
    drawings: list[Drawing]
    strengths: dict[str, Point]
    attack_points: list[str]
    swept: pd.DataFrame


def findings(cells: list[Cell], store: Store, figures: bool = True) -> Findings:
    """The findings of `cells`. UserError for a damaged result."""
    frame = tidy_frame(cells, store)
    strengths = {cell.suite: cell.strength for cell in cells if cell.strength}
    on_attacks = {suite: point for suite, point in strengths.items() if point.of_attacks}
    return Findings(
        cells,
        store,
        frame,
        verdicts(frame, per_image_reader(cells, store), strengths),
        epochs(cells, store),
        on_same_originals(cells, store, ordered(cell.defense for cell in cells)),
        drawings(cells, store, frame) if figures else [],
        strengths,
        [str(point) for point in on_attacks.values()],
        swept(frame, on_attacks),
    )
