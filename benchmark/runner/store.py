"""The store of results: one folder for each finished job, named by what it is and its key.

    RESULTS/DATASET/DEFENCE[+cem]/WHAT-KEY/   job.json metrics.json provenance.json history.csv log.txt
                                              checkpoint.safetensors per_image.safetensors
                                              reconstructions.png extremes.png pictures.json
    RESULTS/.work/KEY/                        a job under way or failed: its lock, log, heartbeat and mid-job state

A finished folder appears by one rename, so it is whole or not there. A lock with a heartbeat lets several runners
share a store: no job runs twice while its holder lives.
"""

import contextlib
import json
import math
import os
import shutil
import socket
import threading
import time
from pathlib import Path

from benchmark.errors import UserError
from benchmark.matrix.expand import Job

CHECKPOINT = "checkpoint.safetensors"
PER_IMAGE = "per_image.safetensors"
RECOGNITION = "recognition.json"  # added to a finished attack by `recognise`
PROGRESS = "progress.json"  # the heartbeat of a running job (heartbeat.py)
HEARTBEAT, STALE = 10.0, 60.0  # seconds between heartbeats, and after which a silent holder counts as dead


class Store:
    """The results below `root`. Reading needs no right to write there."""

    def __init__(self, root: Path):
        self.root = Path(root)
        self.work = self.root / ".work"

    def check_writable(self) -> None:
        """Make the folder. UserError where that, or writing there, fails: told before a run rather than in it."""
        try:
            self.work.mkdir(parents=True, exist_ok=True)
            probe = self.work / f".probe-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise UserError(f"cannot write the results folder {self.root}: {error}; choose another --results") from None

    def path(self, job: Job) -> Path:
        """The folder of the finished job."""
        return self.root / job.folder

    def workdir(self, job: Job) -> Path:
        """The folder of the job while it runs, and after it failed."""
        return self.work / job.key[:12]

    def done(self, job: Job) -> bool:
        return (self.path(job) / "metrics.json").is_file()

    def metrics(self, job: Job) -> dict:
        """The finished job's metrics: `status` done or diverged, `reason`, `values`. UserError for a damaged file."""
        return self._json(self.path(job) / "metrics.json", {"status": str, "reason": str, "values": dict})

    def provenance(self, job: Job) -> dict:
        return self._json(self.path(job) / "provenance.json", {})

    def recognition(self, job: Job) -> dict:
        """What `recognise` found of the finished attack's images; {} where it was not asked."""
        path = self.path(job) / RECOGNITION
        return self._json(path, {"classifier": str, "recognised_percent": float}) if path.is_file() else {}

    def status(self, job: Job) -> tuple[str, str]:
        """(`done` | `diverged` | `failed` | `running` | `waiting`, reason)."""
        if self.done(job):
            metrics = self.metrics(job)
            return metrics["status"], metrics["reason"]
        lock = self._lock(job)
        if lock and not _dead(lock):
            return "running", f"on {lock['host']}, process {lock['pid']}"
        failed = self.workdir(job) / "failed.json"
        if failed.is_file():
            return "failed", self._json(failed, {"reason": str})["reason"]
        return "waiting", "not run yet"

    def finish(self, job: Job, metrics: dict, provenance: dict) -> None:
        """Turn the job's working folder, which already holds its other files, into its finished folder."""
        folder = self.workdir(job)
        parents = {role: parent.key for role, parent in job.parents.items()}
        write_json(folder / "job.json", {"key": job.key, "kind": job.kind, "config": job.config, "parents": parents})
        write_json(folder / "provenance.json", provenance)
        write_json(folder / "metrics.json", metrics)
        spare = [*folder.glob(".*"), *folder.glob("*.damaged")]
        spare += [folder / name for name in ("failed.json", "state.safetensors", PROGRESS)]
        for path in spare:  # mid-job state, and what a crash left behind
            path.unlink(missing_ok=True)
        final = self.path(job)
        final.parent.mkdir(parents=True, exist_ok=True)
        if final.exists():  # without metrics.json, so nobody's result: a remnant of a copy
            shutil.rmtree(final)
        os.replace(folder, final)  # the lock goes along, so nobody can claim the folder while it moves
        (final / "lock.json").unlink(missing_ok=True)

    def set_aside(self, job: Job) -> Path:
        """Move a finished job's folder out of the way, so that the job counts as not run; returns where it is now."""
        aside = self.work / f"replaced-{job.key[:12]}-{time.time_ns()}"
        self.work.mkdir(parents=True, exist_ok=True)
        os.replace(self.path(job), aside)
        return aside

    def fail(self, job: Job, reason: str) -> None:
        write_json(self.workdir(job) / "failed.json", {"reason": reason})

    @contextlib.contextmanager
    def claim(self, job: Job):
        """Hold the job while the block runs; yields its working folder, or None where another runner holds it or
        has finished it."""
        folder = self.workdir(job)
        folder.mkdir(parents=True, exist_ok=True)
        if not self._acquire(folder / "lock.json", job):
            yield None
            return
        if self.done(job):  # finished since the caller looked: the working folder is a new, empty one
            shutil.rmtree(folder, ignore_errors=True)
            yield None
            return
        stop = threading.Event()
        beat = threading.Thread(target=self._beat, args=(folder / "lock.json", stop), daemon=True)
        beat.start()
        try:
            (folder / "failed.json").unlink(missing_ok=True)
            yield folder
        finally:
            stop.set()
            beat.join()
            held = self._lock(job)
            if held and (held["host"], held["pid"]) == (socket.gethostname(), os.getpid()):
                (folder / "lock.json").unlink(missing_ok=True)

    def _acquire(self, lock: Path, job: Job) -> bool:
        for _ in range(2):
            try:
                with open(lock, "x") as file:
                    json.dump({"host": socket.gethostname(), "pid": os.getpid()}, file)
                return True
            except FileNotFoundError:  # the folder was finished and moved just now
                return False
            except FileExistsError:
                held = self._lock(job)
                if held and not _dead(held):
                    return False
                # one taker wins the rename; the other finds no file and tries to create its own
                with contextlib.suppress(FileNotFoundError):
                    stale = lock.with_name(f".stale-{os.getpid()}-{time.time_ns()}")
                    os.replace(lock, stale)
                    stale.unlink()
        return False

    def _lock(self, job: Job) -> dict | None:
        lock = self.workdir(job) / "lock.json"
        try:
            held = json.loads(lock.read_text())
            return {"host": held["host"], "pid": held["pid"], "age": time.time() - lock.stat().st_mtime}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):  # being written, or cut off by a crash: its age decides
            return {"host": "?", "pid": -1, "age": _age(lock)}

    @staticmethod
    def _beat(lock: Path, stop: threading.Event) -> None:
        while not stop.wait(HEARTBEAT):
            with contextlib.suppress(OSError):
                os.utime(lock)

    @staticmethod
    def _json(path: Path, fields: dict[str, type]) -> dict:
        """The JSON object in `path`, which must have `fields` of these types."""
        try:
            value = json.loads(path.read_text())
            if not isinstance(value, dict) or not all(isinstance(value.get(key), fields[key]) for key in fields):
                raise ValueError("not what was written there")
            return value
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {path} ({error}); delete the folder {path.parent} and run again") from None


def write_json(path: Path, value) -> None:
    """Write `value` as JSON by an atomic rename. NaN and infinities become null."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(_finite(value), indent=2, allow_nan=False) + "\n")
    os.replace(temporary, path)


def _finite(value):
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _dead(lock: dict) -> bool:
    """Whether a lock's holder is gone: silent for too long, or a process of this host that no longer exists."""
    if lock["age"] > STALE:
        return True
    if lock["host"] != socket.gethostname():
        return False
    try:
        os.kill(lock["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0
