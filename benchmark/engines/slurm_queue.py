"""Which of a store's jobs are in the Slurm queue: records of what was submitted, joined with `squeue`.

Slurm reuses job ids after a reinstallation or after the highest id, and each cluster has its own. So every array has a
unique name, and the queue is asked for it as well: a job with the same id is ours only if it has that name.
"""

import json
import os
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from benchmark.errors import UserError
from benchmark.matrix.cells import Job
from benchmark.store import solid
from benchmark.store.store import Store, write_json

_RECORD = re.compile(r"array-benchmark-[0-9a-f]{16}\.json")


@dataclass(frozen=True)
class Entry:
    """A Slurm job that is still in the queue. task: its id, 12_3 for one of an array."""

    task: str
    state: str
    reason: str

    def __str__(self) -> str:
        return f"Slurm job {self.task}, {self.state.lower()}" + (f" ({self.reason})" if self.reason != "None" else "")


@dataclass(frozen=True)
class Submitted:
    """A task of an array as submitted. name: of the array and its folder; clusters: where, "" for the default."""

    task: str
    name: str
    clusters: str


def folder(store: Store, name: str = "") -> Path:
    """The folder of the records of Slurm jobs, or of the scripts and logs of an array."""
    return solid.require(store.work / "slurm" / name, store.root)


def record(store: Store, name: str, tasks: dict[str, list[str]], clusters: str) -> None:
    """Remember an array: Slurm id of each task -> keys of its jobs."""
    folder(store).mkdir(parents=True, exist_ok=True)
    content = {"name": name, "clusters": clusters, "submitted": time.time_ns(), "tasks": tasks}
    write_json(folder(store) / f"array-{name}.json", content)


def submitted(store: Store) -> dict[str, Submitted]:
    """Job key -> the last Slurm job it was submitted in, finished or not."""
    found: dict[str, Submitted] = {}
    paths = folder(store).glob("array-*.json")
    records = [_read(path) for path in paths if _RECORD.fullmatch(path.name)]  # other files are not ours
    for content in sorted(records, key=lambda content: content["submitted"]):
        for task, keys in content["tasks"].items():
            found |= {key: Submitted(task, content["name"], content["clusters"]) for key in keys}
    return found


def _read(path: Path) -> dict:
    kinds = {"name": str, "clusters": str, "submitted": int, "tasks": dict}
    try:
        content = json.loads(path.read_bytes())
        sound = all(isinstance(content[key], kind) for key, kind in kinds.items()) and all(
            isinstance(keys, list) and all(isinstance(k, str) for k in keys) for keys in content["tasks"].values()
        )
        if not sound:
            raise ValueError("not what was written there")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"cannot read {path} ({error}); delete it") from None
    return content


def queued(store: Store) -> dict[str, Entry]:
    """Job key -> its queue entry, for the jobs in the queue. UserError if Slurm does not answer."""
    ours = submitted(store)
    entries: dict[tuple, Entry] = {}
    for clusters in {one.clusters for one in ours.values()}:
        entries |= {(clusters, name, entry.task): entry for name, entry in _squeue(clusters)}
    places = {key: (one.clusters, one.name, one.task) for key, one in ours.items()}
    return {key: entries[place] for key, place in places.items() if place in entries}


def status(job: Job, store: Store, queue: dict[str, Entry]) -> tuple[str, str]:
    """As Store.status, with `queued` for jobs that wait in the queue."""
    state, reason = store.status(job)
    return ("queued", str(queue[job.key])) if state in ("waiting", "failed") and job.key in queue else (state, reason)


def log(store: Store, job: Submitted) -> Path:
    """The file with a Slurm job's output."""
    return folder(store, job.name) / f"{job.task}_0_log.err"


def _squeue(clusters: str) -> list[tuple[str, Entry]]:
    """(name, entry) of each of the user's jobs in the queues of `clusters`."""
    words = ["squeue", "--noheader", "--array", f"--user={os.getuid()}", "--format=%i|%T|%r|%j"]
    words += [f"--clusters={clusters}"] if clusters else []
    # the user's own settings for squeue (SQUEUE_STATES, ...) would change the answer
    wishes = ("SQUEUE_", "SLURM_CLUSTERS")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(wishes)}
    try:
        answer = subprocess.run(
            words, capture_output=True, text=True, errors="replace", timeout=60, check=True, env=environment
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        text = getattr(error, "stderr", None) or error
        raise UserError(f"cannot read the Slurm queue: {' '.join(str(text).split())[:300]}") from None
    lines = [line.split("|", 3) for line in answer.splitlines()]  # with several clusters, also lines "CLUSTER: name"
    return [(line[3], Entry(*line[:3])) for line in lines if len(line) == 4]
