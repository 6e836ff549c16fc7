"""Progress reports of a running job: to the display, to its log, and to a small file that other processes may read."""

import json
import math
import time
from collections import deque
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmark.errors import writing
from benchmark.matrix.cells import Job
from benchmark.monitor.tensorboard import Scalars
from benchmark.store.store import PROGRESS, write_json

TELL = 0.2  # seconds between reports to the display
WRITE = 2.0  # seconds between versions of the file
WINDOW = 60.0  # seconds over which a pace is averaged


@dataclass(frozen=True)
class Heartbeat:
    """A job's progress: `done` epochs (a fraction) of `epochs`; rates and times are None if not known yet.

    images_per_second: for fitting, including evaluation and clustering between epochs; metrics: of the last epoch.
    """

    stage: str = "starting"
    done: float = 0.0
    epochs: int = 1
    images_per_second: float | None = None
    seconds_left: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def fraction(self) -> float:
        return self.done / self.epochs


def read(folder: Path) -> Heartbeat | None:
    """The heartbeat in a job's working folder; None if there is no readable one."""
    try:
        value = json.loads((folder / PROGRESS).read_text())
        beat = Heartbeat(**{name: value[name] for name in Heartbeat.__dataclass_fields__})
        if not (isinstance(beat.stage, str) and isinstance(beat.metrics, dict) and 0 <= beat.fraction <= 1):
            return None
        numbers = (beat.images_per_second, beat.seconds_left, *beat.metrics.values())
        return beat if all(item is None or math.isfinite(item) for item in numbers) else None
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError, RecursionError):  # missing, or not a heartbeat
        return None


class Pace:
    """Epochs a second, over the last minute."""

    def __init__(self):
        self.marks: deque[tuple[float, float]] = deque()

    def seen(self, done: float) -> float | None:
        """Note that `done` epochs are done now; returns the pace, or None before there is one."""
        now = time.monotonic()
        if not self.marks or now - self.marks[-1][0] >= 1:
            self.marks.append((now, done))
        while len(self.marks) > 2 and now - self.marks[1][0] >= WINDOW:
            self.marks.popleft()
        start, first = self.marks[0]
        return (done - first) / (now - start) if now > start and done > first else None


class Monitor:
    """The monitor of a job that runs in `folder` (see `training.loop.Silent`)."""

    def __init__(self, display, job: Job, folder: Path, stop):
        self.display, self.job, self.folder = display, job, folder
        self.stopping = stop  # () -> whether the user asked to stop; the loop then saves its state and ends
        self.log = folder / "log.txt"
        self.images = 0  # images per epoch; set by the job
        self.metrics: dict[str, float] = {}
        self.pace = Pace()
        self.scalars = Scalars(job)
        self.told = self.written = -math.inf
        self._tell(Heartbeat())

    def preparing(self, text: str) -> None:
        if self._due():
            self._tell(Heartbeat(text))

    def step(self, done: float, epochs: int) -> None:
        if not self._due():
            return
        pace = self.pace.seen(done)
        left = (epochs - done) / pace if pace else None
        rate = self.images * pace if pace and self.images else None
        stage = f"epoch {min(int(done) + 1, epochs)}/{epochs}"
        self._tell(Heartbeat(stage, done, epochs, rate, left, self.metrics))

    def epoch(self, epoch: int, epochs: int, metrics: dict[str, float]) -> None:
        self.metrics = dict(metrics)
        values = "  ".join(f"{name} {value:.5g}" for name, value in metrics.items())
        self.note(f"epoch {epoch}/{epochs}  {values}")
        self.scalars.epoch(epoch, metrics)

    def note(self, text: str) -> None:
        with writing(self.log), open(self.log, "a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{time.strftime('%H:%M:%S')} {text}\n")

    def _due(self) -> bool:
        return time.monotonic() - self.told >= TELL

    def _tell(self, beat: Heartbeat) -> None:
        self.told = time.monotonic()
        self.display.progress(self.job, beat)
        if self.told - self.written >= WRITE:
            self.written = self.told
            with suppress(OSError):  # a file only for display must not make a job fail; writing results will
                write_json(self.folder / PROGRESS, asdict(beat))
