"""The store of results: one folder for each finished job, named by its row, its kind and its key.

    RESULTS/DATASET/DEFENCE[+cem]/WHAT-KEY/   job.json metrics.json provenance.json history.csv log.txt SHA256SUMS
                                              checkpoint.safetensors per_image.safetensors encoder.safetensors
                                              reconstructions.png extremes.png pictures.json
                                              recognition.json lpips.json submitter.json (added later)
    RESULTS/.work/KEY[.N]/                    a running or failed job: its lock, log, heartbeat and mid-job state

A finished folder appears by one rename, so it is complete or absent, and what is read from it is checked against its
checksums (checksums.py). Locks with a heartbeat let several runners share a store (lock.py): no job runs twice while
its holder lives. Nothing read here is ever executed: JSON, safetensors, CSV, PNG and text.
"""

import contextlib
import errno
import json
import math
import os
import tempfile
import time
import uuid
from collections.abc import Iterable
from pathlib import Path

from benchmark.errors import Unreadable, UserError, writing
from benchmark.files import whole
from benchmark.matrix.cells import Job
from benchmark.store import checksums, solid
from benchmark.store.lock import LOCK, STATE, Locks, Lost
from benchmark.text import LONGEST_NAME, plain

CHECKPOINT = "checkpoint.safetensors"
ENCODER = checksums.ENCODER  # of a training: what attacks read of its checkpoint
METRICS = "metrics.json"
HISTORY = "history.csv"  # of a training or an attack, epoch by epoch
LARGEST = 1e100  # of a number among the metrics: no sum of fp32 numbers is beyond it
PER_IMAGE = "per_image.safetensors"
PROGRESS = "progress.json"  # the heartbeat of a running job (heartbeat.py)
FAILED = "failed.json"  # why the last attempt ended
_OF_WORK = (LOCK, STATE, PROGRESS, FAILED)  # files of a working folder that are no part of the result


