"""The commands that go further than the suites: measure, calibrate, attack-released, schema."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from benchmark.cli.app import MORE, app, group
from benchmark.cli.options import (
    TABLES,
    AtOnce,
    Device,
    Plots,
    Selection,
    Tables,
    Without,
    path,
    path_option,
    selecting,
    several,
)
from benchmark.cli.tables import say_report
from benchmark.errors import UserError
from benchmark.output import say, say_folded, say_lines, tell

if TYPE_CHECKING:
    from benchmark.jobs.run_job import Machine
    from benchmark.matrix.cells import Cell

measure = group(
    "measure", MORE, "Measure more: of a suite's rebuilt images (lpips, recognise), or how fast this machine is."
)


@measure.command()
@selecting
def lpips(
    selection: Selection,
    device: Device = "auto",
    weights: Annotated[Path | None, path_option("file of AlexNet's weights; default: where torch keeps them")] = None,
):
    """How far rebuilt images are from the originals in a network's features, where its weights are at hand."""
    from benchmark.jobs.lpips import measure

    _say_found(measure(selection.cells, _machine(selection, device), weights))


@measure.command()
@selecting
def recognise(
    selection: Selection,
    device: Device = "auto",
    classifier: Annotated[Path | None, path_option("folder of a finished training; default: the row `none`")] = None,
):
    """How many rebuilt images an undefended classifier recognises."""
    from benchmark.jobs.recognise import recognise

    # --where may leave out the row `none`, whose classifier is needed
    known = [] if classifier else selection.whole().cells
    _say_found(recognise(selection.cells, known, _machine(selection, device), classifier))


@measure.command()
def speed(
    device: Device = "auto",
    tables: Tables = TABLES,
    rounds: Annotated[int, typer.Option(help="timings of each case, at most")] = 5,
    quick: Annotated[bool, typer.Option("--quick", help="small sizes: a check that it runs, in seconds")] = False,
    only: Annotated[str, typer.Option(help="some groups, separated by commas, written to a folder of their own")] = "",
):
    """How fast the steps are on this machine, beside plain scripts that do the same; minutes on an idle machine."""
    from benchmark.training.device import pick

    stage, plot = _timed_cases()
    groups, latest, files = stage.chosen(only), [], []
    out = tables / "speed" / ("-".join(groups) if only else "")
    chosen = pick(device)
    stage.check(out)

    def keep(found) -> None:
        latest[:], files[:] = [found], stage.write(found, out)

    try:
        stage.measure(chosen, rounds, quick, groups, keep)
    except KeyboardInterrupt:
        tell(f"interrupted; {f'what was measured is in {out}' if latest else 'nothing was written'}")
        raise typer.Exit(130) from None
    finally:  # once: to draw takes as long as some groups
        files += [file for found in latest for file in plot.draw(found, out)]
    for file in files:
        say(file)


def _timed_cases():
    """benchmarks/stage.py and plot.py, which lie beside this package in the repository, and nowhere else."""
    root = Path(__file__).parents[2]
    if not (root / "benchmarks" / "stage.py").is_file():
        raise UserError(
            "the timed cases come with the repository, not with the installed package; run this in a clone of it"
        )
    sys.path.append(str(root))  # at the end: nothing of it hides another package
    from benchmarks import plot, stage

    return stage, plot


def _machine(selection: Selection, device: str) -> "Machine":
    """The machine that rebuilds the images of attacks and stores the measurements."""
    from benchmark.jobs.run_job import Machine
    from benchmark.training.device import pick

    selection.store.check_writable()
    return Machine(selection.store, selection.data, pick(device))


def _say_found(found: "Iterator[tuple[Cell, str]]") -> None:
    for cell, text in found:
        say(f"{cell.job.title}, {cell.protocol}: {text}")


