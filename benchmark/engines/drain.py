"""Runs all open jobs of a suite at a place that runs jobs: the part that engines have in common.

A place is a context manager with

    free()          whether one more job may start now
    start(job)      begin the job
    wait(seconds)   [(job, Outcome)] of those that ended, as soon as one has; nothing after `seconds`
    relieve(job)    what changes when a job that ran out of memory is tried again; "" if nothing can
    ahead           whether it takes a job whose parents still run there (and begins it after them)
"""

import contextlib
import multiprocessing
import signal

from benchmark.engines.scheduler import Schedule
from benchmark.errors import UserError
from benchmark.jobs.attempt import Outcome
from benchmark.matrix.cells import Job
from benchmark.monitor.progress import Display
from benchmark.store.repair import mend
from benchmark.store.store import Store

SPAWN = multiprocessing.get_context("spawn")  # a forked process would inherit CUDA's state and could not use it
WAIT = 2.0  # seconds between looks at a job that another runner holds
ASK = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(jobs: list[Job], work: dict[str, float], store: Store, opened, signals=ASK) -> list[tuple[Job, str, str]]:
    """Run what is not in the store yet, parents first; returns (job, reason, log path) of each that failed.

    opened(count, display, stop): the place for `count` jobs; it must save what it runs once the byte `stop` is set.
    A failed job does not stop the others, except those that need its result. UserError and a full disk stop the run;
    what is finished stays. KeyboardInterrupt(number) after one of `signals`, once the jobs under way are saved.
    """
    with Display(work, len(jobs)) as display, _graceful_stop(signals) as stop:
        mend(jobs, store, display.line)
        missing = [job for job in jobs if not store.done(job)]
        here = {job.key for job in missing}
        for job in jobs:
            if job.key not in here:
                display.skip(job)
        if len(missing) < len(jobs):
            display.line(f"{len(jobs) - len(missing)} of {len(jobs)} jobs are in the store already")
        with opened(len(missing), display, stop) as place:
            schedule = Schedule(missing, store, place.ahead)
            drain(schedule, place, display, stop)
    return schedule.failures


def drain(schedule: Schedule, place, display: Display, stop) -> None:
    """Start jobs and collect outcomes until none is left. KeyboardInterrupt when `stop` is set."""
    while schedule.waiting or schedule.running:
        while not stop.value and place.free() and (job := schedule.next()):
            if schedule.orphaned(job):
                display.skip(job, "a job that it needs failed")
            else:
                place.start(job)
        for job, outcome in place.wait(WAIT) if schedule.waiting or schedule.running else []:
            _take(job, outcome, schedule, place, display)
        if stop.value:
            display.stopping()
        if stop.value and not schedule.running:
            raise KeyboardInterrupt(stop.value)


def _take(job: Job, outcome: Outcome, schedule: Schedule, place, display: Display) -> None:
    """Pass an outcome on to the schedule and the display. UserError if no job can go on."""
    if outcome.kind == "fatal":
        raise UserError(outcome.text)
    if outcome.kind == "memory" and (change := place.relieve(job)):
        display.line(f"{job.title}: {outcome.text}; again with {change}")
        display.drop(job)
        schedule.put_back(job)
    elif outcome.kind in ("failed", "memory"):
        schedule.fail(job, outcome.text, outcome.log)
        display.end(job, outcome.text, failed=True)
    elif outcome.kind in ("held", "early", "interrupted"):
        display.drop(job)
        schedule.put_back(job)
    else:
        schedule.settle(job)
        if outcome.kind == "cached":
            display.skip(job)
        else:
            display.end(job, outcome.text)


@contextlib.contextmanager
def _graceful_stop(signals):
    """While the block runs, the first signal (such as Ctrl-C) puts its number into the byte that this yields; the
    second one interrupts at once. A closing terminal may send several SIGHUPs: they only ask to stop, and under nohup
    they are ignored."""
    stop = SPAWN.RawValue("b", 0)  # without a lock, because a worker might die while holding it

    def ask(number, frame) -> None:
        if stop.value and number == signal.SIGHUP:
            return
        if stop.value:
            raise KeyboardInterrupt
        stop.value = number

    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        signals = [number for number in signals if number != signal.SIGHUP]
    try:
        before = {number: signal.signal(number, ask) for number in signals}
    except ValueError:  # not in the main thread, which alone handles signals
        before = {}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
