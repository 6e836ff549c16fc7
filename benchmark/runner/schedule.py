"""Which job comes next, and what became of the others."""

from benchmark.matrix.expand import Job
from benchmark.runner.store import Store


class Schedule:
    """The jobs of a suite that are not in the store yet, in order, parents first.

    failures: (job, reason, log path) of each that failed; `running`: those given out and not settled yet.
    """

    def __init__(self, jobs: list[Job], store: Store):
        self.waiting, self.store = list(jobs), store
        self.running: list[Job] = []
        self.failures: list[tuple[Job, str, str]] = []
        self.failed: set[str] = set()

    def next(self) -> Job | None:
        """Give out the first job whose parents are settled and that no other runner holds; None: not now.

        A job that times the hardware (Table S6) is alone on it: it waits for the others, and they for it.
        """
        if any(map(_timed, self.running)):
            return None
        for job in self.waiting:
            ready = all(self.store.done(parent) or parent.key in self.failed for parent in job.parents.values())
            if ready and not (_timed(job) and self.running) and self.store.status(job)[0] != "running":
                self.waiting.remove(job)
                self.running.append(job)
                return job
        return None

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
        """To be given out again."""
        self.settle(job)
        self.waiting.insert(0, job)


def _timed(job: Job) -> bool:
    return job.kind == "efficiency"