@app.command(rich_help_panel=MORE)
@selecting
def calibrate(
    selection: Selection,
    tables: Tables = TABLES,
    device: Device = "auto",
    cells: AtOnce = "auto",
    against: Annotated[Path | None, path_option("a results.csv with targets; default: the printed ones")] = None,
):
    """Search the strengths of a suite's rows, so that without CEM they meet the printed accuracy and MSE.

    Interrupt and run again at will: what is trained is kept. --where attacker=decoder leaves the GAN out of the search.
    """
    from benchmark import engines
    from benchmark.analysis import diff, published
    from benchmark.calibration import Calibrator
    from benchmark.engines import concurrency
    from benchmark.matrix.expand import parse_where
    from benchmark.matrix.load import parse_set

    at_once, store = concurrency.parse(cells), selection.store
    selection.require_data()
    store.check_writable()

    def run(jobs) -> None:
        for job, reason, _ in engines.run("local", jobs, store, selection.data, device, at_once, {}):
            tell(f"failed: {job.title}: {reason}")

    calibrator = Calibrator(
        file=selection.file,
        suite=selection.suite,
        where=parse_where(selection.where),
        changes=parse_set(selection.set_),
        data_root=selection.data,
        store=store,
        run=run,
        reference=diff.read_reference(against) if against else published.reference(),
        source=str(against) if against else "the published tables",
        out=tables / selection.suite,
    )
    found = calibrator.calibrate()
    for line in found.told():
        say_folded(line)
    say(f"use it: --set @{found.strengths} (every candidate: {found.log})")


@app.command("attack-released", rich_help_panel=MORE)
@selecting
def attack_released(
    folder: Annotated[Path, typer.Argument(parser=path, help="a released model's folder, or one that holds several")],
    *,
    dataset: Annotated[str, typer.Option(help="the data set that the models were trained on")],
    suite: Annotated[str | None, typer.Option(help="suite of attackers and settings; default: the data set's")] = None,
    defense: Annotated[list[str], several(help="the row, or PART=ROW for folders with PART in their path")],
    cem: Annotated[Literal["on", "off"] | None, typer.Option(help="where the path does not say it")] = None,
    noise: Annotated[float | None, typer.Option(help="standard deviation, where the path does not say it")] = None,
    selection: Annotated[Selection, Without("suite")],
    tables: Tables = TABLES,
    device: Device = "auto",
    cells: AtOnce = "auto",
    plots: Plots = True,
):
    """Attack models that the paper's authors published, and put the rows beside the printed ones (docs/DATA.md).

    Interrupt and run again at will. --where chooses attackers, splits, protocols and seeds.
    """
    from benchmark import data as datasets
    from benchmark import engines
    from benchmark.analysis import published
    from benchmark.analysis.collect import tidy_frame
    from benchmark.engines import concurrency
    from benchmark.matrix.expand import jobs, parse_where
    from benchmark.matrix.load import parse_set
    from benchmark.released import models, names
    from benchmark.report.diff_text import compare
    from benchmark.report.released import write_released
    from benchmark.report.write import write

    at_once, store = concurrency.parse(cells), selection.store
    datasets.load(dataset, selection.data)
    rows = names.find(folder, dataset, names.told(defense, cem, noise))
    where, changes = parse_where(selection.where), parse_set(selection.set_)
    found = models.models(rows, selection.file, suite or dataset, dataset, selection.data, where, changes)
    machine = _machine(selection, device)
    for model in found:
        new = models.adopt(model, machine)
        tell(f"{model.row.name}: {model.job.title}, {'read' if new else 'in the results already'}")
        if model.row.doubt:
            tell(f"{model.row.name}: {model.row.doubt}")
    del machine  # its data is not needed beside that of the jobs
    attacked = [cell for model in found for cell in model.cells]
    failures = engines.run("local", jobs(attacked), store, selection.data, device, at_once, {})
    for job, reason, _ in failures:
        tell(f"failed: {job.title}: {reason}")
    out = tables / f"released-{dataset}"
    written = write(attacked, store, out, True, [], plots, "models that the authors published")
    listed = write_released(models.described(found, store), out)
    if dataset in set(published.load()["dataset"]):
        for label in dict.fromkeys(cell.suite for cell in attacked):  # several models of a row have one each
            say_lines(f"\n{label}:\n")
            some = [cell for cell in attacked if cell.suite == label]
            compare(published.reference(), tidy_frame(some, store), {}, None)
    say_report(written)
    say(f"{listed}: what each model is")
    raise typer.Exit(int(bool(failures)))


@app.command(rich_help_panel=MORE)
def schema():
    """Print the JSON Schema of the matrix file."""
    import json

    from benchmark.matrix.schema import json_schema

    say_lines(json.dumps(json_schema(), indent=2))
