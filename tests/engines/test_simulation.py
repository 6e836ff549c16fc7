"""A thousand jobs on eight GPUs with the real schedule and a clock of its own: the makespan against its lower bound."""

import heapq
from types import SimpleNamespace

import pytest

from benchmark.engines.drain import drain
from benchmark.engines.scheduler import Schedule
from benchmark.jobs import estimate
from benchmark.jobs.attempt import Outcome
from benchmark.matrix.expand import expand, jobs
from benchmark.matrix.load import DEFAULT, MatrixFile
from benchmark.store.store import Store
from tests.engines.test_workers import Quiet

GPUS, SHARES = 8, 4  # jobs a GPU, as the matrix's share of 0.25 makes it


class Simulated:
    """Slots that take as long as each job's estimated work says; `now` is the time at the last outcome."""

    ahead = False

    def __init__(self, store: Store, slots: int, work: dict[str, float]):
        self.store, self.slots, self.work = store, slots, work
        self.now, self.running = 0.0, []

    def free(self) -> bool:
        return len(self.running) < self.slots

    def start(self, job) -> None:
        assert all(self.store.done(parent) for parent in job.parents.values())
        heapq.heappush(self.running, (self.now + self.work[job.key], job.key, job))

    def wait(self, seconds: float):
        self.now, _, job = heapq.heappop(self.running)
        folder = self.store.path(job)
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text('{"status": "done", "reason": "", "values": {}}')
        return [(job, Outcome("done"))]


def bound(suite: list, work: dict[str, float], slots: int) -> float:
    """No schedule ends earlier: all slots busy throughout, or the longest chain of jobs that wait for each other."""
    ends: dict[str, float] = {}
    for job in suite:
        ends[job.key] = work[job.key] + max((ends[parent.key] for parent in job.parents.values()), default=0.0)
    return max(sum(work.values()) / slots, max(ends.values()))


@pytest.fixture(scope="module")
def thousand(tmp_path_factory) -> list:
    """The first thousand jobs of the suites `corrected` and `all`: four data sets, two networks, three seeds."""
    file, nowhere = MatrixFile(DEFAULT), tmp_path_factory.mktemp("data")
    cells = [cell for suite in ("corrected", "all") for cell in expand(file, suite, nowhere)]
    return jobs(cells)[:1000]


def test_eight_gpus_are_kept_busy(thousand, tmp_path, capsys):
    """Row by row costs something at the end, when fewer attacks are left than slots: a GAN at 64 px takes longer than a
    training. Longest chains first would cost less, but no row would be whole before the end."""
    work = {job.key: estimate.work(job) for job in thousand}
    place = Simulated(Store(tmp_path), GPUS * SHARES, work)
    schedule = Schedule(thousand, place.store)
    drain(schedule, place, Quiet(), SimpleNamespace(value=0))
    ratio = place.now / bound(thousand, work, place.slots)
    with capsys.disabled():
        print(f"\n{len(thousand)} jobs: {ratio:.5f} of the lower bound")
    assert not schedule.failures and 1 <= ratio < 1.2
