"""The commands of the results: store verify, gc, export, import, ship."""

from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli.app import KEPT, group
from benchmark.cli.options import Device, Selection, Without, path, selecting
from benchmark.errors import UserError
from benchmark.output import say, tell

app = group("store", KEPT, "Check, tidy and exchange results.")

Results = Annotated[Selection, Without("suite", "where", "set_", "matrix", "data")]


@app.command()
@selecting
def verify(
    selection: Annotated[Selection, Without("suite", "where", "set_", "matrix")],
    rescore: Annotated[
        int | None, typer.Option(min=1, help="score so many attacks again, the strongest first, on this machine")
    ] = None,
    device: Device = "auto",
):
    """Check every finished job's files against their checksums. Exit status 1 where any is damaged or unreadable.

    With --rescore also whether numbers follow from what is there: attacks that kept their state rebuild their images,
    closed forms are computed again from the encoder. Exit status 1 if one disagrees, or none can be scored.
    """
    from benchmark.store import hygiene

    found = hygiene.verify(selection.store)
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
    sound = "damaged" not in states and "unreadable" not in states
    if rescore and sound:
        sound = _rescore(selection, rescore, device)
    raise typer.Exit(int(not sound))


def _rescore(selection: Selection, most: int, device: str) -> bool:
    """Whether something could be scored again, and all of it agrees."""
    from benchmark.jobs.rescore import candidates, rescore
    from benchmark.jobs.run_job import Machine
    from benchmark.store.known import finished_jobs
    from benchmark.training.device import pick

    chosen = candidates(finished_jobs(selection.store, tell), selection.store)[:most]
    machine = Machine(selection.store, selection.data, pick(device))
    found = [rescore(job, machine, tell) for job in chosen]
    for one in found:
        say(f"{'agrees' if one.agrees else 'DISAGREES'}: {one.job.title}: {one.text}")
    if not found:
        say(
            "nothing can be scored again: no attack here kept its state (`store export --weights` takes it along), and "
            "none is a closed form (ridge, kernel)"
        )
    return bool(found) and all(one.agrees for one in found)


@app.command()
@selecting
def gc(
    keep: Annotated[list[str], typer.Option("--keep-suite", help="a suite whose results stay; may be repeated")],
    *,
    selection: Annotated[Selection, Without("suite", "where")],
    yes: Annotated[bool, typer.Option("--yes", help="remove it; without this it is only listed")] = False,
):
    """List, or remove, what is in the results but in none of the kept suites, and what runs have left behind."""
    from benchmark.store import hygiene

    store = selection.store
    jobs = [job for suite in keep for job in selection.of(suite).certain_jobs]
    size = 0
    for item in hygiene.waste(store, jobs):
        bytes_ = item.size
        stays = item.stays or (yes and not hygiene.remove(store, item) and "held by another runner")
        size += 0 if stays else bytes_
        what = f"{stays}, stays" if stays else "removed" if yes else "would be removed"
        say(f"{what}: {item.path} ({item.why}, {bytes_ / 2**20:.1f} MiB)")
    say(f"{size / 2**20:.1f} MiB {'removed' if yes else 'to remove; again with --yes to do so'}")


@app.command()
@selecting
def export(
    file: Annotated[Path, typer.Argument(parser=path, help="the archive to write: NAME.tar.gz")],
    suite: Annotated[str | None, typer.Option(help="the results of this suite alone")] = None,
    *,
    selection: Annotated[Selection, Without("suite")],
    weights: Annotated[bool, typer.Option("--weights", help="with checkpoints and per-image values")] = False,
    by: Annotated[str, typer.Option(help="who measured them, for the leaderboard; stays with your results")] = "",
):
    """Write finished results into one archive, for somebody else to `store import`."""
    from benchmark.store import archive, hygiene, shipped

    store = selection.store
    folders = list(hygiene.finished(store.root))
    if suite is not None:
        folders = [store.path(job) for job in selection.of(suite).certain_jobs if store.done(job)]
    if not folders:
        raise UserError(f"no finished job in {store.root} to export; choose another --results or suite")
    if by:
        others = shipped.folders(store)
        archive.sign([folder for folder in folders if folder not in others], by)
    archive.export(store, sorted(folders), file, weights)
    say(f"{file}: {len(folders)} jobs, {file.stat().st_size / 2**20:.1f} MiB")


@app.command("import")
@selecting
def import_(
    file: Annotated[Path, typer.Argument(parser=path, help="an archive that `store export` wrote")],
    selection: Results,
):
    """Bring in the results of an archive. Those that are here already stay; exit status 1 where any differs."""
    from benchmark.store import archive

    done = archive.import_(selection.store, file)
    for name in done.differing:
        say(f"differs from what is here, not imported: {name}")
    say(f"{len(done.new)} jobs imported, {len(done.same)} were here already, {len(done.differing)} differ")
    if done.differing:
        say("to compare them, import into another --results, report from both, and use diff --against")
        raise typer.Exit(1)


@app.command()
@selecting
def ship(selection: Selection):
    """Write a suite's finished results, with their encoders, into RESULTS/shipped: a few archives a row, for git."""
    from benchmark.store import shipped

    written = shipped.ship(selection.store, selection.certain_jobs)
    if not written:
        raise UserError(f"no job of the suite '{selection.suite}' is finished in {selection.results}; run it first")
    for file in written:
        say(f"{file}: {file.stat().st_size / 2**20:.2f} MiB")
