"""The command line. Each command is thin: read the matrix, call one stage, print."""

import os
import re
import signal
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from tabulate import tabulate
from typer.core import TyperGroup

from benchmark.errors import UserError
from benchmark.output import ReaderGone, say, say_lines, standing_streams, tell
from benchmark.text import named, told


class Commands(TyperGroup):
    """The commands; Ctrl-C in one of them is told here, before typer makes a silent exit of it.

    No command ends by SystemExit: where one comes, it is a plug-in's, and no success.
    """

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            tell("interrupted; run the same command to go on from here")
            raise typer.Exit(130) from None
        except SystemExit as error:
            raise UserError(f"a plug-in ended the command ({named(error)}); what is finished is kept") from error


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Reproducibility benchmark for defences against model inversion in split inference.",
)
data_app = typer.Typer(no_args_is_help=True, help="Prepare data sets and list them.")
app.add_typer(data_app, name="data")
store_app = typer.Typer(no_args_is_help=True, help="Check, tidy and exchange results.")
app.add_typer(store_app, name="store")


def path(text: str) -> Path:
    """The value of a path option or its environment variable: no shell writes out the ~ in --results=~/x for us."""
    return Path(os.path.expanduser(text))


Suite = Annotated[str, typer.Argument(help="a suite of the matrix: smoke, cifar10, cifar100, tinyimagenet, ...")]
Where = Annotated[list[str], typer.Option("--where", help="keep matching cells: defense=patrol,cem=on")]
Set = Annotated[list[str], typer.Option("--set", help="change a value: train.epochs=2; or @FILE of `calibrate`")]
MatrixPath = Annotated[Path | None, typer.Option("--matrix", parser=path, help="another matrix file")]
DataRoot = Annotated[
    Path, typer.Option("--data", parser=path, envvar="BENCHMARK_DATA", help="folder of the prepared data sets")
]


def _received(results: Path) -> Path:
    """What is shipped with the results is in the store before any command looks."""
    from benchmark.store import shipped

    shipped.receive(results, tell)
    return results


Results = Annotated[
    Path,
    typer.Option(
        "--results", parser=path, envvar="BENCHMARK_RESULTS", help="folder of the results", callback=_received
    ),
]
Tables = Annotated[Path, typer.Option("--tables", parser=path, envvar="BENCHMARK_TABLES", help="folder of the tables")]
Device = Annotated[str, typer.Option("--device", envvar="BENCHMARK_DEVICE", help="auto, cpu, cuda or cuda:N")]
Cells = Annotated[str, typer.Option("--cells-per-gpu", help="jobs at once on the device, GPU or CPU: auto, 1, 2, ...")]

Engine = Literal["local", "ray", "slurm"]

LONGEST = 100_000  # characters of an error's sentence, which may name many files
DATA, RESULTS, TABLES = Path("data"), Path("results"), Path("tables")


@app.callback()
def plugins(
    plugin: Annotated[
        list[Path], typer.Option("--plugin", parser=path, help="load a defence, attack or data set from a .py file")
    ] = [],  # noqa: B006
):
    """Reproducibility benchmark for defences against model inversion in split inference."""
    from benchmark.registry import load_file, remember

    for file in plugin:
        load_file(file)
    remember(plugin)


@app.command()
def plan(
    suite: Suite,
    where: Where = [],  # noqa: B006 (typer reads the default and never changes it)
    set_: Set = [],  # noqa: B006
    matrix: MatrixPath = None,
    data: DataRoot = DATA,
    results: Results = RESULTS,
    device: Device = "auto",
):
    """List the cells and jobs of a suite: their keys, what is done already, and an estimate of the time."""
    from benchmark import departures
    from benchmark.jobs import estimate
    from benchmark.monitor.view import clock
    from benchmark.store.store import Store
    from benchmark.training.device import pick

    cells, jobs = _expand(suite, where, set_, matrix, data)
    store, rate = Store(results), estimate.gflops(pick(device))
    rows, left = [], 0.0
    for job in jobs:
        status = store.status(job)[0]
        seconds = estimate.work(job) / rate
        left += 0 if store.done(job) else seconds
        rows.append([job.key[:12], job.title, status, clock(seconds)])
    say_lines(tabulate(rows, headers=["key", "job", "state", "estimate"], disable_numparse=True))
    changed = departures.told(departure for cell in cells for departure in cell.departures)
    if changed:
        say_lines("\nDeparts from the published setting: " + "; ".join(changed))
    done = sum(store.done(job) for job in jobs)
    say_lines(
        f"\n{len(cells)} cells, {len(jobs)} jobs, {done} done; about {clock(left)} left on {device} (a rough estimate)"
    )


