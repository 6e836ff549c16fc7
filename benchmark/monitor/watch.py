"""Watches a suite from another terminal, using only the store and the heartbeats of its running jobs."""

import math
import time
from contextlib import nullcontext, suppress

from rich.live import Live

from benchmark.matrix.cells import Job
from benchmark.monitor import heartbeat
from benchmark.monitor.view import STATES, Snapshot, lines, picture
from benchmark.output import Console, say_lines
from benchmark.store.store import Store

LOOK, SPEAK = 2.0, 30.0  # seconds between looks, and between lines where the output is not a terminal
OVER = ("done", "diverged", "failed")


class Watcher:
    """work: {job key: estimated work}."""

    def __init__(self, jobs: list[Job], work: dict[str, float], store: Store):
        self.jobs, self.work, self.store = jobs, work, store
        self.settled: dict[str, tuple[str, str]] = {}  # finished jobs do not change: their files are read once

    def look(self) -> Snapshot:
        """The current state of the suite."""
        counts: dict[str, int] = dict.fromkeys(STATES, 0)
        running, failed, done, lost, speed = [], [], 0.0, 0.0, 0.0
        for job in self.jobs:
            state, reason = self.settled.get(job.key) or self.store.status(job)
            if state in ("done", "diverged"):
                self.settled[job.key] = state, reason
                done += self.work[job.key]
            elif state == "running":
                beat = heartbeat.read(self.store.workdir(job)) or heartbeat.Heartbeat()
                running.append((job.title, beat))
                done += self.work[job.key] * beat.fraction
                if beat.seconds_left:
                    speed += self.work[job.key] * (1 - beat.fraction) / beat.seconds_left
            elif state == "failed":
                failed.append((job.title, reason))
                lost += self.work[job.key]
            counts[state] += 1
        whole = sum(self.work.values())
        rest = max(0.0, whole - done - lost)
        left = rest / speed if speed else None if rest else 0.0
        return Snapshot(counts, done / whole if whole else 1.0, left, running, failed)

    def run(self) -> None:
        """Show the suite until every job is over, or until Ctrl-C."""
        console = Console(highlight=False)
        snapshot = self.look()
        live = Live(console=console, get_renderable=lambda: picture(snapshot, console), auto_refresh=False)
        spoken = -math.inf
        # Ctrl-C is the usual way to stop looking
        with suppress(KeyboardInterrupt), live if console.is_terminal else nullcontext():
            while True:
                if console.is_terminal:
                    live.refresh()
                elif time.monotonic() - spoken >= SPEAK:
                    spoken = time.monotonic()
                    say_lines("\n".join(lines(snapshot)))
                if sum(snapshot.counts[state] for state in OVER) == len(self.jobs):
                    return
                time.sleep(LOOK)
                snapshot = self.look()
