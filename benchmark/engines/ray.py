"""The Ray engine: each job a Ray task with its share of a GPU and its memory, on this machine or on a cluster.

A task takes its parents' outcomes as object references, so Ray starts it after them, wherever there is room. A node
that sees the results folder works in it like the local engine. Any other node gets what it needs (the parents' results,
the data set) as bytes from the hub, an actor beside the driver, and sends its result back there.
"""

import functools
import json
import logging
import os
import socket
import tempfile
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import ray
from ray.exceptions import RayError, RayTaskError, TaskCancelledError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import benchmark
from benchmark.data import store as prepared
from benchmark.engines import drain
from benchmark.engines.scheduler import ancestors
from benchmark.errors import UserError
from benchmark.jobs.attempt import Outcome, attempt, record_failure
from benchmark.jobs.run_job import Machine
from benchmark.matrix.cells import Job
from benchmark.monitor.heartbeat import Heartbeat
from benchmark.store.lock import Lost
from benchmark.store.store import Store
from benchmark.text import told
from benchmark.training import device

TELL = 0.5  # seconds between a task's messages of progress, and between the driver's looks at them
SOON = 0.2  # seconds between the driver's looks while a job that could run has not begun
GRACE = 60.0  # seconds that tasks get to save their jobs when the run ends in an error
RETRIES = 3  # times that a task is restarted after its worker or its node was lost
SMALLEST = 1e-4  # the smallest share of a GPU in Ray
GIB = 2**30


def run(
    jobs: list[Job],
    work: dict[str, float],
    store: Store,
    data_root: Path,
    device: str,
    cells: int | None = None,
    address: str | None = None,
) -> list[tuple[Job, str, str]]:
    """As drain.run. device: auto, cpu or cuda, requested from each node; cells: how many jobs share a GPU (None: as the
    matrix says); address: of a running cluster (None: one is started on this machine, for this run)."""

    def opened(count: int, display, stop):
        return Cluster(store, data_root, device, cells, address, display, stop)

    return drain.run(jobs, work, store, opened)


@dataclass(frozen=True)
class _Spec:
    """What every task of a run is told. mark: a file in the driver's store, by which a node recognises the store."""

    results: Path
    data_root: Path
    device: str
    mark: str