class Store:
    """The results below `root`. Reading needs no right to write there.

    Every folder is checked before it is returned or read: Irregular (a UserError) if it, or anything directly in it,
    is neither a real folder nor a regular file (solid.py).
    """

    def __init__(self, root: Path):
        self.root = Path(root)
        self.work = self.root / ".work"
        solid.require_folder(self.work)
        self.locks = Locks(self.work)

    def check_writable(self, jobs: Iterable[Job] = ()) -> None:
        """Make the folder. UserError if that, or writing there, fails, also in the rows of the jobs that are not done:
        better before a run than during it."""
        rows = {self.path(job).parent: job for job in jobs if not self.done(job)}
        try:
            self.work.mkdir(parents=True, exist_ok=True)
            probe = self.work / f".probe-{uuid.uuid4().hex}"
            probe.touch()
            probe.unlink(missing_ok=True)
            for job in rows.values():
                self.require_place(job)
        except OSError as error:
            raise UserError(f"cannot write the results folder {self.root}: {error}; choose another --results") from None

    def require_place(self, job: Job) -> None:
        """CannotWrite unless the finished job's folder could appear in its row now."""
        row = self.path(job).parent
        there = next(folder for folder in (row, *row.parents) if folder.is_dir())
        with contextlib.suppress(FileNotFoundError), writing(there), tempfile.TemporaryFile(dir=there):
            pass  # not found: the row was emptied just now, and is made again

    def path(self, job: Job) -> Path:
        """The folder of the finished job."""
        return solid.require(self.root / job.folder, self.root)

    def workdir(self, job: Job) -> Path:
        """The folder of the job while it runs, and after a failure."""
        return solid.require(self.locks.folder(_name(job)), self.root)

    def done(self, job: Job) -> bool:
        return (self.path(job) / METRICS).is_file()

    def metrics(self, job: Job) -> dict:
        """The finished job's metrics: `status` done or diverged, `reason`, `values` (numbers, null for none).

        Damaged (a UserError) for a file that is not what was written, or not a result at all; Unreadable (also one) for
        a file that may be intact.
        """
        return self._result(self.path(job))

    def _result(self, folder: Path) -> dict:
        path = folder / METRICS
        found = self._json(path, {"status": str, "reason": str, "values": dict})
        if found["status"] not in ("done", "diverged") or not all(map(is_number, found["values"].values())):
            raise _damaged(path, "it holds no result")
        return found | {"reason": plain(found["reason"])}

    def provenance(self, job: Job) -> dict:
        return self._json(self.path(job) / "provenance.json", {})

    def checkpoint(self, job: Job, name: str = CHECKPOINT) -> Path:
        """The path of one of a finished job's tensor files, verified against its checksum; it may be missing."""
        path = self.path(job) / name
        try:
            with contextlib.suppress(FileNotFoundError):
                checksums.verify(path)
        except checksums.Damaged as error:
            raise _damaged(path, str(error)) from None
        return path

    def damage(self, job: Job, tensors: bool) -> list[str]:
        """What is wrong with a finished job's files, a line for each; tensors: also check those that are there."""
        found = checksums.problems(self.path(job), tensors)
        if not found:
            try:
                self.metrics(job)
                self.provenance(job)
            except checksums.Damaged as error:
                found = [str(error)]
        return found

    def recognition(self, job: Job) -> dict:
        """The result of `measure recognise` for the finished attack; {} if it has to be measured (again)."""
        return self._added(job, checksums.RECOGNITION, {"classifier": str, "recognised_percent": float})

    def lpips(self, job: Job) -> dict:
        """The result of `measure lpips` for the finished attack; {} if it has to be measured (again)."""
        return self._added(job, checksums.LPIPS, {"weights": str, "lpips": float, "lpips_worst_1_percent": float})

    def submitter(self, job: Job) -> str:
        """Who measured the result, according to the archive it came in; "" if unknown."""
        return plain(self._added(job, checksums.SUBMITTER, {"by": str}).get("by", ""))[:LONGEST_NAME]

    def _added(self, job: Job, name: str, fields: dict[str, type]) -> dict:
        """A file that is not part of the result: if it is incomplete or damaged, it is simply measured again."""
        try:
            return self._json(self.path(job) / name, fields)
        except checksums.Damaged:
            return {}

    def status(self, job: Job) -> tuple[str, str]:
        """(`done` | `diverged` | `failed` | `running` | `waiting`, reason)."""
        if self.done(job):
            metrics = self.metrics(job)
            return metrics["status"], metrics["reason"]
        if holder := self.locks.holder(_name(job)):
            return "running", plain(f"on {holder.host}, process {holder.pid}")
        failed = self._failure(self.workdir(job) / FAILED)
        return ("waiting", "not run yet") if failed is None else ("failed", failed)

    @staticmethod
    def _failure(path: Path) -> str | None:
        """The reason in a failed.json, which decides nothing, so that a damaged one is no error; None if missing."""
        if not path.is_file():
            return None
        try:
            return plain(str(json.loads(checksums.content(path))["reason"]))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, RecursionError):
            return f"its reason cannot be read: {path} is damaged"

    def finish(self, job: Job, metrics: dict, provenance: dict) -> None:
        """Turn the job's working folder, which already holds its other files, into its finished folder.

        Lost if another runner has taken the job over, or finished it first: its result stays.
        """
        parents = {role: parent.key for role, parent in job.parents.items()}
        described = {"key": job.key, "kind": job.kind, "config": job.config, "parents": parents}
        with writing(self.root):
            folder, final = self.workdir(job), self.path(job)
            write_json(folder / "job.json", described)
            write_json(folder / "provenance.json", provenance)
            write_json(folder / METRICS, metrics)
            for path in [*folder.glob(".*"), *folder.glob("*.damaged")]:  # leftovers of a crash
                path.unlink(missing_ok=True)
            checksums.write(folder, leave_out=_OF_WORK)
            if self.locks.lost(_name(job)):
                raise Lost
            self._settle(folder, final)

    def _settle(self, folder: Path, final: Path) -> None:
        """Publish a working folder. If that fails, all of it stays where it is, its saved state too."""
        final.parent.mkdir(parents=True, exist_ok=True)
        self.publish(folder, final)  # the lock goes along, so nobody can claim the folder while it moves
        for name in _OF_WORK:
            (final / name).unlink(missing_ok=True)

    def _saved(self, job: Job, older: Path) -> bool:
        """Publish an earlier holder's folder if it holds the job's complete result; whether it is to be left alone.

        That is so once it is published, if that cannot be done, and if it cannot be read.
        """
        try:
            if not self._complete(job, older):
                return False
            self._settle(older, self.path(job))
        except Lost:  # there is a result, or its holder published it after all
            return False
        except (OSError, Unreadable):
            pass
        return True

    def _complete(self, job: Job, folder: Path) -> bool:
        """Whether a working folder holds the job's whole result, unchanged, its tensors too: its checksums are written
        last."""
        try:
            listed = checksums.read(folder)
            if not listed or checksums.problems(folder) or not all((folder / name).is_file() for name in listed):
                return False
            return self._json(folder / "job.json", {"key": str})["key"] == job.key and bool(self._result(folder))
        except checksums.Damaged:
            return False

    def publish(self, folder: Path, final: Path) -> None:
        """Make a complete folder appear as `final`. Lost if there is already a result, which stays."""
        try:
            os.rename(folder, final)
            return
        except FileNotFoundError:  # taken away just now
            raise Lost from None
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        if (final / METRICS).is_file():
            raise Lost
        self._move_aside(final)  # without metrics, so not a result: left by an incomplete copy
        os.rename(folder, final)

    def add(self, job: Job, name: str, value) -> None:
        """Write `value` as JSON beside a finished job's files, and among its checksums."""
        folder = self.path(job)
        write_json(folder / name, value)
        checksums.add(folder, name)

    def set_aside(self, job: Job) -> Path:
        """Move a finished job's folder aside, so that the job counts as not run; returns its new path."""
        return self._move_aside(self.path(job))

    def fail(self, job: Job, reason: str) -> None:
        with writing(self.root):
            write_json(self.workdir(job) / FAILED, {"reason": reason})

    def lost(self, job: Job, look: bool = True) -> bool:
        """Whether another runner took over the job claimed here, because this one was suspended for a long time.

        look: ask the file system; otherwise return what the last heartbeat found.
        """
        return self.locks.lost(_name(job)) if look else _name(job) in self.locks.robbed

    @contextlib.contextmanager
    def claim(self, job: Job):
        """Hold the job while the block runs; yields its working folder, or None if another runner holds it or has
        finished it. A complete result that an earlier holder could not publish is published."""
        with self.locks.hold(_name(job), lambda older: self._saved(job, older)) as folder:
            if folder is not None and self.done(job):  # finished since the caller looked
                self.locks.drop(_name(job))
                folder = None
            yield folder

    def _move_aside(self, folder: Path) -> Path:
        aside = self.work / f"replaced-{folder.name}-{time.time_ns()}"
        self.work.mkdir(parents=True, exist_ok=True)
        os.rename(folder, aside)
        return aside

    @staticmethod
    def _json(path: Path, fields: dict[str, type]) -> dict:
        """The JSON object in `path`, which must have `fields` of these types and be what was written."""
        try:
            value = json.loads(checksums.verified(path))
        except (checksums.Damaged, FileNotFoundError, ValueError, RecursionError) as error:
            raise _damaged(path, str(error)) from None
        if not isinstance(value, dict) or not all(isinstance(value.get(key), fields[key]) for key in fields):
            raise _damaged(path, "not what was written there")
        return value


def _name(job: Job) -> str:
    return job.key[:12]


def _damaged(path: Path, why: str) -> checksums.Damaged:
    remedy = "run the suite again, which sets it aside and computes it anew"
    return checksums.Damaged(f"{path} is damaged ({plain(why)}); {remedy}")


def is_number(value) -> bool:
    """Whether a value read from JSON is a number that arithmetic can take, or null."""
    if value is None:
        return True
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST


def write_json(path: Path, value) -> None:
    """Write `value` as JSON by an atomic rename. NaN and infinities become null."""
    with whole(path) as temporary:
        temporary.write_text(json.dumps(_finite(value), indent=2, allow_nan=False) + "\n")


def _finite(value):
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