@app.command()
def run(
    suite: Suite,
    where: Where = [],  # noqa: B006
    set_: Set = [],  # noqa: B006
    matrix: MatrixPath = None,
    data: DataRoot = DATA,
    results: Results = RESULTS,
    device: Device = "auto",
    cells: Cells = "auto",
    engine: Annotated[Engine, typer.Option(help="where the jobs run")] = "local",
    address: Annotated[str | None, typer.Option(help="ray: HOST:PORT of a cluster, or auto")] = None,
    partition: Annotated[str | None, typer.Option(help="slurm: the partition")] = None,
    time: Annotated[int | None, typer.Option(min=5, help="slurm: minutes of one allocation")] = None,
    max_jobs: Annotated[int | None, typer.Option(min=1, help="slurm: at most so many jobs in the queue")] = None,
    sbatch: Annotated[list[str], typer.Option(help="slurm: more for sbatch: account=NAME, qos=NAME, ...")] = [],  # noqa: B006
    wait: Annotated[bool, typer.Option("--wait", help="slurm: stay until the last job has ended")] = False,
    tensorboard: Annotated[
        Path | None,
        typer.Option(parser=path, envvar="BENCHMARK_TENSORBOARD", help="folder for each epoch's metrics as scalars"),
    ] = None,
):
    """Train and attack every cell of a suite that is not in the results yet. Interrupt and run again at will."""
    from benchmark import engines
    from benchmark.engines import concurrency
    from benchmark.monitor.tensorboard import write_to
    from benchmark.store.store import Store
    from benchmark.training.device import pick

    at_once = concurrency.parse(cells)
    if engine == "local":  # elsewhere it is the nodes' device
        pick(device)
    names = _prepared(suite, where, set_, matrix, data)
    _, jobs = _expand(suite, where, set_, matrix, data)
    store = Store(results)
    store.check_writable()
    if tensorboard:
        write_to(tensorboard)
    tell(f"{suite}: {len(jobs)} jobs, engine {engine}, data {', '.join(names) or 'none'}")
    own = {"address": address, "partition": partition, "time": time}
    own |= {"max_jobs": max_jobs, "sbatch": sbatch, "wait": wait}
    failures = engines.run(engine, jobs, store, data, device, at_once, own)
    for job, reason, log in failures:
        tell(f"failed: {job.title}: {reason}{f' (log: {log})' if log else ''}")
    if failures:
        tell(f"{len(failures)} of {len(jobs)} jobs failed; run again to try them anew")
        raise typer.Exit(1)


@app.command()
def status(
    suite: Suite,
    where: Where = [],  # noqa: B006
    set_: Set = [],  # noqa: B006
    matrix: MatrixPath = None,
    data: DataRoot = DATA,
    results: Results = RESULTS,
    watch: Annotated[bool, typer.Option("--watch", help="keep looking until every job is over, or Ctrl-C")] = False,
):
    """Say how far a suite is: done, running, in the Slurm queue, waiting, failed, and why."""
    from benchmark.engines import slurm_queue
    from benchmark.jobs import estimate
    from benchmark.monitor.watch import Watcher
    from benchmark.store.store import Store

    _, jobs = _expand(suite, where, set_, matrix, data)
    store = Store(results)
    if watch:
        Watcher(jobs, {job.key: estimate.work(job) for job in jobs}, store).run()
    try:
        queued = slurm_queue.queued(store)
    except UserError as error:  # a copy of the store, elsewhere
        queued = {}
        tell(error)
    states = [(job, *slurm_queue.status(job, store, queued)) for job in jobs]
    for state in ("done", "diverged", "running", *(["queued"] if queued else []), "waiting", "failed"):
        say(f"{state:9}{sum(found == state for _, found, _ in states):5}")
    for job, state, reason in states:
        if state in ("diverged", "running", "queued", "failed"):
            log = f" (log: {store.workdir(job) / 'log.txt'})" if state == "failed" else ""
            say(f"{state}: {job.title}: {reason}{log}")


