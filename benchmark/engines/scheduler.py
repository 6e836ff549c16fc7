"""Which job comes next, and the state of the others."""

from benchmark.matrix.cells import Job
from benchmark.store.store import Store


class Schedule:
    """The jobs of a suite that are not in the store yet, row by row, parents first.

    The first ready job starts next: remaining jobs of rows already begun come before a new row, so that a stopped run
    leaves as many complete rows as possible.

    failures: (job, reason, log path) of each failed job; `running`: jobs started and not settled yet.
    ahead: start a job as soon as its parents are started.
    """

    def __init__(self, jobs: list[Job], store: Store, ahead: bool = False):
        self.waiting, self.store, self.ahead = [job for row in rows(jobs) for job in row], store, ahead
        self.running: list[Job] = []
        self.failures: list[tuple[Job, str, str]] = []
        self.failed: set[str] = set()

    def next(self) -> Job | None:
        """The first job that is ready and that no other runner holds; None: not now.

        A job that times the hardware (Table S6) runs alone: it waits for the others, and they wait for it.
        """
        if any(map(_timed, self.running)):
            return None
        given = {job.key for job in self.running} if self.ahead else set()
        for job in self.waiting:
            if _timed(job) and self.running:
                continue
            if self._ready(job, given) and self.store.status(job)[0] != "running":
                self.waiting.remove(job)
                self.running.append(job)
                return job
        return None

    def _ready(self, job: Job, given: set[str]) -> bool:
        """Whether each parent is done, failed, or in `given`."""
        return all(
            parent.key in self.failed or parent.key in given or self.store.done(parent)
            for parent in job.parents.values()
        )

    def orphaned(self, job: Job) -> bool:
        """Whether a parent failed; the job then fails as well."""
        broken = [parent for parent in job.parents.values() if parent.key in self.failed]
        if broken:
            self.fail(job, f"needs {broken[0].title}, which failed", "")
        return bool(broken)

    def settle(self, job: Job) -> None:
        self.running.remove(job)

    def fail(self, job: Job, reason: str, log: str) -> None:
        self.settle(job)
        self.failed.add(job.key)
        self.failures.append((job, reason, log))

    def put_back(self, job: Job) -> None:
        """Let the job be started again."""
        self.settle(job)
        self.waiting.insert(0, job)


def _timed(job: Job) -> bool:
    return job.kind == "efficiency"


def rows(jobs: list[Job]) -> list[list[Job]]:
    """Each training with the jobs on it (attacks, bounds); otherwise in the order given."""
    found: dict[str, list[Job]] = {}
    for job in jobs:
        found.setdefault(job.parents.get("train", job).key, []).append(job)
    return list(found.values())


def ancestors(job: Job) -> list[Job]:
    """The jobs that it needs, each before those that it needs itself; one may occur several times."""
    return [older for parent in job.parents.values() for older in (parent, *ancestors(parent))]
