"""Maintenance of a store: checks that finished jobs are unchanged, and finds what may be removed."""

import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmark.errors import Unreadable, UserError
from benchmark.matrix.expand import Job
from benchmark.store import checksums, solid
from benchmark.store.store import METRICS, Store

_KEY = re.compile("[0-9a-f]{12}")


@dataclass(frozen=True)
class Finding:
    """A finished job's folder.

    state: `intact`, `no checksums` (from before they existed), `damaged`, or `unreadable` (unknown).
    """

    folder: Path
    state: str
    problems: list[str]
    lacks_tensors: bool


@dataclass(frozen=True)
class Waste:
    """Something in a store that no kept suite needs; held: by whom, if a job still runs in it."""

    path: Path
    why: str
    held: str = ""

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(path.stat().st_size for path in (self.path, *self.path.rglob("*")) if path.is_file())


def folders(root: Path) -> list[Path]:
    """The folders of all finished jobs, of any suite, in order, unchecked."""
    return [metrics.parent for metrics in sorted(root.glob(f"[!.]*/*/*/{METRICS}"))]


def finished(root: Path) -> Iterator[Path]:
    """The same, checked. Irregular if one is reached by a link."""
    for folder in folders(root):
        solid.require(folder, root)
        yield folder


def verify(store: Store) -> list[Finding]:
    """Check every finished job. UserError if there is no such store."""
    if not store.root.is_dir():
        raise UserError(f"there is no results folder {store.root}; choose another --results")
    return [_look(folder, store.root) for folder in folders(store.root)]


def _look(folder: Path, root: Path) -> Finding:
    try:
        solid.require(folder, root)
        problems = checksums.problems(folder)
        listed = None if problems else checksums.read(folder)
        lacking = [name for name in listed or () if checksums.spared(name) and not (folder / name).exists()]
        problems = problems or list(filter(None, [foreign(folder)]))
    except Unreadable as error:
        return Finding(folder, "unreadable", [str(error)], False)
    state = "damaged" if problems else "intact" if listed else "no checksums"
    return Finding(folder, state, problems, bool(lacking))


def foreign(folder: Path) -> str:
    """Why the folder's job.json is not that of a job with its key and name; "" if it is.

    The key is a hash of job.json's contents, so a result cannot pass for another job's. Unreadable (an error) if this
    cannot be determined.
    """
    path = folder / "job.json"
    try:
        said = json.loads(checksums.content(path))
        parents: dict[str, Any] = {role: SimpleNamespace(key=key) for role, key in said["parents"].items()}
        key = Job(said["kind"], said["config"], parents).key
        sound = said["key"] == key and folder.name.endswith(f"-{key[:12]}")
        return "" if sound else f"{path} describes another job than its name and key say"
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"cannot read {path} ({error})"


def training(folder: Path) -> Job:
    """The training in this finished folder. Damaged (a UserError) if its job.json is not its own."""
    if problem := foreign(folder):
        raise checksums.Damaged(f"{folder} is damaged ({problem}); delete it and run its suite again")
    said = json.loads(checksums.content(folder / "job.json"))
    return Job(said["kind"], said["config"])


def waste(store: Store, keep: list[Job]) -> list[Waste]:
    """Everything that is not a result of, or work on, the jobs to keep. Irregular for a link, pipe or similar.

    A result that was set aside stays until its job is done again. Files not named by a job's key belong to an engine.
    """
    solid.require_all(store.root)
    keys = {job.key[:12]: job for job in keep}
    found = [
        Waste(folder, "in no kept suite")
        for folder in finished(store.root)
        if folder.name.rpartition("-")[2] not in keys
    ]
    for path in sorted(store.work.iterdir()) if store.work.is_dir() else []:
        name = path.name.partition(".")[0]
        if path.name.startswith("replaced-"):  # replaced-WHAT-KEY-TIME
            job = keys.get(path.name.rpartition("-")[0].rpartition("-")[2])
            if job is None or store.done(job):
                found.append(Waste(path, "left over"))
        elif path.name.startswith("."):
            found.append(Waste(path, "left over"))
        elif _KEY.fullmatch(name) and name not in keys:
            holder = store.locks.holder(name)
            held = f"on {holder.host}, process {holder.pid}" if holder else ""
            found.append(Waste(path, "work on a job in no kept suite", held))
    return found


def remove(store: Store, item: Waste) -> bool:
    """Remove it; False if a runner holds it. Irregular if it is not what `waste` found."""
    solid.require(item.path, store.root)
    name = item.path.name.partition(".")[0]
    if item.path.parent == store.work and name and not name.startswith("replaced-"):
        with store.locks.hold(name) as folder:  # nobody else can be in it now
            if folder is None:
                return False
            store.locks.drop(name)
            return True
    aside = store.work / f".old-{uuid.uuid4().hex}"  # a reader sees a complete result or none
    store.work.mkdir(parents=True, exist_ok=True)
    os.rename(item.path, aside)
    shutil.rmtree(aside) if aside.is_dir() else aside.unlink()
    for above in (item.path.parent, item.path.parent.parent):
        if store.root in above.parents and above != store.work and not any(above.iterdir()):
            above.rmdir()
    return True