@app.command()
def report(
    suite: Suite,
    where: Where = [],  # noqa: B006
    set_: Set = [],  # noqa: B006
    matrix: MatrixPath = None,
    data: DataRoot = DATA,
    results: Results = RESULTS,
    tables: Tables = TABLES,
    compare: Annotated[bool, typer.Option("--compare", help="published values in parentheses")] = False,
    metric: Annotated[list[str], typer.Option(help="one more column in the SSIM tables: psnr_db_per_image")] = [],  # noqa: B006
    plots: Annotated[bool, typer.Option(help="figures as SVG, PDF and CSV in the folder plots")] = True,
):
    """Write the tables of a suite (Markdown, LaTeX, CSV, HTML) and its figures from what is in the results."""
    from benchmark.report.stage import write

    cells, _ = _expand(suite, where, set_, matrix, data)
    for path in write(cells, results, _out(tables, suite, where), compare, metric, plots):
        say(path)


@app.command()
def diff(
    suite: Annotated[str, typer.Argument(metavar="SUITE|RUN_A", help="a suite, or the earlier of two runs")],
    run_b: Annotated[
        Path | None, typer.Argument(parser=path, help="the later of two runs: its results.csv, or the folder")
    ] = None,
    where: Where = [],  # noqa: B006
    set_: Set = [],  # noqa: B006
    matrix: MatrixPath = None,
    data: DataRoot = DATA,
    results: Results = RESULTS,
    against: Annotated[
        Path | None, typer.Option(parser=path, help="results.csv of an earlier run, or its folder")
    ] = None,
    tolerance: Annotated[list[str], typer.Option(help="metric=value, for example mse=0.1")] = [],  # noqa: B006
    markdown: Annotated[
        Path | None, typer.Option(parser=path, help="also write it, fit for a comment, to this file")
    ] = None,
):
    """Compare every cell of a suite with the published value or an earlier run, or two runs with each other.

    A run is a results.csv that `report` wrote, or the folder that holds one. Exit status 1 beyond tolerance.
    """
    from benchmark.report.stage import compare_runs, compare_with

    if run_b is not None:
        if where or set_ or against:
            raise UserError("diff RUN_A RUN_B compares two files as they are; leave --where, --set and --against out")
        raise typer.Exit(compare_runs(path(suite), run_b, tolerance, markdown))
    cells, _ = _expand(suite, where, set_, matrix, data)
    raise typer.Exit(compare_with(cells, results, against, tolerance, markdown))


@app.command()
def verdict(
    suite: Suite,
    where: Where = [],  # noqa: B006
    set_: Set = [],  # noqa: B006
    matrix: MatrixPath = None,
    data: DataRoot = DATA,
    results: Results = RESULTS,
    tables: Tables = TABLES,
):
    """Say for each claim of the paper whether a suite's results support it (rules: docs/STATISTICS.md)."""
    from benchmark.report.verdicts import write

    cells, _ = _expand(suite, where, set_, matrix, data)
    paths, summary = write(cells, results, _out(tables, suite, where))
    say_lines(summary)
    for path in paths:
        say(path)


@app.command()
def ablation(
    suite: Suite,
    where: Where = [],  # noqa: B006
    set_: Set = [],  # noqa: B006
    matrix: MatrixPath = None,
    data: DataRoot = DATA,
    results: Results = RESULTS,
    tables: Tables = TABLES,
):
    """Say what each protocol of a suite changes against the published one, and what it does to the gain of CEM."""
    from benchmark.report.verdicts import write_ablation

    cells, _ = _expand(suite, where, set_, matrix, data)
    for path in write_ablation(cells, results, _out(tables, suite, where)):
        say(path)


@app.command()
def frontier(
    suite: Suite,
    where: Where = [],  # noqa: B006
    set_: Set = [],  # noqa: B006
    matrix: MatrixPath = None,
    data: DataRoot = DATA,
    results: Results = RESULTS,
    tables: Tables = TABLES,
):
    """Say how accuracy and MSE are traded over a suite's sweep, with CEM off and on, and plot it."""
    from benchmark.report.frontier import write

    cells, _ = _expand(suite, where, set_, matrix, data)
    for path in write(cells, results, _out(tables, suite, where)):
        say(path)


