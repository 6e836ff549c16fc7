"""The report stage: from cells and the store to files and to a verdict."""

from pathlib import Path

import pandas as pd

from benchmark.analysis import diff, published
from benchmark.analysis.collect import ATTACK, epochs, tidy_frame
from benchmark.errors import UserError
from benchmark.matrix.expand import Cell
from benchmark.matrix.source import suggest
from benchmark.report import diff_text, keep
from benchmark.report.attacks import write_attacks
from benchmark.report.bounds import write_bounds
from benchmark.report.page import build_page
from benchmark.report.plots import stage as plots
from benchmark.report.render import write_tables, write_text
from benchmark.store.store import Store


def write(
    cells: list[Cell], results: Path, out: Path, compare: bool, metrics: list[str], figures: bool = True
) -> list[Path]:
    """Write the tables of `cells`, report.html and plots/ to the folder `out`; returns the paths.

    compare: put the published value behind each produced one; metrics: further columns of the SSIM tables; figures:
    whether plots/ is wanted.
    Where tables with more values are there already, their folder is moved aside first, and that is told (keep.py).
    UserError for a damaged result, an unknown metric, an unwritable folder, and where nothing is done yet.
    """
    store = Store(results)
    for name in metrics:
        if name not in ATTACK:
            raise UserError(f"--metric {name}: {suggest(name, ATTACK)}")
    frame = tidy_frame(cells, store)
    keep.require_some(frame, cells[0].suite, results)
    page = build_page(cells, store, metrics, out, figures)  # whatever is damaged is told before any file is written
    keep.set_aside_richer(frame, out)
    paths = [*write_tables(frame, out, compare, metrics, epochs(cells)), *write_bounds(frame, out)]
    paths += write_attacks(cells, store, out)
    paths.append(write_text(out / "report.html", page))
    return [*paths, *(plots.write(cells, store, frame, out / "plots") if figures else [])]


def compare_with(
    cells: list[Cell], results: Path, against: Path | None, tolerances: list[str], markdown: Path | None
) -> int:
    """Print every cell beside the published value, or beside an earlier run's; the exit status of `diff`."""
    reference = diff.read_reference(against) if against else published.reference()
    return _told(reference, tidy_frame(cells, Store(results)), tolerances, markdown)


def compare_runs(before: Path, after: Path, tolerances: list[str], markdown: Path | None) -> int:
    """Print every cell of one run's results.csv beside another's; the exit status of `diff`."""
    return _told(diff.read_reference(before), diff.read_reference(after), tolerances, markdown)


def _told(reference: pd.DataFrame, produced: pd.DataFrame, tolerances: list[str], markdown: Path | None) -> int:
    result = diff.diff(reference, produced, _tolerances(tolerances))
    diff_text.show(result)
    if markdown:
        write_text(markdown, diff_text.to_markdown(result))
    return diff.exit_status(result)


def _tolerances(texts: list[str]) -> dict[str, float]:
    found = {}
    for text in texts:
        metric, _, value = text.partition("=")
        try:
            found[metric.strip()] = float(value)
        except ValueError:
            raise UserError(f"--tolerance {text}: write it as metric=number, for example mse=0.1") from None
    return found
