"""The commands before a run: list the suites; plan, what one holds, what is done, how long the rest may take."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.cli.app import SUITES, app
from benchmark.cli.options import Device, Selection, Without, selecting
from benchmark.output import say_folded

if TYPE_CHECKING:
    from benchmark.matrix.expand import Job

# a kind of job -> what one of them is called, and several
KINDS = {"train": ("training", "trainings"), "attack": ("attack", "attacks")}


@dataclass(frozen=True)
class Planned:
    """A job, its state in the store, whether it is finished, and how long all of it may take."""

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
    from benchmark.jobs import estimate
    from benchmark.training.device import pick

    chosen, store = pick(device), selection.store
    rate = estimate.gflops(chosen)
    found = [Planned(job, store.status(job)[0], store.done(job), estimate.work(job) / rate) for job in selection.jobs]
    over = sum(item.over for item in found)
    say_folded(
        f"{len(selection.cells)} cells, {len(found)} jobs, {over} done; about {_left(found)} left on {chosen} (a rough "
        "estimate)"
    )
    for line in _every(found) if jobs else _rows(found):
        say_folded(line)
    departures = told(departure for cell in selection.cells for departure in cell.departures)
    if departures:
        say_folded(f"Departs from the published setting: {'; '.join(departures)}")


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


def _left(some: list[Planned]) -> str:
    from benchmark.monitor.view import clock

    return clock(sum(item.seconds for item in some if not item.over))