@app.command()
def calibrate(
    suite: Suite,
    where: Where = [],  # noqa: B006
    set_: Set = [],  # noqa: B006
    matrix: MatrixPath = None,
    data: DataRoot = DATA,
    results: Results = RESULTS,
    tables: Tables = TABLES,
    device: Device = "auto",
    cells: Cells = "auto",
    against: Annotated[
        Path | None, typer.Option(parser=path, help="targets from a results.csv, not the printed ones")
    ] = None,
):
    """Search the strengths of a suite's rows, so that without CEM they meet the printed accuracy and MSE.

    Interrupt and run again at will: what is trained is kept. --where attacker=decoder leaves the GAN out of the search.
    """
    from benchmark import engines
    from benchmark.analysis import diff, published
    from benchmark.calibration import Calibrator
    from benchmark.engines import concurrency
    from benchmark.matrix.expand import parse_where
    from benchmark.matrix.load import DEFAULT, MatrixFile, parse_set
    from benchmark.store.store import Store

    at_once, store = concurrency.parse(cells), Store(results)
    _prepared(suite, where, set_, matrix, data)
    store.check_writable()

    def run(jobs) -> None:
        for job, reason, _ in engines.run("local", jobs, store, data, device, at_once, {}):
            tell(f"failed: {job.title}: {reason}")

    calibrator = Calibrator(
        file=MatrixFile(matrix or DEFAULT),
        suite=suite,
        where=parse_where(where),
        changes=parse_set(set_),
        data_root=data,
        store=store,
        run=run,
        reference=diff.read_reference(against) if against else published.reference(),
        source=str(against) if against else "the published tables",
        out=tables / suite,
    )
    for path in calibrator.calibrate():
        say(path)


@app.command("attack-released")
def attack_released(
    folder: Annotated[Path, typer.Argument(help="a released model's folder, or one that holds several")],
    dataset: Annotated[str, typer.Option(help="the data set that the models were trained on")],
    suite: Annotated[str | None, typer.Option(help="whose attackers and settings; else the data set's own")] = None,
    defense: Annotated[list[str], typer.Option(help="the row, or PART=ROW for folders with PART in their path")] = [],  # noqa: B006
    cem: Annotated[Literal["on", "off"] | None, typer.Option(help="where the path does not say it")] = None,
    noise: Annotated[float | None, typer.Option(help="standard deviation, where the path does not say it")] = None,
    where: Where = [],  # noqa: B006
    set_: Set = [],  # noqa: B006
    matrix: MatrixPath = None,
    data: DataRoot = DATA,
    results: Results = RESULTS,
    tables: Tables = TABLES,
    device: Device = "auto",
    cells: Cells = "auto",
    plots: Annotated[bool, typer.Option(help="figures as SVG, PDF and CSV in the folder plots")] = True,
):
    """Attack models that the paper's authors published, and put the rows beside the printed ones (docs/DATA.md).

    Interrupt and run again at will. --where chooses attackers, splits, protocols and seeds.
    """
    from benchmark import data as datasets
    from benchmark import engines
    from benchmark.analysis import published
    from benchmark.engines import concurrency
    from benchmark.jobs.run_job import Machine
    from benchmark.matrix.expand import jobs, parse_where
    from benchmark.matrix.load import DEFAULT, MatrixFile, parse_set
    from benchmark.released import names, stage
    from benchmark.report.stage import compare_with, write
    from benchmark.store.store import Store
    from benchmark.training.device import pick

    at_once, chosen, store = concurrency.parse(cells), pick(device), Store(results)
    datasets.load(dataset, data)
    rows = names.find(folder, dataset, names.told(defense, cem, noise))
    file = MatrixFile(matrix or DEFAULT)
    found = stage.models(rows, file, suite or dataset, dataset, data, parse_where(where), parse_set(set_))
    store.check_writable()
    machine = Machine(store, data, chosen)
    for model in found:
        new = stage.adopt(model, machine)
        tell(f"{model.row.name}: {model.job.title}, {'read' if new else 'in the results already'}")
        if model.row.doubt:
            tell(f"{model.row.name}: {model.row.doubt}")
    del machine  # its data is not needed beside that of the jobs
    all_cells = [cell for model in found for cell in model.cells]
    failures = engines.run("local", jobs(all_cells), store, data, device, at_once, {})
    for job, reason, _ in failures:
        tell(f"failed: {job.title}: {reason}")
    out = tables / f"released-{dataset}"
    written = write(all_cells, results, out, True, [], plots)
    for path in [*written, stage.write_list(found, store, out)]:
        say(path)
    if dataset in set(published.load()["dataset"]):
        for label in dict.fromkeys(cell.suite for cell in all_cells):  # several models of a row have one each
            say_lines(f"\n{label}:\n")
            compare_with([cell for cell in all_cells if cell.suite == label], results, None, [], None)
    raise typer.Exit(int(bool(failures)))


