"""Before a run: results that are damaged, or lack what a waiting job needs, are set aside and computed again."""

from collections.abc import Callable

from benchmark.attacks import ATTACKS
from benchmark.matrix.cells import Job
from benchmark.store.store import CHECKPOINT, ENCODER, PER_IMAGE, Store

# the file that a job reads from a parent, by the parent's role
READS = {"train": ENCODER, "warm_start": CHECKPOINT, "start": CHECKPOINT, "fit": CHECKPOINT}


def mend(jobs: list[Job], store: Store, say: Callable[[str], None]) -> None:
    """Set aside the unusable results among `jobs`; `say` gets a line about each.

    Weights and per-image values are checked only if a waiting job will read them. Results may be shared without them;
    a parent whose files are needed then runs again.
    """
    for job in jobs:
        if store.done(job):
            _set_aside(job, store.damage(job, tensors=False), store, say)
    waiting = [job for job in jobs if not store.done(job)]
    while waiting:
        job = waiting.pop()
        for role, parent in job.parents.items():
            if store.done(parent) and store.metrics(parent)["status"] == "done":
                found = store.damage(parent, tensors=True)
                name = _read(job, role)
                if name and not (store.path(parent) / name).is_file():
                    found = [f"{parent.title} has no {name}"]
                if _set_aside(parent, found, store, say):
                    waiting.append(parent)


def _read(job: Job, role: str) -> str | None:
    """The file of a parent that the job cannot do without."""
    if job.chooses:
        return PER_IMAGE if role != "train" and ATTACKS.get(job.config["attack"]).by_image else None
    return READS[role]


def _set_aside(job: Job, problems: list[str], store: Store, say: Callable[[str], None]) -> bool:
    if not problems:
        return False
    try:
        aside = store.set_aside(job)
    except FileNotFoundError:  # another runner was faster
        return True
    say(f"{'; '.join(problems)}: it runs again; the old result is {aside}")
    return True
