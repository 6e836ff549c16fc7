"""What of a store's jobs stands in the Slurm queue: records of what was submitted, joined with `squeue`."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from benchmark.errors import UserError
from benchmark.matrix.expand import Job
from benchmark.runner import solid
from benchmark.runner.store import Store, write_json


@dataclass(frozen=True)
class Entry:
    """A Slurm job that still is in the queue. task: its id, 12_3 for one of an array."""

    task: str
    state: str
    reason: str

    def __str__(self) -> str:
        return f"Slurm job {self.task}, {self.state.lower()}" + (f" ({self.reason})" if self.reason != "None" else "")


def folder(store: Store) -> Path:
    """Where records, scripts and logs of the Slurm jobs are."""
    found = store.work / "slurm"
    solid.require(found, store.root)
    return found


def record(store: Store, tasks: dict[str, list[str]]) -> None:
    """Remember an array: Slurm id of each task -> keys of its jobs."""
    name = next(iter(tasks)).partition("_")[0]
    folder(store).mkdir(parents=True, exist_ok=True)
    write_json(folder(store) / f"array-{name}.json", tasks)


def submitted(store: Store) -> dict[str, str]:
    """Job key -> the last Slurm job it was submitted in, whether that is over or not."""
    found: dict[str, str] = {}
    records = [path for path in folder(store).glob("array-*.json") if _number(path).isdecimal()]  # else not ours
    for path in sorted(records, key=lambda path: int(_number(path))):
        try:
            for task, keys in json.loads(path.read_text()).items():
                found |= {key: task for key in keys}
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise UserError(f"cannot read {path} ({error}); delete it") from None
    return found


def _number(path: Path) -> str:
    return path.stem.partition("-")[2]


def queued(store: Store) -> dict[str, Entry]:
    """Job key -> its entry in the queue, of the jobs that are in it. UserError where Slurm does not answer."""
    tasks = submitted(store)
    if not tasks:
        return {}
    entries = {entry.task: entry for entry in _squeue()}
    return {key: entries[task] for key, task in tasks.items() if task in entries}


def status(job: Job, store: Store, queue: dict[str, Entry]) -> tuple[str, str]:
    """As Store.status, and `queued` for what waits in the queue."""
    state, reason = store.status(job)
    return ("queued", str(queue[job.key])) if state in ("waiting", "failed") and job.key in queue else (state, reason)


def log(store: Store, task: str) -> Path:
    """What a Slurm job has printed."""
    return folder(store) / f"{task}_0_log.err"


def _squeue() -> list[Entry]:
    words = ["squeue", "--noheader", "--array", f"--user={os.getuid()}", "--format=%i|%T|%r"]
    try:
        answer = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        text = getattr(error, "stderr", None) or error
        raise UserError(f"cannot read the Slurm queue: {' '.join(str(text).split())[:300]}") from None
    return [Entry(*line.split("|", 2)) for line in answer.splitlines() if line]
