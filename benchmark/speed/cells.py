"""Calls in processes of their own: several cells at once on one device, and scripts that share nothing with us."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import torch

from benchmark.errors import UserError
from benchmark.runner.workers import SPAWN
from benchmark.training.device import settle, wait

ANSWER = 600.0  # seconds that a process gets for one answer


class Process:
    """A process that builds calls and makes them; use it as a context manager, so that it ends.

    settled: with the settings of a job, else with those of torch and the C library as delivered. UserError from
    `build` and `answer` where it fails there: out of memory, say.
    """

    def __init__(self, device: torch.device, settled: bool):
        self.link, theirs = SPAWN.Pipe()
        self.process = SPAWN.Process(target=_serve, args=(theirs, device, settled), daemon=True)
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
        """Begin to make that call, for at least so many seconds (0: once); `answer` gives calls a second."""
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
        with suppress(OSError):  # gone: `answer` tells
            self.link.send(message)


def throughput(
    device: torch.device, counts: tuple[int, ...], seconds: float, make: Callable, *given
) -> Iterator[tuple[int, float]]:
    """(count, calls a second of `count` processes together, each with its own, on the one device), rising counts."""
    with ExitStack() as stack:
        processes: list[Process] = []
        for count in counts:
            while len(processes) < count:
                processes.append(stack.enter_context(Process(device, settled=True)))
                number = processes[-1].build(make, *given)  # the same in each
                for _ in range(6 if device.type == "cuda" else 1):  # warm, and captured
                    processes[-1].call(number)
            for process in processes:
                process.ask(number, seconds)
            yield count, sum(process.answer() for process in processes)


def _serve(link, device: torch.device, settled: bool) -> None:
    """Build calls and make them as asked, until the link is closed."""
    calls: list[Callable] = []
    with suppress(EOFError, OSError, KeyboardInterrupt):
        try:
            if settled:
                settle(device)
            while True:
                what, how = link.recv()
                if callable(what):
                    calls.append(what(*how))
                    link.send(len(calls) - 1)
                else:
                    link.send(_rate(calls[what], how, device))
        except Exception as error:  # told to the parent, which decides
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