@app.command()
def recognise(
    suite: Suite,
    where: Where = [],  # noqa: B006
    set_: Set = [],  # noqa: B006
    matrix: MatrixPath = None,
    data: DataRoot = DATA,
    results: Results = RESULTS,
    device: Device = "auto",
    classifier: Annotated[
        Path | None, typer.Option(parser=path, help="folder of a finished training, not the row `none`")
    ] = None,
):
    """Ask an undefended classifier for the class of every rebuilt image of a suite's finished attacks."""
    from benchmark.jobs.recognise import recognise

    cells, machine = _rebuilding(suite, where, set_, matrix, data, results, device)
    for cell, found in recognise(cells, machine, classifier):
        say(f"{cell.job.title}, {cell.protocol}: {found}")


@app.command()
def lpips(
    suite: Suite,
    where: Where = [],  # noqa: B006
    set_: Set = [],  # noqa: B006
    matrix: MatrixPath = None,
    data: DataRoot = DATA,
    results: Results = RESULTS,
    device: Device = "auto",
    weights: Annotated[
        Path | None, typer.Option(parser=path, help="AlexNet's weights, not where torch keeps its own")
    ] = None,
):
    """Measure LPIPS of every rebuilt image of a suite's finished attacks, where a network's weights are at hand."""
    from benchmark.jobs.lpips import measure

    cells, machine = _rebuilding(suite, where, set_, matrix, data, results, device)
    for cell, found in measure(cells, machine, weights):
        say(f"{cell.job.title}, {cell.protocol}: {found}")


@app.command()
def audit(tables: Tables = TABLES):
    """Check the paper's printed tables for misprints and contradictions, from the printed numbers alone."""
    from benchmark.report.audit import write

    paths, summary = write(tables / "audit")
    say_lines(summary)
    for path in paths:
        say(path)


@app.command()
def speed(
    device: Device = "auto",
    tables: Tables = TABLES,
    rounds: Annotated[int, typer.Option(help="timings of each case, at most")] = 5,
    quick: Annotated[bool, typer.Option("--quick", help="small sizes: a check that it runs, in seconds")] = False,
    only: Annotated[str, typer.Option(help="some groups, separated by commas, written to a folder of their own")] = "",
):
    """Measure the steps on this machine beside plain scripts that do the same; some minutes on an idle machine."""
    from benchmark.speed import stage
    from benchmark.training.device import pick

    groups, written = stage.chosen(only), []
    out = tables / "speed" / ("-".join(groups) if only else "")
    chosen = pick(device)
    stage.check(out)

    def keep(found) -> None:
        written[:] = stage.write(found, out)

    try:
        stage.measure(chosen, rounds, quick, groups, keep)
    except KeyboardInterrupt:
        kept = f"what was measured is in {out}" if written else "nothing was written"
        tell(f"interrupted; {kept}")
        raise typer.Exit(130) from None
    for path in written:
        say(path)


@app.command()
def schema():
    """Print the JSON Schema of the matrix file."""
    import json

    from benchmark.matrix.schema import json_schema

    say_lines(json.dumps(json_schema(), indent=2))


