"""What an engine adds to a job: a hundred that do nothing, through the engine's own way and the store."""

import contextlib
import itertools
import signal

import pytest
import torch

from benchmark import data
from benchmark.config import Resources
from benchmark.engines.concurrency import Share
from benchmark.engines.drain import SPAWN, drain
from benchmark.engines.scheduler import Schedule
from benchmark.engines.workers import Here, Workers
from benchmark.jobs.run_job import Machine
from benchmark.matrix.cells import Job
from benchmark.store.store import Store
from tests.engines.test_workers import Quiet

JOBS = 100


class Nothing:
    """A store with a training that diverged: an attack on it is recorded as diverged, and does nothing besides."""

    def __init__(self, folder):
        self.store, self.data = Store(folder / "results"), folder / "data"
        self.store.check_writable()
        cell = {"dataset": "photos", "defense": {"name": "none"}, "cem": None, "seed": 1}
        cell["fingerprint"] = data.fingerprint("photos", self.data)
        self.parent = Job("train", cell)
        with self.store.claim(self.parent):
            self.store.finish(self.parent, {"status": "diverged", "reason": "test", "values": {}}, {})
        self.numbers = itertools.count()

    def jobs(self, count: int) -> list[Job]:
        resources = Resources(gpu=1 / 4, memory=0.1)
        config = {"attack": "decoder", "split": "infer"}
        return [
            Job("attack", config | {"n": next(self.numbers)}, {"train": self.parent}, resources) for _ in range(count)
        ]

    def drain(self, place, count: int) -> None:
        schedule = Schedule(self.jobs(count), self.store, place.ahead)
        drain(schedule, place, Quiet(), place.stop)
        assert not schedule.failures


@contextlib.contextmanager
def engine(name: str, nothing: Nothing):
    stop, display = SPAWN.RawValue("b", 0), Quiet()
    machine = Machine(nothing.store, nothing.data, torch.device("cpu"))
    if name == "ray":
        pytest.importorskip("ray")
        from benchmark.engines.ray import Cluster

        place = Cluster(nothing.store, nothing.data, "cpu", None, None, display, stop)
    else:
        place = {"here": Here, "workers": Workers}[name](
            *(machine, display, stop), *([Share(2)] if name == "workers" else [])
        )
    before = signal.getsignal(signal.SIGTERM)
    with place:
        yield place
    signal.signal(signal.SIGTERM, before)  # Ray sets its own


@pytest.mark.parametrize("name", ["here", "workers", pytest.param("ray", marks=pytest.mark.engines)])
def test_overhead_of_a_job(benchmark, tmp_path, name):
    nothing, count = Nothing(tmp_path), JOBS if benchmark.enabled else 3
    with engine(name, nothing) as place:
        nothing.drain(place, 4)  # so that its processes run
        benchmark.pedantic(nothing.drain, args=(place, count), rounds=3)
    if benchmark.enabled:
        benchmark.extra_info["milliseconds a job"] = benchmark.stats.stats.min / JOBS * 1000
