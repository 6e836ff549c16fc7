"""Measures a machine for tables/speed, and writes the table and the CSV; plot.py draws them."""

import math
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from unittest import mock

import pandas as pd
import torch

from benchmark.analysis.frame import csv_text
from benchmark.engines.concurrency import on_cpu
from benchmark.errors import UserError
from benchmark.jobs.provenance import provenance
from benchmark.monitor.progress import PLAIN_EVERY, clock
from benchmark.output import Console
from benchmark.report.drawing import drawing
from benchmark.report.render import write_text
from benchmark.training.device import cores, most_threads, precision, settle
from benchmarks import cases, peaks, steps, table
from benchmarks.cells import Process, in_company, throughput
from benchmarks.measure import Case, interleave

# the share of a run's time that each group takes, for the time left; measured on 2 CPU cores
SHARES = {cases.TRAINING: 0.36, cases.ATTACKS: 0.29, cases.PIECES: 0.13, cases.FEATURES: 0.12, cases.SCALING: 0.05}
CELLS, COMPANY = "cells", "company"
GROUPS = (*SHARES, CELLS, COMPANY)


@dataclass
class Findings:
    """All measurements so far. cells: {cells at once: steps a second of all}; peaks: FLOP/s by arithmetic.

    On a CPU, single: as cells, of one thread each; company: {step: (steps a second alone, beside a busy process)}.
    """

    plan: cases.Plan
    rounds: int
    quick: bool
    record: dict
    timed: list[Case] = field(default_factory=list)
    cells: dict[int, float] = field(default_factory=dict)
    single: dict[int, float] = field(default_factory=dict)
    company: dict[str, tuple[float, float]] = field(default_factory=dict)
    peaks: dict[str, float] = field(default_factory=dict)
    bandwidth: float = math.nan

    def find(self, group: str, what: str, variant: str = cases.HERE) -> Case:
        wanted = (group, what, variant)
        return next(case for case in self.timed if (case.group, case.what, case.variant) == wanted)

    def groups(self, group: str) -> list[Case]:
        return [case for case in self.timed if case.group == group]

    def ratio(self, case: Case) -> float:
        """How many times as fast as its base a case is; NaN without one."""
        if not case.base:
            return math.nan
        return self.find(case.group, case.what, case.base).fastest / case.fastest

    def share_of_peak(self, case: Case) -> float:
        """Of the measured matrix peak in the case's arithmetic."""
        return case.flop / case.fastest / self.peaks[case.precision]

    def share_of_bandwidth(self, case: Case) -> float:
        return case.traffic / case.fastest / self.bandwidth

    def refit_share(self, estimator: str) -> float:
        """Seconds of the refit as a share of an epoch's: its steps and itself; NaN without those."""
        if not self.groups(cases.TRAINING):
            return math.nan
        refit = self.find(cases.PIECES, f"refit, CEM {estimator}").fastest
        count = self.plan.size.clustered / self.plan.size.batch
        epoch = count * self.find(cases.TRAINING, f"training, CEM {estimator}").fastest + refit
        return refit / epoch


class Progress:
    """What is being measured and how long the rest takes: one line on a terminal, else a line from time to time."""

    def __init__(self, whole: float = 1.0):
        self.whole = whole  # the shares of all that is to be measured
        self.console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
        self.start, self.spoken, self.passed = time.monotonic(), -math.inf, 0.0

    def __enter__(self) -> "Progress":
        self.status = self.console.status("") if self.console.is_terminal else None
        if self.status:
            self.status.start()
        return self

    def __exit__(self, *_) -> None:
        if self.status:
            self.status.stop()

    def tell(self, text: str, fraction: float, share: float) -> None:
        """`fraction` is done of a part that is `share` of the whole."""
        done, now = (self.passed + share * fraction) / self.whole, time.monotonic()
        left = (now - self.start) * (1 - done) / done if done > 0.02 else None
        line = f"{100 * done:3.0f} %  {clock(left)} left  {text}"
        if self.status:
            self.status.update(line)
        elif now - self.spoken > PLAIN_EVERY:
            self.spoken = now
            self.console.print(line, markup=False)


def check(out: Path) -> None:
    """UserError, before anything is measured, if the findings could not be written or drawn afterwards."""
    with drawing():
        pass
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}; choose a folder you may write to") from error


def chosen(only: str) -> tuple[str, ...]:
    """The groups named in `only`, separated by commas, in their order; all where it is empty. UserError for others."""
    wanted = [name.strip() for name in only.split(",")] if only else list(GROUPS)
    for name in wanted:
        if name not in GROUPS:
            raise UserError(f"--only {name}: there is no such group; give some of {', '.join(GROUPS)}")
    return tuple(name for name in GROUPS if name in wanted)


def measure(
    device: torch.device,
    rounds: int,
    quick: bool,
    groups: tuple[str, ...] = GROUPS,
    after: Callable[[Findings], object] = lambda found: None,
) -> Findings:
    """Measure these groups on `device`; after(what is found by then) is called after each.

    UserError for options that make no sense; Ctrl-C leaves only what `after` kept.
    """
    if not 1 <= rounds <= 100:
        raise UserError(f"--rounds {rounds}: give 1 to 100")
    settle(device)
    torch.set_num_threads(most_threads())
    plan = cases.plan(device, precision(device, "auto"), quick)
    found = Findings(plan, rounds, quick, _record(device))
    with Progress(sum(SHARES.get(group, 0.025) for group in groups)) as progress:
        progress.tell("what the machine can do at most", 0, 0)
        for name in dict.fromkeys(("fp32", plan.precision)):
            dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[name]
            found.peaks[name] = peaks.matrix_peak(device, dtype, plan.peak)
        found.bandwidth = peaks.bandwidth(device, plan.stream)
        with ExitStack() as stack:  # closed before several cells need the device's memory
            apart = cases.as_delivered(stack, plan)
            for group in groups:
                if group in (CELLS, COMPANY):
                    stack.close()
                    (_cells if group == CELLS else _company)(found, progress)
                else:
                    _timed(found, group, apart, progress)
                found.record["load_after"] = _load()
                after(found)
    return found


