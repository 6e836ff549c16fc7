"""The Slurm engine: job arrays that depend on each other; each task of an array runs several jobs in one allocation.

An allocation runs the local engine on its part of the suite, with the shared store. Shortly before its time limit,
or when it is preempted, Slurm signals it: it saves its jobs' states and puts itself back into the queue. The process
that submits may end.
"""

import os
import shlex
import shutil
import signal
import time as clocks
import uuid
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import CalledProcessError

from submitit import SlurmExecutor
from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.helpers import DelayedSubmission

import benchmark
from benchmark.engines import local, slurm_queue
from benchmark.engines.scheduler import ancestors, rows
from benchmark.errors import UserError
from benchmark.jobs.attempt import record_failure, summary
from benchmark.matrix.cells import Job
from benchmark.monitor import heartbeat
from benchmark.monitor.progress import Display
from benchmark.output import tell
from benchmark.store.repair import mend
from benchmark.store.store import Store
from benchmark.text import told
from benchmark.training.device import threads

MINUTES = 240  # of an allocation, without --time; longer jobs continue in another one
WARNING = 120  # seconds before the limit at which Slurm signals, or up to a minute earlier
REQUEUES = 1000  # times that an allocation may be requeued after its limit: each makes at least one step of progress
LOOK = 5.0  # seconds between looks at the queue with --wait


@dataclass(frozen=True)
class Array:
    """A job array before it is submitted.

    parts: the jobs of each task; after: number of the array whose task of the same index must end first; at_once: how
    many jobs of a task run at once; alone: on a node without other jobs, for timing; later: the number of arrays that
    follow it, each after the one before.
    """

    parts: list[list[Job]]
    after: int | None
    at_once: int
    alone: bool
    later: int


def run(
    jobs: list[Job],
    work: dict[str, float],
    store: Store,
    data_root: Path,
    device: str,
    cells: int | None = None,
    partition: str | None = None,
    time: int | None = None,
    max_jobs: int | None = None,
    sbatch: list[str] | None = None,
    wait: bool = False,
) -> list[tuple[Job, str, str]]:
    """Submit what is neither in the store nor in the queue; with `wait` stay, and return the failures as drain.run.

    cells: how many jobs run at once in an allocation, on its GPU (None: as the matrix says; on a CPU one). time:
    minutes of an allocation; max_jobs: of this store in the queue at once; sbatch: KEY=VALUE, further options.
    """
    if shutil.which("sbatch") is None:
        raise UserError("--engine slurm: there is no sbatch here; run this on a machine that submits to the cluster")
    extra = dict(map(_option, sbatch or []))
    _require_plain("--partition", partition or "")
    _require_plain("--results", str(store.root.resolve()))
    if "%" in str(store.root.resolve()):
        raise UserError(f"--results {store.root}: Slurm gives a % in a path a meaning of its own; choose another")
    clusters = str(extra.get("clusters") or os.environ.get("SBATCH_CLUSTERS") or os.environ.get("SLURM_CLUSTERS") or "")
    mend(jobs, store, tell)
    queued = slurm_queue.queued(store)
    missing = [job for job in jobs if not store.done(job) and job.key not in queued]
    ours = slurm_queue.submitted(store)
    taken = len({ours[key] for key in queued})
    arrays = pack(missing, lambda job: _at_once(job, device, cells), max_jobs and max_jobs - taken)
    submitter = _Submitter(store, data_root, device, partition, time or MINUTES, extra, clusters)
    ids: list[str] = []
    for array in arrays:
        ids.append(submitter(array, work, None if array.after is None else ids[array.after]))
    tasks = sum(len(array.parts) for array in arrays)
    tell(f"submitted {len(missing)} jobs in {tasks} Slurm jobs: {', '.join(ids) or 'none'}")
    if queued:
        tell(f"{sum(job.key in queued for job in jobs)} jobs are in the queue already, in {taken} Slurm jobs")
    return _follow(jobs, work, store) if wait else []


def pack(jobs: list[Job], at_once, room: int | None = None) -> list[Array]:
    """The arrays for missing jobs, parents first, with at most `room` tasks in total.

    A task takes as many trainings, each with its attacks, as `at_once(job)` may run at once; more if `room` is small.
    Trainings and what follows them are separate arrays, or one array if `room` is very small. UserError if not even
    that fits.
    """
    needed = 0
    for merged in (False, True):
        for factor in range(1, len(jobs) + 1):
            arrays = _arrays(jobs, at_once, factor, merged)
            needed = sum(len(array.parts) for array in arrays)
            if room is None or needed <= room:
                return arrays
    if jobs:
        raise UserError(
            f"--max-jobs leaves room for {max(room, 0)} Slurm jobs, but {needed} are needed; raise it or wait"
        )
    return []


