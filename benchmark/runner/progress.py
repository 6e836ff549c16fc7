"""One display for a running suite: the job under way, the whole suite, both with a time left."""

import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from benchmark.matrix.expand import Job

PLAIN_EVERY = 30.0  # seconds between lines about a long job where the output is not a terminal


class Display:
    """Shows the suite on a terminal as two bars, elsewhere as plain lines. Use it as a context manager.

    work: {job key: estimated work}, by which the time left of the suite is reckoned; units do not matter.
    """

    def __init__(self, work: dict[str, float], total: int):
        self.work, self.total = work, total
        self.remaining = sum(work.values())
        self.finished = 0
        self.spent = self.worked = 0.0  # seconds and work of the jobs run here
        self.console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
        columns = (TextColumn("{task.description}"), BarColumn(24), TextColumn("{task.fields[info]}"))
        self.bars = Progress(*columns, console=self.console, disable=not self.console.is_terminal)

    def __enter__(self) -> "Display":
        self.bars.start()
        self.suite_bar = self.bars.add_task("suite", total=max(self.remaining, 1e-9), info="")
        self.job_bar = self.bars.add_task("job", total=1.0, info="", visible=False)
        return self

    def __exit__(self, *_) -> None:
        self.bars.stop()

    def line(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, markup=False)

    def begin(self, job: Job) -> None:
        self.job, self.started, self.spoken, self.fraction = job, time.monotonic(), time.monotonic(), 0.0
        self.bars.update(self.job_bar, completed=0, visible=True, description=job.title, info="")

    def progress(self, fraction: float, info: str = "") -> None:
        """`fraction` of the current job is done."""
        self.fraction = fraction
        now = time.monotonic()
        seconds = now - self.started
        left = seconds / fraction - seconds if fraction > 0 else None
        text = f"{info}  {clock(left)} left" if left is not None else info
        done = self.work[self.job.key] * fraction
        suite = self.eta(seconds, done)
        self.bars.update(self.job_bar, completed=fraction, info=text)
        info = f"{self.finished}/{self.total} jobs  {clock(suite)} left"
        self.bars.update(self.suite_bar, completed=sum(self.work.values()) - self.remaining + done, info=info)
        if not self.console.is_terminal and now - self.spoken > PLAIN_EVERY:
            self.spoken = now
            self.line(f"  {self.job.title}: {100 * fraction:.0f} %  {text}; suite {clock(suite)} left")

    def eta(self, seconds: float, done: float) -> float | None:
        """Seconds left for the suite, from the rate of the jobs run here so far."""
        worked = self.worked + done
        if worked <= 0 or self.spent + seconds < 1:
            return None
        return (self.remaining - done) * (self.spent + seconds) / worked

    def end(self, outcome: str) -> None:
        """The current job is over; `outcome` says how."""
        seconds = time.monotonic() - self.started
        self.skip(self.job)
        self.spent += seconds
        self.worked += self.work[self.job.key]
        left = self.eta(0, 0)
        self.line(f"[{self.finished}/{self.total}] {self.job.title}: {outcome}  {seconds:.1f} s; {clock(left)} left")

    def skip(self, job: Job) -> None:
        """A job that needs no run here (cached, failed parents, another runner's)."""
        self.finished += 1
        self.remaining -= self.work[job.key]


class Monitor:
    """What a running job tells: to the display, and line by line to its log."""

    def __init__(self, display: Display, log: Path, stop):
        self.display, self.log, self.stop = display, log, stop
        self.info = ""

    def stopping(self) -> bool:
        """Whether the user asked to stop; the loop then saves its state and ends."""
        return self.stop()

    def preparing(self, text: str) -> None:
        self.display.progress(0.0, text)

    def step(self, done: float, epochs: int) -> None:
        self.display.progress(done / epochs, f"epoch {min(int(done) + 1, epochs)}/{epochs}{self.info}")

    def epoch(self, epoch: int, epochs: int, metrics: dict[str, float]) -> None:
        values = "  ".join(f"{name} {value:.5g}" for name, value in metrics.items())
        self.info = f"  loss {metrics['loss']:.4g}"
        self.note(f"epoch {epoch}/{epochs}  {values}")

    def note(self, text: str) -> None:
        with open(self.log, "a") as file:
            file.write(f"{time.strftime('%H:%M:%S')} {text}\n")


def clock(seconds: float | None) -> str:
    """`1 h 05 min`, `3 min 20 s`, `12 s`, or `?`."""
    if seconds is None:
        return "?"
    seconds = int(seconds + 0.5)
    if seconds >= 3600:
        return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
    return f"{seconds // 60} min {seconds % 60:02d} s" if seconds >= 60 else f"{seconds} s"
