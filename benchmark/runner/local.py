"""The local engine: the jobs of a suite one after the other in this process."""

import contextlib
import errno
import signal
import time
import traceback

from benchmark.errors import UserError
from benchmark.matrix.expand import Job
from benchmark.runner.execute import Machine, execute
from benchmark.runner.progress import Display, Monitor
from benchmark.runner.store import CHECKPOINT, Store

# errors of the disk, which every further job would meet as well; None: checkpoint.save's own
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO, None)
WAIT = 2.0  # seconds between looks at a job that another runner holds


def run(jobs: list[Job], work: dict[str, float], machine: Machine) -> list[tuple[Job, str, str]]:
    """Run what is not in the store yet, parents first; returns (job, reason, log path) of each that failed.

    A failed job does not stop the others, except those that need its result. UserError and a full disk stop the run;
    what is finished stays. KeyboardInterrupt after Ctrl-C, once the current job has saved its state.
    """
    store, failures, failed = machine.store, [], set()
    with Display(work, len(jobs)) as display, _graceful_stop(display) as stop:
        _retrain_without_checkpoint(jobs, store, display)
        cached = [job for job in jobs if store.done(job)]
        for job in cached:
            display.skip(job)
        if cached:
            display.line(f"{len(cached)} of {len(jobs)} jobs are in the store already")
        waiting = [job for job in jobs if job not in cached]
        while waiting:
            job = _next(waiting, store, failed)
            if job is None:
                time.sleep(WAIT)  # everything left is held by another runner, or waits for one
                _raise_if(stop)
                continue
            waiting.remove(job)
            broken = [parent for parent in job.parents.values() if parent.key in failed]
            if broken:
                failed.add(job.key)
                failures.append((job, f"needs {broken[0].title}, which failed", ""))
                display.skip(job)
                continue
            settled = _attempt(job, machine, display, stop, failures)
            if settled is None:
                waiting.insert(0, job)
            elif not settled:
                failed.add(job.key)
            _raise_if(stop)
    return failures


def _retrain_without_checkpoint(jobs: list[Job], store: Store, display: Display) -> None:
    """Results may be shared without their weights; where an attack still needs them, its parent runs again."""
    needed = {parent.key: parent for job in jobs if not store.done(job) for parent in job.parents.values()}
    for parent in needed.values():
        weights = store.path(parent) / CHECKPOINT
        if store.done(parent) and store.metrics(parent)["status"] == "done" and not weights.is_file():
            display.line(
                f"{parent.title} has no checkpoint: it runs again; the old result is {store.set_aside(parent)}"
            )


def _next(waiting: list[Job], store: Store, failed: set[str]) -> Job | None:
    """The first job whose parents are settled and that no other runner holds."""
    for job in waiting:
        ready = all(store.done(parent) or parent.key in failed for parent in job.parents.values())
        if ready and store.status(job)[0] != "running":
            return job
    return None


def _attempt(job: Job, machine: Machine, display: Display, stop, failures: list) -> bool | None:
    """Run one job and tell how it went; False where it failed, None where another runner holds it."""
    store = machine.store
    if store.done(job):  # another runner finished it meanwhile
        display.skip(job)
        return True
    try:
        with store.claim(job) as folder:
            if folder is None:
                return None
            display.begin(job)
            monitor = Monitor(display, folder / "log.txt", stop)
            try:
                metrics = execute(job, folder, machine, monitor)
            except UserError as error:
                return _failed(job, str(error), store, monitor, display, failures)
            except Exception as error:  # whatever a job dies of is that job's failure, told and logged
                if isinstance(error, OSError) and error.errno in DISK:
                    raise
                monitor.note(traceback.format_exc())
                reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
                return _failed(job, reason, store, monitor, display, failures)
    except OSError as error:
        raise UserError(
            f"cannot write the results below {store.root}: {error}; free space or choose another --results, then "
            "run again: what is finished is kept"
        ) from error
    display.end(_outcome(metrics))
    return True


def _failed(job: Job, reason: str, store: Store, monitor: Monitor, display: Display, failures: list) -> bool:
    monitor.note(f"failed: {reason}")
    store.fail(job, reason)
    failures.append((job, reason, str(monitor.log)))
    display.end(f"FAILED: {reason}")
    return False


def _outcome(metrics: dict) -> str:
    if metrics["status"] == "diverged":
        return f"diverged ({metrics['reason']})"
    shown = {
        "accuracy_percent": "accuracy {:.2f} %",
        "mse": "MSE {:.4f}",
        "ssim": "SSIM {:.3f}",
        "psnr_db": "PSNR {:.2f} dB",
    }
    return "  ".join(text.format(metrics["values"][name]) for name, text in shown.items() if name in metrics["values"])


def _raise_if(stop) -> None:
    if stop():
        raise KeyboardInterrupt


@contextlib.contextmanager
def _graceful_stop(display: Display):
    """While the block runs, the first Ctrl-C (or SIGTERM) asks for a stop and the second one breaks in."""
    asked = False

    def ask(number, frame) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        display.line("stopping after this step; what is done is saved (once more to stop at once)")

    try:
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: signals are its affair
        before = {}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