class Cluster:
    """Jobs as tasks of a Ray cluster; a place in the sense of drain."""

    ahead = True

    def __init__(self, store: Store, data_root: Path, device: str, cells: int | None, address, display, stop):
        self.store, self.device, self.cells, self.address = store, device, cells, address
        self.display, self.stop = display, stop
        self.spec = _Spec(store.root.resolve(), data_root.resolve(), device, f"ray-{uuid.uuid4().hex}")
        self.jobs: dict[ray.ObjectRef, Job] = {}  # under way
        self.outcomes: dict[str, ray.ObjectRef] = {}  # by job key, of the jobs under way
        self.begun: set[str] = set()
        self.shares: dict[str, float] = {}  # for jobs that ran out of memory with less
        self.lost: set[str] = set()  # the jobs whose task Ray gave up
        self.checked: list[dict] = []  # requests that no node could fulfil
        self.held: dict[str, Job] = {}  # jobs that have not begun, although a node could fulfil their requests
        self.asked = False

    def __enter__(self) -> "Cluster":
        _connect(self.address)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        options = {"num_cpus": 0, "max_concurrency": 8, "scheduling_strategy": here}
        self.hub = ray.remote(_Hub).options(**options).remote(self.spec)
        self.gpus = self.device != "cpu" and (self.device == "cuda" or ray.cluster_resources().get("GPU", 0) > 0)
        # a process that has used a GPU keeps it, and part of its memory: with GPUs each job has its own process, as Ray
        # advises
        self.task = ray.remote(max_calls=1)(_work) if self.gpus else ray.remote(_work)
        (self.store.work / self.spec.mark).touch()
        return self

    def __exit__(self, kind, *_) -> None:
        """Nothing stays running: busy tasks save their jobs (unless Ctrl-C came twice)."""
        try:
            if kind is not None and kind is not KeyboardInterrupt and self.jobs:
                self._ask()
                ray.wait(list(self.jobs), num_returns=len(self.jobs), timeout=GRACE)
        finally:
            (self.store.work / self.spec.mark).unlink(missing_ok=True)
            ray.shutdown()

    def free(self) -> bool:
        """Whether all jobs that could run have begun. Among waiting jobs Ray takes trainings first (a worker that has
        done one takes the next), so a training is submitted only if no attack of an earlier row waits."""
        return all(any(parent.key in self.outcomes for parent in job.parents.values()) for job in self.held.values())

    def start(self, job: Job) -> None:
        request, share = self._request(job)
        if self._possible(request):
            self.held[job.key] = job
        self.lost.discard(job.key)
        parents = [self.outcomes[parent.key] for parent in job.parents.values() if parent.key in self.outcomes]
        task = self.task.options(name=job.title, max_retries=RETRIES, **request)
        outcome = task.remote(self.spec, job, int(1 / share + 1e-9) if share else 1, self.hub, *parents)
        self.jobs[outcome], self.outcomes[job.key] = job, outcome

    def wait(self, seconds: float) -> list[tuple[Job, Outcome]]:
        """The jobs that ended, as soon as one has; nothing after `seconds`, or once the next may start. UserError if
        the cluster is gone."""
        try:
            return self._wait(seconds)
        except RayError as error:  # from the hub: errors of tasks are outcomes
            raise UserError(f"the Ray cluster is gone ({told(error)}); run again") from None

    def _wait(self, seconds: float) -> list[tuple[Job, Outcome]]:
        deadline, full = time.monotonic() + seconds, not self.free()
        while True:
            self._listen()
            if self.stop.value and not self.asked:
                self._ask()
            if full and self.free():
                return []
            left = max(0.0, min(SOON if full else TELL, deadline - time.monotonic()))
            if not self.jobs:
                time.sleep(left)
            elif ray.wait(list(self.jobs), timeout=left, fetch_local=False)[0]:
                ended, _ = ray.wait(list(self.jobs), num_returns=len(self.jobs), timeout=0, fetch_local=False)
                self._listen()
                return [self._ended(outcome) for outcome in ended]
            if time.monotonic() >= deadline:
                return []

    def relieve(self, job: Job) -> str:
        """Double the share of a GPU; "" if it had a whole one, or none."""
        _, share = self._request(job)
        if share in (0, 1):
            return ""
        self.shares[job.key] = min(1.0, 2 * share)
        return f"{self.shares[job.key]:g} of a GPU"

    def _request(self, job: Job) -> tuple[dict, float]:
        """(what a task asks Ray for, its share of a GPU)."""
        request = {"num_cpus": 1 if self.gpus else device.threads(), "memory": int(job.resources.memory * GIB)}
        if not self.gpus:
            return request, 0.0
        share = job.resources.gpu
        if self.cells and share < 1:
            share = SMALLEST * int(1 / SMALLEST / self.cells + 1e-9)  # if it were rounded up, one job fewer would fit
        share = self.shares.get(job.key, share)
        return request | {"num_gpus": share}, share

    def _possible(self, request: dict) -> bool:
        """Whether some node could ever fulfil a request; if not, says so once. UserError if no node can join."""
        wanted = {"CPU": request["num_cpus"], "memory": request["memory"], "GPU": request.get("num_gpus", 0)}
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if any(all(node.get(name, 0) >= count for name, count in wanted.items()) for node in nodes):
            return True
        if request in self.checked:
            return False
        self.checked.append(request)
        text = f"{wanted['CPU']} CPUs, {wanted['memory'] / GIB:g} GiB of memory and {wanted['GPU']:g} of a GPU"
        if self.address is None:
            raise UserError(f"this machine cannot give a job {text}; lower them with --set resources.KIND.memory=...")
        self.display.line(f"no node of the cluster has {text} now: waiting for one to join")
        return False

    def _listen(self) -> None:
        """Pass on what the tasks have reported since the last call."""
        running = {job.key: job for job in self.jobs.values()}
        for key, beat in ray.get(self.hub.take.remote()):
            job = running.get(key)
            if job is None:
                continue
            if beat and key in self.begun:
                self.display.progress(job, beat)
            elif not beat:
                if key in self.begun:
                    self.display.line(f"{job.title}: its worker was lost; it begins again")
                    self.display.drop(job)
                self.begun.add(key)
                self.held.pop(key, None)
                self.display.begin(job)

    def _ask(self) -> None:
        """Ask the running tasks to save and end; cancel those that have not begun."""
        self.asked = True
        ray.get(self.hub.stop.remote())
        for outcome, job in self.jobs.items():
            if job.key not in self.begun:
                ray.cancel(outcome)

    def _ended(self, outcome: ray.ObjectRef) -> tuple[Job, Outcome]:
        job = self.jobs.pop(outcome)
        self.outcomes.pop(job.key, None)
        self.begun.discard(job.key)
        self.held.pop(job.key, None)
        try:
            return job, ray.get(outcome)
        except TaskCancelledError:
            return job, Outcome("interrupted")
        except RayError as error:
            if self.lost & {parent.key for parent in job.parents.values()}:
                return job, Outcome("early")
            self.lost.add(job.key)
            tried = "failed" if isinstance(error, RayTaskError) else f"was lost {RETRIES + 1} times"
            text = error.cause if isinstance(error, RayTaskError) else error
            return job, record_failure(self.store, job, f"its Ray task {tried} ({told(text)})")


