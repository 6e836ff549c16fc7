"""The local engine: the jobs of a suite on one device, one or several at a time."""

import contextlib
import signal

from benchmark.errors import UserError
from benchmark.matrix.expand import Job
from benchmark.runner.attempt import Outcome
from benchmark.runner.concurrency import Growing, Share, share
from benchmark.runner.execute import Machine
from benchmark.runner.progress import Display
from benchmark.runner.schedule import Schedule
from benchmark.runner.store import CHECKPOINT, Store
from benchmark.runner.workers import SPAWN, Here, Workers

WAIT = 2.0  # seconds between looks at a job that another runner holds


def run(jobs: list[Job], work: dict[str, float], machine: Machine, cells: int | None = 1) -> list[tuple[Job, str, str]]:
    """Run what is not in the store yet, parents first; returns (job, reason, log path) of each that failed.

    cells: how many jobs at once; None: found here. A failed job does not stop the others, except those that need its
    result. UserError and a full disk stop the run; what is finished stays. KeyboardInterrupt after Ctrl-C, once the
    jobs under way have saved their states.
    """
    store = machine.store
    with Display(work, len(jobs)) as display, _graceful_stop(display) as stop:
        _retrain_without_checkpoint(jobs, store, display)
        cached = [job for job in jobs if store.done(job)]
        for job in cached:
            display.skip(job)
        if cached:
            display.line(f"{len(cached)} of {len(jobs)} jobs are in the store already")
        schedule = Schedule([job for job in jobs if job not in cached], store)
        several = share(cells, machine.device, len(schedule.waiting))
        alone = several.limit == 1 and not (isinstance(several, Growing) and several.ceiling > 1)
        place = Here(machine, display, stop) if alone else Workers(machine, display, stop, several)
        with place:
            drain(schedule, place, several, display, stop)
    return schedule.failures


def drain(schedule: Schedule, place, several: Share, display: Display, stop) -> None:
    """Give out jobs and take in outcomes until none is left. KeyboardInterrupt when `stop` is set."""
    told = 1
    while schedule.waiting or schedule.running:
        while not stop.value and place.free() and (job := schedule.next()):
            if schedule.orphaned(job):
                display.skip(job)
            else:
                place.start(job)
        for job, outcome in place.wait(WAIT) if schedule.waiting or schedule.running else []:
            several.ended(job.key)
            _take(job, outcome, schedule, place, several, display)
        if several.limit != told:
            told = several.limit
            display.line(f"{told} at once")
        if stop.value and not schedule.running:
            raise KeyboardInterrupt


def _take(job: Job, outcome: Outcome, schedule: Schedule, place, several: Share, display: Display) -> None:
    """What an outcome means for the schedule and the display. UserError where no job can go on."""
    if outcome.kind == "fatal":
        raise UserError(outcome.text)
    if outcome.kind == "memory" and place.release():
        several.at_most(len(schedule.running) - 1)
        display.line(f"{job.title}: {outcome.text}; again with {several.limit} at once")
        display.drop(job)
        schedule.put_back(job)
    elif outcome.kind in ("failed", "memory"):
        schedule.fail(job, outcome.text, outcome.log)
        display.end(job, f"FAILED: {outcome.text}")
    elif outcome.kind in ("held", "interrupted"):
        display.drop(job)
        schedule.put_back(job)
    else:
        schedule.settle(job)
        if outcome.kind == "cached":
            display.skip(job)
        else:
            display.end(job, outcome.text)


def _retrain_without_checkpoint(jobs: list[Job], store: Store, display: Display) -> None:
    """Results may be shared without their weights; where an attack still needs them, its parent runs again."""
    needed = {parent.key: parent for job in jobs if not store.done(job) for parent in job.parents.values()}
    for parent in needed.values():
        weights = store.path(parent) / CHECKPOINT
        if store.done(parent) and store.metrics(parent)["status"] == "done" and not weights.is_file():
            display.line(
                f"{parent.title} has no checkpoint: it runs again; the old result is {store.set_aside(parent)}"
            )


@contextlib.contextmanager
def _graceful_stop(display: Display):
    """While the block runs, the first Ctrl-C (or SIGTERM) sets the byte it yields and the second one breaks in."""
    stop = SPAWN.RawValue("b", 0)  # without a lock, which a worker might die with

    def ask(number, frame) -> None:
        if stop.value:
            raise KeyboardInterrupt
        stop.value = 1
        display.line("stopping after this step; what is done is saved (once more to stop at once)")

    try:
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: signals are its affair
        before = {}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
