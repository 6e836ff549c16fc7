"""Writes everything that a suite's results support into the suite's folder of tables."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from benchmark.analysis.ablation import BASE, ablation
from benchmark.analysis.collect import ATTACK
from benchmark.analysis.frontier import points
from benchmark.analysis.verdicts import aggregate
from benchmark.departures import told
from benchmark.errors import UserError
from benchmark.matrix.cells import Cell, Point
from benchmark.matrix.source import suggest
from benchmark.output import tell
from benchmark.report import keep
from benchmark.report.attacks import write_attacks, write_flags
from benchmark.report.bounds import write_bounds
from benchmark.report.findings import findings
from benchmark.report.frontier import told_without_sweep, write_frontier
from benchmark.report.index import write_index
from benchmark.report.leaderboard import write_leaderboard
from benchmark.report.montage import write_montages
from benchmark.report.page import build_page
from benchmark.report.plots import drawings as plots
from benchmark.report.render import write_tables, write_text
from benchmark.report.swept import write_swept
from benchmark.report.verdicts import summary, write_ablation, write_verdicts
from benchmark.store.store import Store


@dataclass(frozen=True)
class Report:
    """What was written. page: the file to open; paths: all files, including that one; answer: the verdicts, a line for
    each claim, "" if no row has both sides."""

    page: Path
    paths: list[Path]
    answer: str


def write(
    cells: list[Cell],
    store: Store,
    out: Path,
    compare: bool,
    metrics: list[str],
    figures: bool = True,
    description: str = "",
) -> Report:
    """Write to the folder `out` what the results of `cells` support: tables, attacks, bounds, the page and figures;
    verdicts if rows have CEM off and on; the ablation if there are other protocols besides `published`; for a suite
    with a sweep the frontier, or the table of a sweep over attackers' settings.

    Also write, beside `out`, the index of all tables (index.py), with `description` for the suite, and the leaderboard
    of all results in the store (leaderboard.py).

    compare: put the published value after each produced one; metrics: further columns of the SSIM tables; figures:
    whether plots/ and the frontier's figures are wanted.
    If existing tables have more values, their folder is moved aside first, with a message (keep.py).
    UserError for a damaged result, an unknown metric, an unwritable folder, and if nothing is done yet.
    """
    for name in metrics:
        if name not in ATTACK:
            raise UserError(f"--metric {name}: {suggest(name, ATTACK)}")
    # damaged results are reported before any file is written
    found = findings(cells, store, figures)
    frame, judged = found.frame, found.verdicts
    keep.require_some(frame, cells[0].suite_as_declared, store.root)
    page = build_page(found, metrics, out)
    strengths = found.strengths
    ablated, traded = _ablation(frame, cells), _frontier(frame, strengths)
    keep.set_aside_richer(frame, out)
    departures = told(departure for cell in cells for departure in cell.departures)
    paths = [*write_bounds(frame, out), *write_attacks(cells, store, out), *write_flags(frame, strengths, out)]
    paths += write_verdicts(judged, aggregate(frame, strengths), departures, out)
    paths += write_ablation(ablated, departures, out)
    others = told_without_sweep([cell.departures for cell in cells], list(strengths.values()))
    paths += write_frontier(traded, others, out, figures)
    paths += write_swept(found.swept, found.attack_points, others, out)
    documents = [path for path in paths if path.suffix == ".md"]
    paths += write_tables(frame, judged, out, compare, metrics, found.epochs, documents)
    paths.append(write_text(out / "report.html", page))
    if figures:
        paths += [*plots.write(found.drawings, out / "plots"), *write_montages(found.pictures, out / "plots")]
    answer = summary(judged) if len(judged) else ""
    paths.append(write_index(cells, store, out, description, answer))
    paths += write_leaderboard(store, out.parent)
    return Report(out / "report.html", paths, answer)


def _ablation(frame: pd.DataFrame, cells: list[Cell]) -> pd.DataFrame:
    found = ablation(frame)
    if found.empty and {BASE} < {cell.protocol for cell in cells if cell.protocol}:
        tell(f"no ablation yet: no row has finished under the protocol '{BASE}' and under another")
    return found


def _frontier(frame: pd.DataFrame, strengths: dict[str, Point]) -> pd.DataFrame:
    strengths = {suite: point for suite, point in strengths.items() if not point.of_attacks}
    found = points(frame, strengths)
    if strengths and found.empty:
        tell("no frontier yet: no point of the sweep has both its accuracy and an attack")
    return found