def _connect(address: str | None) -> None:
    """Join the cluster, or start one on this machine. UserError if there is none."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # default 15; here jobs have the local engine's priority
    if address and "://" in address:
        raise UserError(f"--address {address}: run this on a machine of the cluster, with --address HOST:PORT or auto")
    if address and address != "auto":
        _reach(address)
    # sums are split among threads: every engine's jobs have as many as this machine's local ones
    environment: dict = {"env_vars": {"OMP_NUM_THREADS": str(device.threads())}}
    environment["env_vars"] |= {name: value for name, value in os.environ.items() if name.startswith("BENCHMARK_")}
    options: dict = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address:
        environment["py_modules"] = [str(Path(benchmark.__file__).parent)]  # all nodes run exactly this code
    else:
        options |= {"include_dashboard": False, "object_store_memory": GIB // 4}
    try:
        ray.init(address=address or "local", runtime_env=environment, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = f"no Ray cluster at --address {address}" if address else "Ray"
        raise UserError(f"{where}: {told(error)}") from None


def _reach(address: str) -> None:
    """UserError if nothing listens at HOST:PORT: Ray itself would wait for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(f"--address {address}: write it as HOST:PORT, or give auto")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"no Ray cluster at --address {address}: {error}") from None


class _Hub:
    """An actor beside the driver: it takes reports from tasks, tells them to stop, and serves folders they cannot see.

    Several threads answer, so that a long read does not block reports.
    """

    def __init__(self, spec: _Spec):
        self.store, self.data_root = Store(spec.results), spec.data_root
        self.told, self.stopped, self.sets, self.reading = [], False, {}, threading.Lock()

    def tell(self, key: str, beat: Heartbeat | None) -> bool:
        """A job has begun (None), or its progress; returns whether it must stop."""
        self.told.append((key, beat))
        return self.stopped

    def take(self) -> list[tuple[str, Heartbeat | None]]:
        told = self.told[:]
        del self.told[: len(told)]  # keeps what another thread adds meanwhile
        return told

    def stop(self) -> None:
        self.stopped = True

    def stopping(self) -> bool:
        return self.stopped

    def result(self, job: Job) -> dict[str, bytes]:
        """The files of a finished job."""
        return _read(self.store.path(job))

    def land(self, job: Job, files: dict[str, bytes]) -> bool:
        """Put a result from another node into the store; whether the job is done there now."""
        with self.store.claim(job) as folder:
            if folder is not None:
                metrics, provenance = (json.loads(files.pop(f"{name}.json")) for name in ("metrics", "provenance"))
                _write(folder, files)
                with suppress(Lost):  # another runner's result is just as good
                    self.store.finish(job, metrics, provenance)
        return self.store.done(job)

    def failed(self, job: Job, reason: str, log: bytes) -> str:
        """Record a failure from another node in the store; the path of its log, "" if another runner has the job."""
        return record_failure(self.store, job, reason, log).log

    def data(self, name: str) -> ray.ObjectRef:
        """The files of a prepared data set, as one object for all tasks."""
        with self.reading:
            if name not in self.sets:
                paths = prepared.paths(name, self.data_root)
                self.sets[name] = ray.put({path.name: path.read_bytes() for path in paths})
            return self.sets[name]


