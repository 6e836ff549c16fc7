"""One display for a running suite: the job under way, the whole suite, both with a time left."""

import sys
import time
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from benchmark.matrix.expand import Job
from benchmark.runner.heartbeat import Heartbeat

PLAIN_EVERY = 30.0  # seconds between lines about a long job where the output is not a terminal


class Display:
    """Shows the suite on a terminal as a bar and one more for each running job, elsewhere as plain lines.

    Use it as a context manager. work: {job key: estimated work}, by which the time left of the suite is reckoned;
    units do not matter.
    """

    def __init__(self, work: dict[str, float], total: int):
        self.work, self.total = work, total
        self.remaining = sum(work.values())
        self.finished = 0
        self.running: dict[str, _Running] = {}
        self.spent = self.worked = 0.0  # seconds in which jobs ran here, and the work of those that ended
        self.console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
        columns = (TextColumn("{task.description}"), BarColumn(24), TextColumn("{task.fields[info]}"))
        self.bars = Progress(*columns, console=self.console, disable=not self.console.is_terminal)

    def __enter__(self) -> "Display":
        self.bars.start()
        self.suite_bar = self.bars.add_task("suite", total=max(self.remaining, 1e-9), info="")
        return self

    def __exit__(self, *_) -> None:
        self.bars.stop()

    def line(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, markup=False)

    def begin(self, job: Job) -> None:
        now = time.monotonic()
        if not self.running:
            self.since = now
        self.running[job.key] = _Running(now, now, self.bars.add_task(job.title, total=1.0, info=""))

    def progress(self, job: Job, beat: Heartbeat) -> None:
        """What the job says of itself now."""
        running, now = self.running[job.key], time.monotonic()
        running.fraction = beat.fraction
        suite, info = self.eta(), told(beat)
        self.bars.update(running.bar, completed=beat.fraction, info=info)
        completed = sum(self.work.values()) - self.remaining + self._under_way()
        summary = f"{self.finished}/{self.total} jobs  {clock(suite)} left"
        self.bars.update(self.suite_bar, completed=completed, info=summary)
        if not self.console.is_terminal and now - running.spoken > PLAIN_EVERY:
            running.spoken = now
            self.line(f"  {job.title}: {info}; suite {clock(suite)} left")

    def eta(self) -> float | None:
        """Seconds left for the suite, from the rate of all jobs run here so far."""
        seconds = self.spent + (time.monotonic() - self.since if self.running else 0.0)
        under_way = self._under_way()
        worked = self.worked + under_way
        return (self.remaining - under_way) * seconds / worked if worked > 0 and seconds >= 1 else None

    def end(self, job: Job, outcome: str) -> None:
        """A job is over; `outcome` says how."""
        started = self.running[job.key].started if job.key in self.running else time.monotonic()
        self.worked += self.work[job.key]
        self.drop(job)
        self.skip(job)
        seconds = time.monotonic() - started
        left = clock(self.eta())
        self.line(f"[{self.finished}/{self.total}] {job.title}: {outcome}  {seconds:.1f} s; {left} left")

    def drop(self, job: Job) -> None:
        """A job no longer runs; it may begin again."""
        running = self.running.pop(job.key, None)
        if running is not None:
            self.bars.remove_task(running.bar)
            if not self.running:
                self.spent += time.monotonic() - self.since

    def skip(self, job: Job) -> None:
        """A job that needs no run here (cached, failed parents, another runner's)."""
        self.finished += 1
        self.remaining -= self.work[job.key]

    def _under_way(self) -> float:
        return sum(self.work[key] * running.fraction for key, running in self.running.items())


@dataclass
class _Running:
    started: float
    spoken: float
    bar: int
    fraction: float = 0.0


def told(beat: Heartbeat) -> str:
    """`epoch 3/240  12,345 images/s  1 min 20 s left  loss 2.31  lr 0.05`."""
    parts = [beat.stage]
    if beat.images_per_second is not None:
        parts.append(f"{beat.images_per_second:,.0f} images/s")
    if beat.seconds_left is not None:
        parts.append(f"{clock(beat.seconds_left)} left")
    parts += [f"{name} {value:.4g}" for name, value in beat.metrics.items() if value is not None]
    return "  ".join(parts)


def clock(seconds: float | None) -> str:
    """`1 h 05 min`, `3 min 20 s`, `12 s`, or `?`."""
    if seconds is None:
        return "?"
    seconds = int(seconds + 0.5)
    if seconds >= 3600:
        return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
    return f"{seconds // 60} min {seconds % 60:02d} s" if seconds >= 60 else f"{seconds} s"
