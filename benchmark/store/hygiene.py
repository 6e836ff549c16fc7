"""Maintenance of a store: checks that finished jobs are unchanged, and finds what may be removed."""

import contextlib
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
from benchmark.matrix.cells import Job
from benchmark.store import checksums, solid
from benchmark.store.store import METRICS, Store

_JOB = re.compile(r"[\w+-][\w.+-]*-[0-9a-f]{12}")  # WHAT-KEY
# what this package makes in .work: a holder's folder, a result that was set aside, and what a killed process leaves
_HELD = re.compile(r"([0-9a-f]{12})(\.[0-9]+)?")
_ASIDE = re.compile(rf"replaced-{_JOB.pattern}-[0-9]+")
_LEFT = re.compile(
    r"\.(probe|import|old)-[0-9a-f]+|\.(new|old)-[0-9a-f]{12}-[0-9a-f]{32}|\.shipped\.json\.[0-9a-f]{12}\.tmp"
)


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
    """Something in a store that no kept suite needs; stays: why it is not removed, "" if it may be."""

    path: Path
    why: str
    stays: str = ""

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(path.stat().st_size for path in (self.path, *self.path.rglob("*")) if path.is_file())


def walk(root: Path, depth: int = 3) -> Iterator[tuple[Path, Unreadable | None]]:
    """The folders of all finished jobs, of any suite, in order.

    With the error, in place of folders: those (of a job, a row, a data set) that are links, or hold some, or cannot be
    read, so that what is in them is unknown.
    """
    try:
        below = solid.folders(root)
    except Unreadable as error:
        yield root, error
        return
    for folder in below:
        try:
            solid.require_folder(folder)
            if depth == 1 and solid.holds(folder, METRICS):
                yield solid.require(folder, root), None
        except Unreadable as error:
            yield folder, error
            continue
        if depth > 1:
            yield from walk(folder, depth - 1)


def finished(root: Path) -> Iterator[Path]:
    """The folders of all finished jobs. Unreadable if one cannot be read, or is reached by a link (Irregular)."""
    for folder, error in walk(root):
        if error:
            raise error
        yield folder


def verify(store: Store) -> list[Finding]:
    """Check every finished job. UserError if there is no such store. A folder that cannot be read is one finding."""
    if not store.root.is_dir():
        raise UserError(f"there is no results folder {store.root}; choose another --results")
    return [_look(folder, error) for folder, error in walk(store.root)]


def _look(folder: Path, error: Unreadable | None) -> Finding:
    try:
        if error:
            raise error
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

    What is not ours stays: a folder that is no job's own, hidden things in .work that nothing here makes. A result that
    was set aside stays until its job is done again. Other things in .work belong to an engine, and are not listed.
    """
    solid.require_all(store.root)
    keys = {job.key[:12]: job for job in keep}
    found = [_unneeded(folder) for folder in finished(store.root) if folder.name.rpartition("-")[2] not in keys]
    for path in sorted(store.work.iterdir()) if store.work.is_dir() else []:
        if _ASIDE.fullmatch(path.name):
            job = keys.get(path.name.rpartition("-")[0].rpartition("-")[2])
            if job is None or store.done(job):
                found.append(Waste(path, "left over"))
        elif path.name.startswith("."):
            ours = _LEFT.fullmatch(path.name)
            found.append(Waste(path, "left over") if ours else Waste(path, "nothing here makes it", "not ours"))
        elif (held := _HELD.fullmatch(path.name)) and path.is_dir() and held[1] not in keys:
            holder = store.locks.holder(held[1])
            stays = f"held on {holder.host}, process {holder.pid}" if holder else ""
            found.append(Waste(path, "work on a job in no kept suite", stays))
    return found


def _unneeded(folder: Path) -> Waste:
    """A folder with metrics that is no kept job's: waste if it is a job's own, otherwise somebody else's."""
    problem = foreign(folder) if _JOB.fullmatch(folder.name) else "its name is not WHAT-KEY"
    return Waste(folder, problem, "not ours") if problem else Waste(folder, "in no kept suite")


def remove(store: Store, item: Waste) -> bool:
    """Remove it; False if it is to stay, or a runner holds it. Irregular if it is not what `waste` found."""
    if item.stays:
        return False
    solid.require(item.path, store.root)
    if held := item.path.parent == store.work and _HELD.fullmatch(item.path.name):
        with store.locks.hold(held[1]) as folder:  # nobody else can be in it now
            if folder is None:
                return False
            store.locks.drop(held[1])
            return True
    aside = store.work / f".old-{uuid.uuid4().hex}"  # a reader sees a complete result or none
    store.work.mkdir(parents=True, exist_ok=True)
    os.rename(item.path, aside)
    shutil.rmtree(aside) if aside.is_dir() else aside.unlink()
    if item.path.parent != store.work:  # a job's: its row and its data set go with their last job
        with contextlib.suppress(OSError):  # there is more in it
            item.path.parent.rmdir()
            item.path.parent.parent.rmdir()
    return True
