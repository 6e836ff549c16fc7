"""The commands that run a suite and show its progress: run, status."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from benchmark.cli.app import SUITES, app
from benchmark.cli.options import AtOnce, Device, Selection, path_option, selecting, several
from benchmark.errors import UserError
from benchmark.output import say, tell


@app.command(rich_help_panel=SUITES)
@selecting
def run(
    selection: Selection,
    *,
    device: Device = "auto",
    cells: AtOnce = "auto",
    engine: Annotated[Literal["local", "ray", "slurm"], typer.Option(help="where the jobs run")] = "local",
    address: Annotated[str | None, typer.Option(help="ray: HOST:PORT of a cluster, or auto")] = None,
    partition: Annotated[str | None, typer.Option(help="slurm: the partition")] = None,
    time: Annotated[int | None, typer.Option(min=5, help="slurm: minutes of one allocation")] = None,
    max_jobs: Annotated[int | None, typer.Option(min=1, help="slurm: at most so many jobs in the queue")] = None,
    sbatch: Annotated[list[str], several(help="slurm: more for sbatch: account=NAME, qos=NAME, ...")],
    wait: Annotated[bool, typer.Option("--wait", help="slurm: stay until the last job has ended")] = False,
    tensorboard: Annotated[
        Path | None, path_option("folder for each epoch's metrics as scalars", variable="BENCHMARK_TENSORBOARD")
    ] = None,
):
    """Train and attack every cell of a suite that is not in the results yet. Interrupt and run again at will."""
    from benchmark import engines
    from benchmark.engines import concurrency
    from benchmark.monitor.tensorboard import write_to
    from benchmark.training.device import pick

    at_once = concurrency.parse(cells)
    if engine == "local":  # other engines use the nodes' devices
        pick(device)
    names, jobs = selection.require_data(), selection.jobs
    selection.store.check_writable(jobs)
    if tensorboard:
        write_to(tensorboard)
    tell(f"{selection.suite}: {len(jobs)} jobs, engine {engine}, data {', '.join(names) or 'none'}")
    own = {"address": address, "partition": partition, "time": time}
    own |= {"max_jobs": max_jobs, "sbatch": sbatch, "wait": wait}
    failures = engines.run(engine, jobs, selection.store, selection.data, device, at_once, own)
    for job, reason, log in failures:
        tell(f"failed: {job.title}: {reason}{f' (log: {log})' if log else ''}")
    if failures:
        tell(f"{len(failures)} of {len(jobs)} jobs failed; run again to try them anew")
        raise typer.Exit(1)


@app.command(rich_help_panel=SUITES)
@selecting
def status(
    selection: Selection,
    watch: Annotated[bool, typer.Option("--watch", help="keep looking until every job is over, or Ctrl-C")] = False,
):
    """Show the progress of a suite: done, running, in the Slurm queue, waiting, failed, and why."""
    from benchmark.engines import slurm_queue
    from benchmark.jobs import pace
    from benchmark.monitor.watch import Watcher

    jobs, store = selection.jobs, selection.store
    if watch:
        learned = pace.learn(store)
        Watcher(jobs, {job.key: learned.seconds(job) for job in jobs}, store).run()
    try:
        queued = slurm_queue.queued(store)
    except UserError as error:  # a copy of the store on another machine
        queued = {}
        tell(error)
    states = [(job, *slurm_queue.status(job, store, queued)) for job in jobs]
    for state in ("done", "diverged", "running", *(["queued"] if queued else []), "waiting", "failed"):
        say(f"{state:9}{sum(found == state for _, found, _ in states):5}")
    for job, state, reason in states:
        if state in ("diverged", "running", "queued", "failed"):
            log = f" (log: {store.workdir(job) / 'log.txt'})" if state == "failed" else ""
            say(f"{state}: {job.title}: {reason}{log}")
