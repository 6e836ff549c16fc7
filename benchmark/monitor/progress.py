"""The display of a run: the whole suite and the running jobs, each with a time left."""

import sys
import time
from dataclasses import dataclass

from rich.live import Live

from benchmark.matrix.cells import Job
from benchmark.monitor.heartbeat import Heartbeat
from benchmark.monitor.view import Snapshot, clock, picture, told
from benchmark.output import Console

PLAIN_EVERY = 30.0  # seconds between lines about a long job where the output is not a terminal


class Display:
    """Shows the suite on a terminal as a live picture, elsewhere as plain lines.

    Use it as a context manager. work: {job key: estimated work}, from which the suite's time left is computed;
    units do not matter.
    """

    def __init__(self, work: dict[str, float], total: int):
        self.work, self.total = work, total
        self.remaining = sum(work.values())
        self.finished = 0
        self.said = False  # whether `stopping` was
        self.running: dict[str, _Running] = {}
        self.failed: list[tuple[str, str]] = []
        self.spent = self.worked = 0.0  # seconds in which jobs ran here, and the work of those that ended
        self.console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
        self.live = Live(console=self.console, get_renderable=self._picture, refresh_per_second=2, transient=True)

    def __enter__(self) -> "Display":
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *_) -> None:
        self.live.stop()

    def line(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, markup=False)

    def stopping(self) -> None:
        """Say, once, that the run was asked to stop. Not for a signal's handler, which may interrupt another line."""
        if not self.said:
            self.said = True
            self.line("stopping after this step; what is done is saved (once more to stop at once)")

    def begin(self, job: Job) -> None:
        now = time.monotonic()
        if not self.running:
            self.since = now
        self.running[job.key] = _Running(job.title, now, now)

    def progress(self, job: Job, beat: Heartbeat) -> None:
        """Take the job's current heartbeat."""
        running, now = self.running[job.key], time.monotonic()
        if running.first is None and beat.done:
            running.first = beat.fraction
        running.beat = beat
        if not self.console.is_terminal and now - running.spoken > PLAIN_EVERY:
            running.spoken = now
            self.line(f"  {job.title}: {told(beat)}; suite {clock(self.eta())} left")

    def eta(self) -> float | None:
        """Seconds left for the suite, from the rate of all jobs run here so far; None if that says nothing yet."""
        if self.finished == self.total:
            return 0.0
        seconds = self.spent + (time.monotonic() - self.since if self.running else 0.0)
        running = list(self.running.items())  # a separate thread draws the picture
        worked = self.worked + sum(self.work[key] * (job.beat.fraction - (job.first or 0.0)) for key, job in running)
        return (self.remaining - self._under_way()) * seconds / worked if worked > 0 and seconds >= 1 else None

    def end(self, job: Job, outcome: str, failed: bool = False) -> None:
        """A job is over; `outcome` says how."""
        running = self.running.get(job.key) or _Running(job.title, time.monotonic(), 0.0)
        self.worked += self.work[job.key] * (1 - (running.first or 0.0))
        self.skip(job, outcome if failed else "")
        seconds = time.monotonic() - running.started
        text = f"FAILED: {outcome}" if failed else outcome
        self.line(f"[{self.finished}/{self.total}] {job.title}: {text}  {seconds:.1f} s; {clock(self.eta())} left")

    def drop(self, job: Job) -> None:
        """A job no longer runs; it may begin again."""
        if self.running.pop(job.key, None) is not None and not self.running:
            self.spent += time.monotonic() - self.since

    def skip(self, job: Job, failed: str = "") -> None:
        """A job that need not run here any more (cached, another runner's); `failed`: why it never will run."""
        self.drop(job)  # another runner may have finished it after it began here
        self.finished += 1
        self.remaining -= self.work[job.key]
        if failed:
            self.failed.append((job.title, failed))

    def _under_way(self) -> float:
        return sum(self.work[key] * running.beat.fraction for key, running in list(self.running.items()))

    def _picture(self):
        counts = {
            "done": self.finished - len(self.failed),
            "running": len(self.running),
            "waiting": self.total - self.finished - len(self.running),
            "failed": len(self.failed),
        }
        whole = sum(self.work.values())
        fraction = (whole - self.remaining + self._under_way()) / whole if whole else 1.0
        running = [(job.title, job.beat) for job in list(self.running.values())]
        return picture(Snapshot(counts, min(1.0, fraction), self.eta(), running, self.failed), self.console)


@dataclass
class _Running:
    """first: the fraction that was done when this run of it began (a resumed job's is not 0)."""

    title: str
    started: float
    spoken: float
    first: float | None = None
    beat: Heartbeat = Heartbeat()
