"""Calls in separate processes: several cells at once on one device, and scripts that share no settings with us."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from typing import Any

import torch

from benchmark.engines.workers import SPAWN
from benchmark.errors import UserError
from benchmark.training.device import most_threads, settle, wait

ANSWER = 600.0  # seconds that a process gets for one answer
SPINS = "300000"  # GNU OpenMP's default number of turns of a waiting loop


class Process:
    """A process that builds and runs calls; use it as a context manager, so that it ends.

    settled: with the settings of a job and `threads` threads (0: as many as a step may use), else with the defaults of
    torch, OpenMP and the C library. UserError from `build` and `answer` if it fails there (such as out of memory).
    """

    def __init__(self, device: torch.device, settled: bool, threads: int = 0):
        self.link, theirs = SPAWN.Pipe()
        self.process = SPAWN.Process(target=_serve, args=(theirs, device, settled, threads), daemon=True)
        with nullcontext() if settled else _spinning():
            self.process.start()
        theirs.close()

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_) -> None:
        self.link.close()
        self.process.join(1)
        self.process.kill()
        self.process.join()

    def build(self, make: Callable[..., Callable], *given) -> int:
        """Build the call make(*given) there; returns its number."""
        self._send((make, given))
        return int(self.answer())

    def call(self, number: int) -> None:
        """Make that call and wait for its end."""
        self.ask(number, 0)
        self.answer()

    def ask(self, number: int, seconds: float) -> None:
        """Start running that call, for at least so many seconds (0: once); `answer` returns calls per second."""
        self._send((number, seconds))

    def answer(self) -> float:
        try:
            found = self.link.recv() if self.link.poll(ANSWER) else "no answer in time"
        except (EOFError, OSError):
            self.process.join()
            found = f"it ended with exit status {self.process.exitcode}"
        if isinstance(found, str):
            raise UserError(f"a process that takes timings failed ({found}); close other programs, or use --quick")
        return found

    def _send(self, message: tuple) -> None:
        with suppress(OSError):  # it has died: `answer` reports it
            self.link.send(message)


def throughput(
    device: torch.device, counts: tuple[int, ...], seconds: float, make: Callable, *given, threads: int = 0
) -> Iterator[tuple[int, float]]:
    """(count, calls a second of `count` processes together, each with its own, on the one device), rising counts;
    threads: of each, as for `Process`."""
    with ExitStack() as stack:
        processes: list[Process] = []
        for count in counts:
            while len(processes) < count:
                processes.append(stack.enter_context(Process(device, True, threads)))
                number = processes[-1].build(make, *given)  # the same in each
                for _ in range(6 if device.type == "cuda" else 1):  # warm, and captured
                    processes[-1].call(number)
            for process in processes:
                process.ask(number, seconds)
            yield count, sum(process.answer() for process in processes)


def in_company(process: Process, others: int, seconds: float, make: Callable, *given) -> tuple[float, float]:
    """Calls per second of a call in `process`, alone and beside `others` processes that each only keep a core busy."""
    number = process.build(make, *given)
    process.call(number)
    rates = []
    for count in (0, others):
        with ExitStack() as stack:
            for _ in range(count):
                stack.enter_context(_busy())
            process.ask(number, seconds)
            rates.append(process.answer())
    return rates[0], rates[1]


@contextmanager
def _busy() -> Iterator[None]:
    """While the block runs, another process keeps a core busy."""
    with subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()


@contextmanager
def _spinning() -> Iterator[None]:
    """Processes started in the block let waiting threads spin, which is OpenMP's default."""
    before = os.environ.get("GOMP_SPINCOUNT")
    os.environ["GOMP_SPINCOUNT"] = before or SPINS
    try:
        yield
    finally:
        if before is None:
            del os.environ["GOMP_SPINCOUNT"]


def _serve(link, device: torch.device, settled: bool, threads: int) -> None:
    """Build calls and make them as asked, until the link is closed."""
    calls: list[Any] = []
    with suppress(EOFError, OSError, KeyboardInterrupt):
        try:
            if settled:
                settle(device)
                torch.set_num_threads(threads or most_threads())
            while True:
                what, how = link.recv()
                if callable(what):
                    calls.append(what(*how))
                    link.send(len(calls) - 1)
                else:
                    link.send(_rate(calls[what], how, device))
        except Exception as error:  # reported to the parent, which decides
            if isinstance(error, (EOFError, OSError)):
                raise
            link.send(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")


def _rate(call: Callable, seconds: float, device: torch.device) -> float:
    """Calls a second, over at least one call and so many seconds."""
    start, done = time.perf_counter(), 0
    while not done or time.perf_counter() - start < seconds:
        call()
        wait(device)
        done += 1
    return done / (time.perf_counter() - start)
