"""How many jobs run at once on one device. This never changes a result, only how soon it is ready."""

import os
import time

import torch

from benchmark.errors import UserError
from benchmark.training.device import cores, threads

CONTEXT = 600.0  # MiB that a process takes on a GPU besides its tensors: CUDA's context and the loaded kernels
WARM = 2.0  # epochs of a job before its speed is measured: CEM starts in the second
WINDOW = 5.0  # seconds, and at least one epoch, over which a speed is measured
MORE = 1.15  # twice the jobs must do at least this many times the work to be worth their memory


class Share:
    """A fixed number of jobs at once; `limit` is that number, `ceiling` the most that it may become."""

    def __init__(self, limit: int):
        self.limit = self.ceiling = limit

    def seen(self, key: str, epochs: float, memory: tuple[float, float] | None) -> None:
        """A running job has done `epochs`; memory: MiB free on the GPU, and the job's peak, if it has one."""

    def ended(self, key: str) -> None:
        """A running job is over."""

    def at_most(self, limit: int) -> None:
        """Memory ran out with more."""
        self.limit = max(1, min(self.limit, limit))


class Growing(Share):
    """1, 2, 4, ... jobs as long as doubling pays, measured on the jobs themselves.

    The speed of one job (the reference) in epochs/s is measured alone and then beside others. From K to 2K jobs the
    device does 2 r(2K) / r(K) times the work; below MORE it goes back to K for good. So any limit is noticed, be it
    kernels, memory bandwidth or the CPU cores that launch them, and no work is wasted on measuring.
    """

    def __init__(self, ceiling: int, clock=time.monotonic):
        super().__init__(1)
        self.ceiling, self.clock = ceiling, clock
        self.accepted, self.settled = 1, ceiling <= 1
        self.before: float | None = None  # the reference's epochs/s beside accepted - 1 others
        self.reference: str | None = None
        self.start: tuple[float, float] | None = None
        self.stepping: set[str] = set()

    def seen(self, key: str, epochs: float, memory: tuple[float, float] | None) -> None:
        if epochs > 0:
            self.stepping.add(key)
        self.reference = self.reference or key
        if self.settled or key != self.reference or epochs < WARM:
            return
        if len(self.stepping) != self.limit:
            self.start = None
            return
        now = self.clock()
        if self.start is None:
            self.start = (now, epochs)
        elif now - self.start[0] >= WINDOW and epochs - self.start[1] >= 1:
            rate = (epochs - self.start[1]) / (now - self.start[0])
            self.start = None
            self._judge(rate, memory)

    def ended(self, key: str) -> None:
        self.stepping.discard(key)
        self.start = None
        if key == self.reference:  # measure again, with another
            self.reference, self.before, self.limit = None, None, self.accepted

    def at_most(self, limit: int) -> None:
        super().at_most(limit)
        self.accepted, self.settled = self.limit, True

    def _judge(self, rate: float, memory: tuple[float, float] | None) -> None:
        if self.before is not None and self.limit * rate < MORE * self.accepted * self.before:
            self.limit, self.settled = self.accepted, True
            return
        self.accepted, self.before = self.limit, rate
        fits = self.limit + room(*memory) if memory else self.ceiling
        self.limit = min(2 * self.limit, self.ceiling, fits)
        self.settled = self.limit == self.accepted


def room(free: float, peak: float) -> int:
    """How many more jobs of `peak` MiB fit into the `free` MiB of a GPU; a tenth is kept free."""
    return max(0, int(0.9 * free / (peak + CONTEXT)))


def parse(text: str) -> int | None:
    """`auto` is None. UserError for anything but that and a whole number from 1."""
    if text == "auto":
        return None
    if text.isascii() and text.isdigit() and int(text) >= 1:
        return int(text)
    raise UserError(f"--cells-per-gpu {text}: give auto, or a whole number from 1")


def share(cells: int | None, device: torch.device, jobs: int) -> Share:
    """How many of `jobs` jobs to run at once, as asked for (None: decided here)."""
    if cells is None and device.type != "cpu":
        return Growing(min(os.cpu_count() or 1, jobs))
    return Share(max(1, min(cells or on_cpu(cores(), threads()), jobs)))


def on_cpu(cores: int, threads: int) -> int:
    """As many jobs as have their own cores, each with the `threads` that every job on a CPU uses."""
    return max(1, cores // threads)
