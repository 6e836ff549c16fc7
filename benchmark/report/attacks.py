"""How each attack went: whether it converged, and how its reconstructions are distributed over the images."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from benchmark.analysis import convergence
from benchmark.analysis.attacks import AXES, MEASURED_LATER, QUANTILE_COLUMNS, attacks
from benchmark.analysis.flags import flags
from benchmark.analysis.frame import csv_text
from benchmark.matrix.cells import Cell, Point
from benchmark.metrics.reconstruction import quantile_names
from benchmark.report import keep
from benchmark.report.render import escape_markdown, markdown_table, write_text, write_texts
from benchmark.store.store import Store


def write_attacks(cells: list[Cell], store: Store, out: Path) -> list[Path]:
    """Write attacks.csv and attacks.md, a line for each finished attack of `cells`; returns the paths."""
    found = attacks(cells, store)
    if found.empty:
        return []
    frame = keep.completed(found, out / "attacks.csv", QUANTILE_COLUMNS)
    return write_texts(out, {"attacks.csv": csv_text(frame), "attacks.md": _markdown(frame)})


def write_flags(frame: pd.DataFrame, swept: Mapping[str, Point], out: Path) -> list[Path]:
    """flags.csv below `out`: signs of weak attacks (analysis/flags.py); nothing if there are none."""
    found = flags(frame, set(frame["defense"]) - {"none"}, swept)
    return [write_text(out / "flags.csv", csv_text(found))] if len(found) else []


def _markdown(frame: pd.DataFrame) -> str:
    shown = [*AXES, "converged", "loss_decrease_percent", "mse", "mse_of_mean_image", "mse_worst_1_percent"]
    shown += [name for name in MEASURED_LATER if frame[name].notna().any()]
    shown += quantile_names("mse")
    rows = [[_text(name, value) for name, value in zip(shown, row, strict=True)] for row in frame[shown].to_numpy()]
    text = (
        "# The attacks\n\n"
        f"converged: `no` where the mean loss of the last fifth of the epochs is {convergence.LIMIT:g} % or more below "
        f"that of the fifth before, `too short` for fewer than {convergence.FEWEST} epochs. mse_of_mean_image: what "
        "knowing nothing gives. mse_q01 to mse_q99: the MSE below which so many percent of the images are rebuilt; "
        "mse_worst_1_percent: the mean over the best rebuilt 1 %; attacks.csv has the same for SSIM, and job keys. "
        "recognised_percent, where `measure recognise` was run: the rebuilt images whose class an undefended "
        "classifier names, and the originals. lpips, where `measure lpips` was run: the distance from the originals in "
        "a network's features, 0 for equal images, and its mean over the 1 % of images that are nearest by it.\n\n"
    )
    return text + markdown_table(rows, [escape_markdown(name) for name in shown]) + "\n"


def _text(name: str, value) -> str:
    if value is None or value != value:
        return "–"
    if isinstance(value, float):
        return f"{value:.1f}" if name.endswith(("recognised_percent", "decrease_percent")) else f"{value:.4f}"
    return str(value)