def _arrays(jobs: list[Job], at_once, factor: int, merged: bool) -> list[Array]:
    here = {job.key for job in jobs}

    def level(job: Job) -> int:
        parents = [parent for parent in job.parents.values() if parent.key in here]
        return 0 if merged else max((level(parent) + 1 for parent in parents), default=0)

    # jobs with the same levels go into the same arrays: there, tasks of one index belong together
    groups: dict[tuple, list[list[Job]]] = defaultdict(list)
    for family in rows(jobs):
        levels = tuple(sorted({level(job) for job in family}))
        groups[levels, min(map(at_once, family)), family[0].kind == "efficiency"].append(family)
    arrays: list[Array] = []
    for (levels, several, alone), members in groups.items():
        size = several * factor
        tasks = [members[start : start + size] for start in range(0, len(members), size)]
        after = None
        for later, number in zip(reversed(range(len(levels))), levels, strict=True):
            parts = [[job for family in task for job in family if level(job) == number] for task in tasks]
            arrays.append(Array(parts, after, several, alone, later))
            after = len(arrays) - 1
    return arrays


@dataclass
class Allocation:
    """What one task of an array does; submitit pickles it. A call runs the jobs that are not done by then."""

    jobs: list[Job]
    work: dict[str, float]
    results: Path
    data_root: Path
    device: str
    cells: int

    def __call__(self) -> int:
        """Returns how many jobs failed: the allocation itself does not fail, since others wait for its end."""
        requeue = signal.getsignal(signal.SIGUSR2)  # submitit's, which runs the rest of this method's process
        store = Store(self.results)
        jobs = self._possible(store)
        try:
            work = self.work | {job.key: 0.0 for job in jobs if job.key not in self.work}
            folders = (store, self.data_root, self.device, self.cells)
            failures = local.run(jobs, work, *folders, signals=(signal.SIGTERM, signal.SIGUSR2))
        except KeyboardInterrupt as end:
            if end.args == (signal.SIGUSR2,):
                with suppress(CalledProcessError):  # Slurm may end the command that asks it
                    requeue(signal.SIGUSR2, None)
            raise SystemExit("stopped; what was done is saved") from None
        return len(failures) + len(self.jobs) - sum(job in jobs for job in self.jobs)

    def checkpoint(self) -> DelayedSubmission:
        """What the next allocation does: the same; each job resumes."""
        return DelayedSubmission(self)

    def _possible(self, store: Store) -> list[Job]:
        """The jobs, and unfinished parents of earlier allocations; without jobs that a failed parent stops."""
        jobs: dict[str, Job] = {}
        own = {job.key for job in self.jobs}
        for job in self.jobs:
            older = [parent for parent in ancestors(job) if parent.key not in own and not store.done(parent)]
            failed = [parent for parent in older if store.status(parent)[0] == "failed"]
            if failed:
                record_failure(store, job, f"needs {failed[0].title}, which failed")
                tell(f"{job.title}: FAILED: needs {failed[0].title}, which failed")
            else:
                jobs |= {parent.key: parent for parent in reversed(older)} | {job.key: job}
        return list(jobs.values())


