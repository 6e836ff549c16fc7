"""The commands that write and compare tables: report, diff, audit."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.cli.app import MORE, SUITES, app
from benchmark.cli.options import TABLES, Plots, Selection, Tables, Without, path, path_option, selecting, several
from benchmark.errors import UserError
from benchmark.output import say, say_folded

if TYPE_CHECKING:
    from benchmark.report.write import Report


@app.command(rich_help_panel=SUITES)
@selecting
def report(
    selection: Selection,
    *,
    tables: Tables = TABLES,
    compare: Annotated[bool, typer.Option("--compare", help="published values in parentheses")] = False,
    metric: Annotated[list[str], several(help="one more column in the SSIM tables: psnr_db_per_image")],
    plots: Plots = True,
):
    """Write all that a suite's results support: tables, page, figures, verdicts, ablation, frontier.

    Verdicts say for each claim of the paper whether rows with and without CEM support it (docs/STATISTICS.md); the
    ablation is that of a suite with several protocols, the frontier that of one with a sweep.
    """
    from benchmark.report.write import write

    cells, about = selection.cells, selection.file.matrix.suites[selection.suite].description
    say_report(write(cells, selection.store, selection.out(tables), compare, metric, plots, about))


def say_report(written: "Report") -> None:
    """The answer, then the one file to open."""
    for line in written.answer.splitlines():
        say_folded(line)
    say(f"{written.page}: open this; {len(written.paths)} files in {written.page.parent}")


@app.command(rich_help_panel=SUITES)
@selecting
def diff(
    suite: Annotated[str, typer.Argument(metavar="SUITE|RUN_A", help="a suite, or the earlier of two runs")],
    run_b: Annotated[
        Path | None, typer.Argument(parser=path, help="the later of two runs: its results.csv, or the folder")
    ] = None,
    *,
    selection: Annotated[Selection, Without("suite")],
    against: Annotated[Path | None, path_option("results.csv of an earlier run, or its folder")] = None,
    tolerance: Annotated[list[str], several(help="metric=value, for example mse=0.1")],
    markdown: Annotated[Path | None, path_option("also write it to this file, as Markdown that fits a comment")] = None,
):
    """Compare every cell of a suite with the published value or an earlier run, or two runs with each other.

    A run is a results.csv that `report` wrote, or the folder that holds one. Exit status 1 beyond tolerance.
    """
    from benchmark.analysis import published
    from benchmark.analysis.collect import tidy_frame
    from benchmark.analysis.diff import read_reference
    from benchmark.report.diff_text import compare

    limits = _tolerances(tolerance)
    if run_b is None:
        chosen = selection.of(suite)
        cells = chosen.cells
        reference = read_reference(against) if against else published.reference()
        found = tidy_frame(cells, chosen.store)
    elif selection.where or selection.set_ or against:
        raise UserError("diff RUN_A RUN_B compares two files as they are; leave --where, --set and --against out")
    else:
        reference, found = read_reference(path(suite)), read_reference(run_b)
    raise typer.Exit(compare(reference, found, limits, markdown))


def _tolerances(texts: list[str]) -> dict[str, float]:
    found = {}
    for text in texts:
        metric, _, value = text.partition("=")
        try:
            found[metric.strip()] = float(value)
        except ValueError:
            raise UserError(f"--tolerance {text}: write it as metric=number, for example mse=0.1") from None
    return found


@app.command(rich_help_panel=MORE)
def audit(tables: Tables = TABLES):
    """Check the paper's printed tables for misprints and contradictions, from the printed numbers alone."""
    from benchmark.report.audit import write

    paths, summary = write(tables / "audit")
    say_folded(summary)
    say(f"{paths[0]}: open this; {len(paths)} files in {paths[0].parent}")
