"""Places where jobs run: this process, or worker processes that share the device, each with its own CUDA context."""

import signal
import time
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from multiprocessing import connection, resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from benchmark.engines.concurrency import Share
from benchmark.engines.drain import ASK, SPAWN
from benchmark.jobs.attempt import Outcome, attempt, record_failure
from benchmark.jobs.run_job import Machine
from benchmark.matrix.cells import Job
from benchmark.monitor.heartbeat import Heartbeat
from benchmark.store.store import Store

GRACE = 60.0  # seconds that workers get to save their jobs when the run ends in an error


class Here(AbstractContextManager):
    """One job at a time, in this process."""

    ahead = False

    def __init__(self, machine: Machine, display, stop):
        self.machine, self.display, self.stop = machine, display, stop
        self.over: list[tuple[Job, Outcome]] = []

    def __exit__(self, *_) -> None:
        pass

    def free(self) -> bool:
        return not self.over

    def start(self, job: Job) -> None:
        self.over.append((job, attempt(job, self.machine, self.display, self._asked)))

    def _asked(self) -> bool:
        if self.stop.value:
            self.display.stopping()
        return bool(self.stop.value)

    def wait(self, seconds: float) -> list[tuple[Job, Outcome]]:
        if not self.over:
            time.sleep(seconds)
        over, self.over = self.over, []
        return over

    def relieve(self, job: Job) -> str:
        return ""


@dataclass
class _Worker:
    process: BaseProcess
    connection: connection.Connection
    job: Job | None = None


class Workers(AbstractContextManager):
    """Up to `share.limit` jobs at once in processes of their own, started when there is a job for one.

    display: gets the jobs' starts and progress; stop: a shared byte, set once the workers must save and end.
    """

    ahead = False

    def __init__(self, machine: Machine, display, stop, share: Share, target=None):
        self.machine, self.display, self.stop, self.share = machine, display, stop, share
        self.target = target or work
        self.workers: list[_Worker] = []
        self.told = 1

    def __exit__(self, kind, *_) -> None:
        """Nothing stays running: idle workers end, busy ones save their jobs (unless Ctrl-C came twice)."""
        self.stop.value = self.stop.value or 1
        try:
            for worker in self.workers:
                worker.connection.close()
            grace = 0 if kind is KeyboardInterrupt and any(worker.job for worker in self.workers) else GRACE
            deadline = time.monotonic() + grace
            for worker in self.workers:
                worker.process.join(max(0, deadline - time.monotonic()))
        finally:
            for worker in self.workers:
                worker.process.kill()
                worker.process.join()

    def free(self) -> bool:
        """Whether one more job may start."""
        return sum(worker.job is not None for worker in self.workers) < self.share.limit

    def start(self, job: Job) -> None:
        worker = next((worker for worker in self.workers if worker.job is None), None) or self._spawn()
        worker.job = job
        with suppress(OSError):  # died while idle: `wait` notices and reports it
            worker.connection.send((job, self.share.limit))

    def wait(self, seconds: float) -> list[tuple[Job, Outcome]]:
        """The jobs that ended, as soon as one has; nothing after `seconds`."""
        deadline = time.monotonic() + seconds
        while True:
            left = max(0.0, deadline - time.monotonic())
            if not self.workers:
                time.sleep(left)
                return []
            talking = connection.wait([worker.connection for worker in self.workers], left)
            over = [self._hear(worker) for worker in list(self.workers) if worker.connection in talking]
            over = [ended for ended in over if ended]
            for job, _ in over:
                self.share.ended(job.key)
            self._tell_limit()
            if over or time.monotonic() >= deadline:
                return over

    def relieve(self, job: Job) -> str:
        """Run fewer at once, and end idle workers to free their memory; "" if the job ran alone."""
        idle = [worker for worker in self.workers if worker.job is None]
        busy = len(self.workers) - len(idle)
        several = len(self.workers) > 1
        for worker in idle:
            worker.connection.close()
            worker.process.join()
            self.workers.remove(worker)
        if not several:
            return ""
        self.share.at_most(busy)
        return f"{self.share.limit} at once"

    def _tell_limit(self) -> None:
        if self.share.limit != self.told:
            self.told = self.share.limit
            self.display.line(f"{self.told} at once")

    def _spawn(self) -> _Worker:
        ours, theirs = SPAWN.Pipe()
        machine = (self.machine.store.root, self.machine.data_root, self.machine.device)
        process = SPAWN.Process(target=self.target, args=(theirs, self.stop, *machine), daemon=True)
        resource_tracker.ensure_running()  # which `start` would do, and unblock signals at that
        # until it unblocks them, the new process does not get these signals. Slurm sends SIGUSR2 before a time limit to
        # every process, and a terminal sends Ctrl-C; they would kill a worker that still imports torch, which the
        # parent stops in time anyway
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGUSR2, *ASK))
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()  # so that the worker's end closes with it
        self.workers.append(_Worker(process, ours))
        return self.workers[-1]

    def _hear(self, worker: _Worker) -> tuple[Job, Outcome] | None:
        job: Any = worker.job  # None if the worker has none; it then reports nothing
        try:
            what, *rest = worker.connection.recv()
        except (EOFError, OSError):
            self.workers.remove(worker)
            worker.process.join()
            return job and (job, self._died(job, worker.process.exitcode))
        if what == "begin":
            self.display.begin(job)
        elif what == "progress":
            beat, memory = rest
            self.display.progress(job, beat)
            self.share.seen(job.key, beat.done, memory)
        else:
            worker.job = None
            return job, rest[0]
        return None

    def _died(self, job: Job, code: int | None) -> Outcome:
        """Record the end of a job whose worker has died, unless the job was finished just before."""
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            reason = f"its worker process was killed by {name}"
            if name == "SIGKILL":
                reason += " (by the system where memory ran out, or by someone)"
        else:
            reason = f"its worker process ended with exit status {code}"
        return record_failure(self.machine.store, job, reason)


def work(link: connection.Connection, stop, results: Path, data_root: Path, device: torch.device) -> None:
    """A worker's main loop: run jobs from `link` until it is closed."""
    for number in ASK:  # the parent decides, through `stop`
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ASK)  # so that what a job starts gets them
    machine, teller = Machine(Store(results), data_root, device), _Teller(link, device)
    with suppress(EOFError, OSError):  # the parent is gone, or needs nothing more
        while True:
            job, machine.cells_at_once = link.recv()
            outcome = attempt(job, machine, teller, lambda: bool(stop.value) or teller.alone)
            if device.type == "cuda":
                torch.cuda.empty_cache()  # for the others
            link.send(("outcome", outcome))


class _Teller:
    """A job's display in a worker: reports to the parent, as often as the job's monitor does."""

    def __init__(self, link: connection.Connection, device: torch.device):
        self.link, self.device = link, device
        self.alone = False  # whether the parent is gone

    def begin(self, job: Job) -> None:
        self._send("begin")

    def progress(self, job: Job, beat: Heartbeat) -> None:
        self._send("progress", beat, self._memory())

    def _memory(self) -> tuple[float, float] | None:
        if self.device.type != "cuda":
            return None
        free = torch.cuda.mem_get_info(self.device)[0]
        return free / 2**20, torch.cuda.max_memory_reserved(self.device) / 2**20

    def _send(self, *message) -> None:
        try:
            self.link.send(message)
        except OSError:
            self.alone = True