def _work(spec: _Spec, job: Job, cells: int, hub, *parents: Outcome) -> Outcome:
    """A task: one job, tried once its parents have ended."""
    if any(parent.kind not in ("done", "cached") for parent in parents):
        return Outcome("early")
    try:
        if ray.get(hub.stopping.remote()):
            return Outcome("interrupted")
        teller = _Teller(hub)
        machine = _machine(spec)
        machine.cells_at_once = cells
        machine.data_root = _data_root(job, spec, hub)
        if (spec.results / ".work" / spec.mark).is_file():
            machine.store = Store(spec.results)
            return attempt(job, machine, teller, lambda: teller.stopping)
        return _away(job, machine, hub, teller)
    except KeyboardInterrupt:
        return Outcome("interrupted")
    except UserError as error:
        return Outcome("failed", str(getattr(error, "cause", error)))  # an error of the hub comes wrapped, with a trace


def _away(job: Job, machine: Machine, hub, teller: "_Teller") -> Outcome:
    """Run the job on a node that does not see the store: in a temporary store, whose only result is sent to the hub."""
    with tempfile.TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True) as folder:
        machine.store = store = Store(Path(folder))
        for parent in {parent.key: parent for parent in ancestors(job)}.values():
            _write(store.path(parent), ray.get(hub.result.remote(parent)))
        outcome = attempt(job, machine, teller, lambda: teller.stopping)
        if outcome.kind == "done" and not ray.get(hub.land.remote(job, _read(store.path(job)))):
            return Outcome("held")
        if outcome.kind == "failed":
            log = Path(outcome.log).read_bytes() if outcome.log else b""
            return replace(outcome, log=ray.get(hub.failed.remote(job, outcome.text, log)))
        return outcome


def _data_root(job: Job, spec: _Spec, hub) -> Path:
    """The folder with the job's data sets: the driver's, or if this node does not have them, one filled by the hub."""
    if all(_is_here(name, fingerprint, spec.data_root) for name, fingerprint in job.images.items()):
        return spec.data_root
    folder = Path(_fetched().name)
    for name in job.images:
        if not all(path.is_file() for path in prepared.paths(name, folder)):
            _write(folder, ray.get(ray.get(hub.data.remote(name))))
    return folder


def _is_here(name: str, fingerprint: str | None, folder: Path) -> bool:
    """Whether the folder has that data set, with these images."""
    here = all(path.is_file() for path in prepared.paths(name, folder))
    return here and prepared.fingerprint(name, folder) == fingerprint


@functools.cache
def _fetched() -> tempfile.TemporaryDirectory:
    """The folder for data sets from the hub: of this process, which works only for one run."""
    return tempfile.TemporaryDirectory(prefix="benchmark-data-")


def _read(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def _write(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


@functools.cache
def _machine(spec: _Spec) -> Machine:
    """The machine of this process, kept so that the data set stays loaded from job to job."""
    return Machine(Store(spec.results), spec.data_root, device.pick(spec.device))


class _Teller:
    """A job's display in a task: reports to the hub from time to time, and learns whether to stop."""

    def __init__(self, hub):
        self.hub, self.stopping, self.answer, self.told = hub, False, None, 0.0

    def begin(self, job: Job) -> None:
        self.answer = self.hub.tell.remote(job.key, None)

    def progress(self, job: Job, beat: Heartbeat) -> None:
        now = time.monotonic()
        if now - self.told < TELL or not ray.wait([self.answer], timeout=0)[0]:
            return
        self.told = now
        try:
            self.stopping = ray.get(self.answer)
            self.answer = self.hub.tell.remote(job.key, beat)
        except RayError:  # the driver is gone
            self.stopping = True
