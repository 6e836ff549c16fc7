"""The commands before a run: list the suites; plan one: what it holds, what is done, how long the rest may take."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.cli.app import SUITES, app
from benchmark.cli.options import Device, Selection, Without, selecting
from benchmark.output import say_folded

if TYPE_CHECKING:
    import torch

    from benchmark.matrix.cells import Job

# a kind of job -> its name in the singular and in the plural
KINDS = {"train": ("training", "trainings"), "attack": ("attack", "attacks")}


@dataclass(frozen=True)
class Planned:
    """A job, its state in the store, whether it is finished, and how long the whole job may take."""

    job: "Job"
    state: str
    over: bool
    seconds: float


@app.command("list", rich_help_panel=SUITES)
@selecting
def list_(selection: Annotated[Selection, Without("suite", "where", "set_", "results")]):
    """List the suites: what each is, its cells and jobs."""
    for name, suite in selection.file.matrix.suites.items():
        chosen = selection.of(name)
        say_folded(f"{name}: {len(chosen.cells)} cells, {len(chosen.jobs)} jobs")
        say_folded(f"  {suite.description or 'no description'}")


@app.command(rich_help_panel=SUITES)
@selecting
def plan(
    selection: Selection,
    device: Device = "auto",
    jobs: Annotated[bool, typer.Option("--jobs", help="every job, with its key, in place of the rows")] = False,
):
    """Show what a suite holds, which part is done, and about how long the rest takes."""
    from benchmark.departures import told
    from benchmark.training.device import pick

    chosen = pick(device)
    found, ground = _planned(selection, chosen)
    over, at_once = sum(item.over for item in found), _at_once(chosen)
    head = f"{len(selection.cells)} cells, {len(found)} jobs, "
    if over < len(found):
        beside = f", {at_once} jobs at once" if at_once > 1 else ""
        head += f"{over} done; about {_left(found, at_once)} left on {chosen}{beside} ({ground})"
    else:
        head += "all done"
    say_folded(head)
    for line in _every(found) if jobs else _rows(found):
        say_folded(line)
    departures = told(departure for cell in selection.cells for departure in cell.departures)
    if departures:
        say_folded(f"Departs from the published setting: {'; '.join(departures)}")


def _planned(selection: Selection, device: "torch.device") -> tuple[list[Planned], str]:
    """The jobs, and the basis of the time estimate for the remaining ones."""
    from benchmark.jobs import estimate, pace
    from benchmark.training.device import describe, settle

    settle(device)  # so that the device counts, and is named, as in a run
    store = selection.store
    learned = pace.learn(store, describe(device), device.type)
    states = [(job, store.status(job)[0], store.done(job)) for job in selection.jobs]
    unlike = sum(not over and not learned.knows(job) for job, _, over in states)
    guess = 1 / estimate.gflops(device) if unlike else 1.0
    found = [Planned(job, state, over, learned.seconds(job, guess)) for job, state, over in states]
    if unlike:
        return found, f"rough: from half a second of measuring, as nothing like {unlike} of the jobs has finished"
    if learned.device == describe(device):
        return found, f"as {learned.count} finished jobs took there"
    return found, f"rough: as {learned.count} finished jobs took on {learned.device}"


def _at_once(device: "torch.device") -> int:
    """How many jobs a run would begin with; on a GPU, finished jobs record their share of it."""
    from benchmark.engines.concurrency import on_cpu
    from benchmark.training.device import cores, threads

    return on_cpu(cores(), threads()) if device.type == "cpu" else 1


def _every(found: list[Planned]) -> list[str]:
    from benchmark.monitor.view import clock

    return [f"{item.job.key[:12]}  {item.state:8}  {clock(item.seconds):>11}  {item.job.title}" for item in found]


def _rows(found: list[Planned]) -> list[str]:
    """The jobs of each data set and row of the tables on one line, all seeds and protocols together."""
    rows: dict[str, list[Planned]] = {}
    for item in found:
        dataset, row, _ = item.job.folder.split("/")
        rows.setdefault(f"{dataset} {row}", []).append(item)
    lines = []
    for row, some in rows.items():
        over, kinds, states = sum(item.over for item in some), [item.job.kind for item in some], [i.state for i in some]
        parts = [_counted(kind, kinds.count(kind)) for kind in dict.fromkeys(kinds)]
        parts.append(f"{over} of {len(some)} done")
        parts += [f"{states.count(name)} {name}" for name in ("diverged", "running", "failed") if name in states]
        parts += [f"about {_left(some)}"] if over < len(some) else []
        lines.append(f"{row}: {', '.join(parts)}")
    return lines


def _counted(kind: str, count: int) -> str:
    return f"{count} {KINDS.get(kind, (kind, kind))[count > 1]}"


def _left(some: list[Planned], at_once: int = 1) -> str:
    from benchmark.monitor.view import clock

    return clock(sum(item.seconds for item in some if not item.over) / at_once)