def _timed(found: Findings, group: str, apart: Callable, progress: Progress) -> None:
    plan, share = found.plan, SHARES[group]
    made = cases.GROUPS[group](plan, apart)
    interleave(
        made,
        found.rounds,
        plan.device,
        lambda text, fraction: progress.tell(f"{group}, {text}", fraction, share),
        partial(_inspect, plan) if group in (cases.TRAINING, cases.ATTACKS) else lambda case, call: None,
    )
    found.timed += made
    progress.passed += share


def _cells(found: Findings, progress: Progress) -> None:
    plan = found.plan
    progress.tell("several cells at once", 0, 0)
    given = (plan.cell_seconds, steps.training_step, plan.size, plan.device, plan.precision)
    counts = cells_at_once(plan.device)[: 2 if found.quick else None]  # each cell starts a process
    try:
        for count, rate in throughput(plan.device, counts, *given):
            found.cells[count] = rate
        if plan.device.type == "cpu":
            for count, rate in throughput(plan.device, (most_threads(),), *given, threads=1):
                found.single[count] = rate
    except UserError as error:
        if not found.cells:
            raise
        progress.console.print(f"no more than {max(found.cells)} cells at once: {error}", markup=False)


def _company(found: Findings, progress: Progress) -> None:
    """On a CPU: each step alone, and beside one busy process more than there are free cores."""
    plan, given = found.plan, (found.plan.size, found.plan.device, found.plan.precision)
    if plan.device.type != "cpu":
        return
    others, seconds = cores() - most_threads() + 1, 2 * plan.cell_seconds
    with Process(plan.device, settled=True) as process:
        for what, make in (
            ("training", steps.training_step),
            ("training, convolutions of our own off", steps.torchs_own_training_step),
            ("decoder attack", steps.decoder_step),
            ("GAN attack", steps.gan_steps),
        ):
            progress.tell(f"company, {what}", 0, 0)
            found.company[what] = in_company(process, others, seconds, make, *given)


def cells_at_once(device: torch.device) -> tuple[int, ...]:
    """The numbers of cells to try: on a CPU up to twice the number that have their own cores."""
    if device.type == "cuda":
        return tuple(2**power for power in range(5) if 2**power <= max(2, cores()))
    most = 2 * on_cpu(cores(), most_threads())
    return tuple(2**power for power in range(most.bit_length()) if 2**power <= most)


def _inspect(plan: cases.Plan, case: Case, call: steps.Call) -> None:
    """Count the work of a step; with graphs on, in an eager build, because replays show no operators."""
    if case.variant != cases.HERE:
        return
    if plan.graphs:
        with mock.patch.dict(os.environ, BENCHMARK_GRAPHS="off"):
            call = case.make()
        call()
    case.flop, case.traffic = peaks.count(call)


def _record(device: torch.device) -> dict:
    record = provenance(device)
    return record | {"cores": cores(), "torch": record["packages"]["torch"], "load_before": _load()}


def _load() -> float | None:
    """Average number of processes that wanted a core in the last minute; None if the system does not tell."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def frame(found: Findings) -> pd.DataFrame:
    """One row for each thing timed; times in seconds of one call, rates in images a second."""
    rows = []
    for case in found.timed:
        counted = not math.isnan(case.flop)
        rows.append(
            {
                "group": case.group,
                "what": case.what,
                "variant": case.variant,
                "precision": case.precision,
                "images": case.images,
                "timings": len(case.seconds),
                "seconds_min": case.fastest,
                "seconds_median": case.median,
                "images_per_second": case.rate,
                "compared_with": case.base,
                "times_as_fast": found.ratio(case),
                "gflop": case.flop / 1e9,
                "gbyte": case.traffic / 1e9,
                "share_of_matrix_peak": found.share_of_peak(case) if counted else math.nan,
                "share_of_bandwidth": found.share_of_bandwidth(case) if counted else math.nan,
            }
        )
    for count, rate in found.cells.items():
        images = found.plan.size.batch
        row = {"group": "cells", "what": "training, cells at once", "variant": str(count), "images": images}
        row |= {"precision": found.plan.precision, "timings": 1, "seconds_min": count / rate}
        row |= {"seconds_median": count / rate, "images_per_second": rate * images, "compared_with": "1"}
        rows.append(row | {"times_as_fast": rate / found.cells[1]})
    for count, rate in found.single.items():
        row |= {"what": "training, cells at once, one thread each", "variant": str(count)}
        row |= {"seconds_min": count / rate, "seconds_median": count / rate, "images_per_second": rate * images}
        rows.append(row | {"times_as_fast": rate / found.cells[1]})
    for what, rates in found.company.items():
        for variant, rate in zip(("alone", "beside a busy process"), rates, strict=True):
            row = {"group": COMPANY, "what": what, "variant": variant, "precision": found.plan.precision, "timings": 1}
            row |= {"seconds_min": 1 / rate, "seconds_median": 1 / rate, "compared_with": "alone"}
            rows.append(row | {"times_as_fast": rate / rates[0]})
    return pd.DataFrame(rows)


def write(found: Findings, out: Path) -> list[Path]:
    """speed.md and speed.csv below `out`, of what is there."""
    csv = csv_text(frame(found), float_format="%.6g")
    return [write_text(out / "speed.csv", csv), write_text(out / "speed.md", table.markdown(found))]
