"""Tries one job in the calling process; the outcome is a value that can be sent to another process."""

import traceback
from dataclasses import dataclass

import torch

from benchmark.errors import CannotWrite, UserError
from benchmark.jobs.run_job import Machine, execute
from benchmark.matrix.cells import Job
from benchmark.metrics.facts import METRICS
from benchmark.monitor.heartbeat import Monitor
from benchmark.store.lock import Lost
from benchmark.store.store import Store
from benchmark.text import named, told


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended.

    kind: `done`; `cached` (another runner finished it); `held` (another runner holds it, or took it over); `failed`;
    `memory` (out of memory: worth another try with fewer jobs beside it); `interrupted`; `fatal` (no job can go on).
    """

    kind: str
    text: str = ""
    log: str = ""


def attempt(job: Job, machine: Machine, display, stop) -> Outcome:
    """Claim and run one job. Once `stop()` is true, the job saves its state and is `interrupted`."""
    store = machine.store
    if store.done(job):
        return Outcome("cached")
    try:
        store.require_place(job)
        with store.claim(job) as folder:
            if folder is None:
                return Outcome("cached" if store.done(job) else "held")
            display.begin(job)
            monitor = Monitor(display, job, folder, lambda: stop() or store.lost(job, look=False))
            try:
                return Outcome("done", summary(execute(job, folder, machine, monitor)))
            except BaseException as error:
                # whatever went wrong, another runner has the job now; the heartbeat may have stopped the job for that
                # reason, which holds even if the other runner has ended since
                if isinstance(error, Lost) or store.lost(job, look=False) or store.lost(job):
                    return Outcome("held")
                # whatever a plug-in raises (SystemExit, GeneratorExit, an OSError) makes only this job fail
                if isinstance(error, (KeyboardInterrupt, CannotWrite)):
                    raise
                kind, reason = _failure(error, machine)
                if not isinstance(error, UserError):
                    monitor.note(traceback.format_exc())
            finally:
                monitor.scalars.close()
            monitor.note(f"failed: {reason}")
            store.fail(job, reason)
            return Outcome(kind, reason, str(monitor.log))
    except KeyboardInterrupt:
        if not stop():
            raise
        return Outcome("interrupted")
    except OSError as error:
        return Outcome(
            "fatal",
            f"cannot write the results below {store.root}: {told(error)}; free space or choose another --results, then "
            "run again: what is finished is kept",
        )


def record_failure(store: Store, job: Job, reason: str, log: bytes | None = None) -> Outcome:
    """Record a failure from another process, unless the job was finished just before. log: its log."""
    with store.claim(job) as folder:
        if folder is None:
            return Outcome("cached" if store.done(job) else "held")
        if log is not None:
            (folder / "log.txt").write_bytes(log)
        store.fail(job, reason)
        return Outcome("failed", reason, str(folder / "log.txt"))


def _failure(error: BaseException, machine: Machine) -> tuple[str, str]:
    """(kind of outcome, reason) for any error that ended a job."""
    if isinstance(error, UserError):
        return "memory" if out_of_memory(error) else "failed", told(error, 1000)
    reason = named(error)
    if out_of_memory(error):
        return "memory", f"the memory of {machine.device} does not suffice for it ({reason})"
    return "failed", reason


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; CUDA has several such errors, the CPU another one."""
    # NOT_INITIALIZED: no memory left for cuBLAS
    words = ("out of memory", "ALLOC_FAILED", "CUBLAS_STATUS_NOT_INITIALIZED", "can't allocate memory")
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and any(word in told(error) for word in words)
    )


def summary(metrics: dict) -> str:
    """A finished job's result in a line for people."""
    if metrics["status"] == "diverged":
        return f"diverged ({metrics['reason']})"
    shown = {"accuracy": "accuracy_percent", "MSE": "mse", "SSIM": "ssim", "PSNR": "psnr_db"}
    known = {name: value for name, value in metrics["values"].items() if value is not None}
    texts = (
        f"{word} {known[name]:.{METRICS[name].decimals}f} {METRICS[name].unit}".rstrip()
        for word, name in shown.items()
        if name in known
    )
    return "  ".join(texts)