@data_app.command("prepare")
def data_prepare(
    names: Annotated[list[str], typer.Argument(help="data sets, or suites, whose data sets are meant")],
    source: Annotated[
        Path | None, typer.Option("--from", parser=path, help="folder or archive that is already on disk")
    ] = None,
    where: Where = [],  # noqa: B006
    set_: Set = [],  # noqa: B006
    matrix: MatrixPath = None,
    data: DataRoot = DATA,
):
    """Download data sets, or read them from disk, check them and put them into the data folder.

    --where and --set are as for `run`, and choose among the data sets of a suite.
    """
    from benchmark import data as datasets

    found = [name for word in names for name in _datasets_of(word, where, set_, matrix, data)]
    wanted = list(dict.fromkeys(found))
    if source is not None and len(wanted) != 1:
        raise UserError(f"--from {source} holds one data set, but {', '.join(wanted) or 'none'} was asked for")
    for name in wanted:
        found = datasets.prepare(name, data, source)
        say(f"{name}: {len(found.train)} training and {len(found.test)} test images, {found.classes} classes")


@data_app.command("list")
def data_list(data: DataRoot = DATA):
    """Say which data sets are prepared."""
    from benchmark import data as datasets

    say_lines(tabulate(datasets.describe(data), headers="keys"))


@store_app.command("verify")
def store_verify(results: Results = RESULTS):
    """Check every finished job's files against their checksums. Exit status 1 where any is damaged or unreadable."""
    from benchmark.store import hygiene
    from benchmark.store.store import Store

    found = hygiene.verify(Store(results))
    for finding in found:
        for problem in finding.problems:
            say(f"{finding.state}: {problem}")
    states = [finding.state for finding in found]
    lacking = sum(finding.lacks_tensors for finding in found)
    say(
        f"{len(found)} finished jobs: {states.count('intact')} intact ({lacking} of them without their weights), "
        f"{states.count('no checksums')} with no checksums, {states.count('damaged')} damaged"
        + (f", {states.count('unreadable')} unreadable" if "unreadable" in states else "")
    )
    raise typer.Exit(int("damaged" in states or "unreadable" in states))


@store_app.command("gc")
def store_gc(
    keep: Annotated[list[str], typer.Option("--keep-suite", help="a suite whose results stay; may be repeated")],
    set_: Set = [],  # noqa: B006
    matrix: MatrixPath = None,
    data: DataRoot = DATA,
    results: Results = RESULTS,
    yes: Annotated[bool, typer.Option("--yes", help="remove it; without this it is only listed")] = False,
):
    """List, or remove, what is in the results but in none of the kept suites, and what runs have left behind."""
    from benchmark.store import hygiene
    from benchmark.store.store import Store

    jobs = [job for suite in keep for job in hygiene.known(_expand(suite, [], set_, matrix, data)[1])]
    store = Store(results)
    size = 0
    for item in hygiene.waste(store, jobs):
        bytes_ = item.size
        held = item.held or (yes and not hygiene.remove(store, item) and "by another runner")
        size += 0 if held else bytes_
        what = f"held {held}, stays" if held else "removed" if yes else "would be removed"
        say(f"{what}: {item.path} ({item.why}, {bytes_ / 2**20:.1f} MiB)")
    say(f"{size / 2**20:.1f} MiB {'removed' if yes else 'to remove; again with --yes to do so'}")


@store_app.command("export")
def store_export(
    file: Annotated[Path, typer.Argument(parser=path, help="the archive to write: NAME.tar.gz")],
    suite: Annotated[str | None, typer.Option(help="the results of this suite alone")] = None,
    where: Where = [],  # noqa: B006
    set_: Set = [],  # noqa: B006
    matrix: MatrixPath = None,
    data: DataRoot = DATA,
    results: Results = RESULTS,
    weights: Annotated[bool, typer.Option("--weights", help="with checkpoints and per-image values")] = False,
):
    """Write finished results into one archive, for somebody else to `store import`."""
    from benchmark.store import archive, hygiene
    from benchmark.store.store import Store

    store = Store(results)
    folders = list(hygiene.finished(store.root))
    if suite is not None:
        jobs = hygiene.known(_expand(suite, where, set_, matrix, data)[1])
        folders = [store.path(job) for job in jobs if store.done(job)]
    if not folders:
        raise UserError(f"no finished job in {results} to export; choose another --results or suite")
    archive.export(store, sorted(folders), file, weights)
    say(f"{file}: {len(folders)} jobs, {file.stat().st_size / 2**20:.1f} MiB")