@dataclass(frozen=True)
class _Submitter:
    store: Store
    data_root: Path
    device: str
    partition: str | None
    minutes: int
    extra: dict[str, str]
    clusters: str = ""

    def __call__(self, array: Array, work: dict[str, float], after: str | None) -> str:
        """Submit an array, after the one of Slurm id `after`; returns its id. UserError where Slurm refuses."""
        folders = (self.store.root.resolve(), self.data_root.resolve())
        name = f"benchmark-{uuid.uuid4().hex[:16]}"  # unique, also for its folder: Slurm may reuse ids
        executor = SlurmExecutor(slurm_queue.folder(self.store, name).resolve(), max_num_timeout=REQUEUES)
        executor.update_parameters(**self._parameters(array, after, name))
        # sbatch would follow the environment rather than the script, which names the clusters
        before = {word: os.environ.pop(word) for word in ("SBATCH_CLUSTERS", "SLURM_CLUSTERS") if word in os.environ}
        try:
            with executor.batch():
                submitted = [
                    executor.submit(
                        Allocation(part, {job.key: work[job.key] for job in part}, *folders, self.device, array.at_once)
                    )
                    for part in array.parts
                ]
        except (FailedJobError, FailedSubmissionError) as error:
            raise UserError(f"Slurm refused the jobs: {told(error)}") from None
        finally:
            os.environ.update(before)
        tasks = [job.job_id for job in submitted]
        keys = [[job.key for job in part] for part in array.parts]
        slurm_queue.record(self.store, name, dict(zip(tasks, keys, strict=True)), self.clusters)
        return tasks[0].partition("_")[0]

    def _parameters(self, array: Array, after: str | None, name: str) -> dict:
        cpus = array.at_once * (threads() if self.device == "cpu" else 1)
        memory = array.at_once * max(job.resources.memory for part in array.parts for job in part)
        # among tasks that could begin, those that finish a row come first, if Slurm goes only by their order
        more = {"requeue": True, "kill-on-invalid-dep": "yes", "nice": 2 * array.later} | self.extra
        more |= {"clusters": self.clusters} if self.clusters else {}
        if after:  # each task after the one of the same index; a single task is not an array
            more["dependency"] = f"{'aftercorr' if len(array.parts) > 1 else 'afterok'}:{after}"
        package = Path(benchmark.__file__).resolve().parents[1]
        parameters = {
            "job_name": name,
            "time": self.minutes,
            "cpus_per_task": cpus,
            "mem": f"{round(memory * 1024)}M",
            "signal_delay_s": WARNING,
            "array_parallelism": max(2, len(array.parts)),
            "additional_parameters": more,
            # from Slurm 22.05 on, srun does not take over this one; it would give its task a single CPU
            "srun_args": [f"--cpus-per-task={cpus}"],
            # sums are split among threads: every engine's jobs have as many as this machine's local ones
            # PYTHONSAFEPATH: no module is looked for in the folder in which the job was submitted
            "setup": [
                f"export OMP_NUM_THREADS={threads()} PYTHONSAFEPATH=1",
                f"export PYTHONPATH={shlex.quote(str(package))}${{PYTHONPATH:+:$PYTHONPATH}}",
            ],
        }
        if self.device != "cpu":
            parameters["gpus_per_node"] = 1
        if array.alone:
            parameters["exclusive"] = True
        return parameters | ({"partition": self.partition} if self.partition else {})


def _follow(jobs: list[Job], work: dict[str, float], store: Store) -> list[tuple[Job, str, str]]:
    """Show the jobs' progress until each is done or no longer in the queue; returns those that failed."""
    failures, left = [], []
    with Display(work, len(jobs)) as display:
        for job in jobs:
            if store.done(job):
                display.skip(job)
            else:
                left.append(job)
        while left:
            queued = slurm_queue.queued(store)  # read before the store: a job not in the queue by then has ended
            for job in list(left):
                state, reason = store.status(job)
                if state == "running":
                    if job.key not in display.running:
                        display.begin(job)
                    if beat := heartbeat.read(store.workdir(job)):
                        display.progress(job, beat)
                elif state in ("done", "diverged"):
                    left.remove(job)
                    display.end(job, summary(store.metrics(job)))
                elif job.key not in queued:
                    left.remove(job)
                    failures.append((job, *_ended(store, job, state, reason)))
                    display.end(job, failures[-1][1], failed=True)
                else:  # in the queue, perhaps again
                    display.drop(job)
            clocks.sleep(LOOK if left else 0)
    return failures


def _ended(store: Store, job: Job, state: str, reason: str) -> tuple[str, str]:
    """(reason, log) of a job that left the queue without a result."""
    if state == "failed":
        return reason, str(store.workdir(job) / "log.txt")
    ours = slurm_queue.submitted(store).get(job.key)
    return "its Slurm job ended without a result", str(slurm_queue.log(store, ours)) if ours else ""


def _at_once(job: Job, device: str, cells: int | None) -> int:
    if job.resources.gpu == 1:
        return 1
    return cells or (1 if device == "cpu" else int(1 / job.resources.gpu))


def _option(text: str) -> tuple[str, str | bool]:
    """`account=abc` -> (`account`, `abc`); `exclusive` -> (`exclusive`, True)."""
    _require_plain("--sbatch", text)
    key, equals, value = text.partition("=")
    if not key.strip() or (equals and not value):
        raise UserError(f"--sbatch {text}: write it as OPTION=VALUE, for example account=NAME")
    return key.strip().lstrip("-"), value if equals else True


def _require_plain(option: str, text: str) -> None:
    """UserError for text that a line of a batch script cannot hold unchanged."""
    if not text.isprintable():
        raise UserError(f"{option} {text}: with --engine slurm it must be plain text on one line; choose another")
