"""Timing of many cases in turns, so that other load on the machine affects all of them equally."""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from benchmark.training.device import wait

AT_LEAST = 0.05  # seconds that one timing lasts; a shorter call is repeated within it
ENOUGH = 12.0  # seconds of timing that are enough for a case, once it has 3 timings
FEWEST = 3
REST = 0.02  # seconds before a timing: threads of the previous case keep spinning for some milliseconds
WARM_CUDA = 4  # extra calls before the timing on CUDA: eager steps before a graph is captured, and the capture


@dataclass
class Case:
    """Something timed. `make` builds it and returns the call that is timed; `images`: how many one call handles.

    group, what, variant: its place in the tables; base: the variant with the same group and `what` to compare with.
    """

    group: str
    what: str
    variant: str
    images: int
    make: Callable[[], Callable[[], object]]
    precision: str = "fp32"
    base: str = ""
    seconds: list[float] = field(default_factory=list)  # of one call each
    flop: float = math.nan  # of one call
    traffic: float = math.nan  # bytes that the operators of one call read and write

    @property
    def fastest(self) -> float:
        return min(self.seconds)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.images / self.fastest


def interleave(
    cases: list[Case],
    rounds: int,
    device: torch.device,
    tell: Callable[[str, float], None],
    inspect: Callable[[Case, Callable[[], object]], None] = lambda case, call: None,
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """Time every case once a round, for `rounds` rounds, beginning with another case each time; fills `seconds`.

    tell(text, fraction done) is called before each timing; inspect(case, call) once for each case, untimed. The first
    calls of a case are not counted: they warm it up (caches, graphs, kernels chosen by timing).
    """
    calls, repeats = [], []
    for number, case in enumerate(cases):
        tell(f"warming up: {case.what}, {case.variant}", 0.2 * number / len(cases))
        call = case.make()
        call()
        inspect(case, call)
        for _ in range(WARM_CUDA if device.type == "cuda" else 0):
            call()
        seconds = _timed(call, 1, device, clock)
        calls.append(call)
        repeats.append(max(1, math.ceil(AT_LEAST / max(seconds, 1e-6))))
    for turn in range(rounds):
        for place in range(len(cases)):
            number = (place + turn) % len(cases)
            case = cases[number]
            tell(f"round {turn + 1}/{rounds}: {case.what}, {case.variant}", _done(turn, place, rounds, len(cases)))
            if turn < FEWEST or sum(case.seconds) * repeats[number] < ENOUGH:
                case.seconds.append(_timed(calls[number], repeats[number], device, clock))


def _done(turn: int, place: int, rounds: int, cases: int) -> float:
    return 0.2 + 0.8 * (turn + place / cases) / rounds


def _timed(call: Callable[[], object], repeats: int, device: torch.device, clock: Callable[[], float]) -> float:
    """Seconds of one call, the mean of `repeats`."""
    wait(device)
    time.sleep(REST)
    start = clock()
    for _ in range(repeats):
        call()
    wait(device)
    return (clock() - start) / repeats