@store_app.command("import")
def store_import(
    file: Annotated[Path, typer.Argument(parser=path, help="an archive that `store export` wrote")],
    results: Results = RESULTS,
):
    """Bring in the results of an archive. Those that are here already stay; exit status 1 where any differs."""
    from benchmark.store import archive
    from benchmark.store.store import Store

    done = archive.import_(Store(results), file)
    for name in done.differing:
        say(f"differs from what is here, not imported: {name}")
    say(f"{len(done.new)} jobs imported, {len(done.same)} were here already, {len(done.differing)} differ")
    if done.differing:
        say("to compare them, import into another --results, report from both, and use diff --against")
        raise typer.Exit(1)


def _out(tables: Path, suite: str, where: list[str]) -> Path:
    """The folder of a suite's tables. Those of a part of it (--where) have one of their own beside the whole ones."""
    if not where:
        return tables / suite
    chosen = "_".join(sorted(part.strip() for text in where for part in text.split(",")))
    return tables / f"{suite}-where-{re.sub('[^A-Za-z0-9.+-]+', '-', chosen)[:100]}"


@store_app.command("ship")
def store_ship(
    suite: Suite,
    where: Where = [],  # noqa: B006
    set_: Set = [],  # noqa: B006
    matrix: MatrixPath = None,
    data: DataRoot = DATA,
    results: Results = RESULTS,
):
    """Write a suite's finished results, with their encoders, into RESULTS/shipped: one archive a row, for git."""
    from benchmark.store import hygiene, shipped
    from benchmark.store.store import Store

    written = shipped.ship(Store(results), hygiene.known(_expand(suite, where, set_, matrix, data)[1]))
    if not written:
        raise UserError(f"no job of the suite '{suite}' is finished in {results}; run it first")
    for path in written:
        say(f"{path}: {path.stat().st_size / 2**20:.2f} MiB")


def _expand(suite, where, set_, matrix, data):
    """(cells, jobs) of a suite as the options choose them."""
    from benchmark.matrix.expand import expand, jobs, parse_where
    from benchmark.matrix.load import DEFAULT, MatrixFile, parse_set

    cells = expand(MatrixFile(matrix or DEFAULT), suite, data, parse_where(where), parse_set(set_))
    if not cells:
        raise UserError(f"no cell of the suite '{suite}' is left by its exclusions and --where; choose others")
    return cells, jobs(cells)


def _datasets_of(name: str, where, set_, matrix, data) -> list[str]:
    """The data set of that name, or those that the chosen cells of the suite of that name train on."""
    from benchmark.data import DATASETS
    from benchmark.matrix.load import DEFAULT, MatrixFile
    from benchmark.matrix.source import suggest

    if name in DATASETS.names():
        return [name]
    suites = MatrixFile(matrix or DEFAULT).matrix.suites
    if name not in suites:
        known = [*DATASETS.names(), *suites]
        raise UserError(f"'{name}' is neither a data set nor a suite; {suggest(name, known)}")
    cells, _ = _expand(name, where, set_, matrix, data)
    return [cell.dataset for cell in cells if cell.job.kind != "efficiency"]


def _rebuilding(suite, where, set_, matrix, data, results, device):
    """(cells, the machine that rebuilds their attacks' images and keeps what is found of them)."""
    from benchmark.jobs.run_job import Machine
    from benchmark.store.store import Store
    from benchmark.training.device import pick

    cells, _ = _expand(suite, where, set_, matrix, data)
    store = Store(results)
    store.check_writable()
    return cells, Machine(store, data, pick(device))


def _prepared(suite, where, set_, matrix, data) -> list[str]:
    """Check that every data set of a suite is ready before anything runs; the embedded one is made now."""
    from benchmark import data as datasets

    cells, _ = _expand(suite, where, set_, matrix, data)
    names = list(dict.fromkeys(cell.dataset for cell in cells if cell.job.kind != "efficiency"))
    for name in names:
        datasets.load(name, data)
    return names


def main() -> None:
    """Entry point: a UserError, or what the system refuses (a folder that may not be read), is one sentence and exit
    status 2."""
    with standing_streams():
        try:
            app()
        except (UserError, OSError) as error:
            tell(f"error: {told(error, LONGEST)}")
            sys.exit(2)
        except ReaderGone:
            sys.exit(128 + signal.SIGPIPE)  # as programs end that do not ask


if __name__ == "__main__":
    main()
