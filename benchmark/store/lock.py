"""Who works on a job: a folder of the holder's own, with a heartbeat in it.

    WORK/KEY, WORK/KEY.1, WORK/KEY.2, ...   the folders of a job's holders, one after the other; the newest counts

* A folder appears by one rename with `lock.json` in it. The rename fails if the name is taken, so only one of several
  takers wins, also on NFS. Nothing relies on flock.
* A taker never removes a lock. It takes the next number, and withdraws if anything changed since it looked. So a taker
  that looked long ago cannot take the job from one that came later.
* Then the taker moves the older folders away. A holder that was only suspended finds its folder gone, so it cannot
  write into the other's work or publish over it. What is complete in them is not thrown away (`saved` of `hold`).
* Clocks of two machines are never compared. A holder on this machine is gone when its process is. Any other is suspect
  if its heartbeat, the modification time that the file server gave `lock.json`, is old by the file server's own clock,
  or lies in its future (the clock was set back). A taker then watches the heartbeat by its own monotonic clock, and
  takes the job over only if it does not change.
"""

import contextlib
import errno
import functools
import json
import os
import re
import shutil
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmark.store import solid

LOCK = "lock.json"
HEARTBEAT, STALE = 10.0, 60.0  # seconds between heartbeats, and after which a silent holder is suspect
WATCH = 2.5  # heartbeats that a suspect must miss while a taker watches
STATE = "state.safetensors"  # of a job that is under way
INHERITED = ("log.txt", STATE)  # what the next holder continues from
_HOLDERS = re.compile(r"(.+?)(?:\.([0-9]+))?")  # a folder: its name and its number


class Lost(Exception):
    """The job was taken over by another runner, or finished by it, while this one held it (and was suspended)."""


@dataclass(frozen=True)
class Holder:
    """The contents of a lock; `machine` names the system to which the process id `pid` belongs; `beat`: nanoseconds."""

    host: str
    pid: int
    machine: str
    token: str
    beat: int


class Locks:
    """The holders' folders below `work`. A name belongs to a job; a number distinguishes the folders with that name."""

    def __init__(self, work: Path):
        self.work = Path(work)
        self.held: dict[str, Path] = {}  # name -> the folder that is held here
        self.robbed: set[str] = set()  # names that, as a heartbeat noticed, another holder has now
        self._tokens: dict[Path, str] = {}

    def folder(self, name: str) -> Path:
        """The folder held here, else the newest one, else the one that the first holder will have."""
        return self.held.get(name) or self._folder(name, max(self._numbers(name), default=0))

    def holder(self, name: str) -> Holder | None:
        """The holder, as far as one look can tell."""
        found = self._look(name)
        last = found[max(found)] if found else None
        return last if last and not self._suspect(last) else None

    @contextlib.contextmanager
    def hold(self, name: str, saved: Callable[[Path], bool] = lambda older: False):
        """Hold it while the block runs; yields the folder, or None if another holds it.

        saved: is given each older folder once the job is held here; if true, that folder is left alone.
        """
        folder = self._take(name, saved)
        if folder is None:
            yield None
            return
        stop = threading.Event()
        self.held[name] = folder
        self.robbed.discard(name)
        beat = threading.Thread(target=self._beat, args=(name, stop), daemon=True)
        beat.start()
        try:
            yield folder
        finally:
            stop.set()
            beat.join()
            del self.held[name]
            token = self._tokens.pop(folder)
            if self._is_of(folder, token):
                (folder / LOCK).unlink(missing_ok=True)
            self._sweep(name)

    def lost(self, name: str) -> bool:
        """Whether what is held here was taken over."""
        folder = self.held[name]
        newest = max(self._numbers(name), default=-1)
        return not self._is_of(folder, self._tokens[folder]) or folder != self._folder(name, newest)

    def drop(self, name: str) -> None:
        """Remove the folder that is held here, with all that is in it."""
        self._discard(name, self.held[name])

    # -- taking

    def _take(self, name: str, saved: Callable[[Path], bool]) -> Path | None:
        seen = self._look(name)
        if any(holder and not self._gone(name, number, holder) for number, holder in seen.items()):
            return None
        number, token = max(seen, default=-1) + 1, uuid.uuid4().hex
        folder = self._folder(name, number)
        if not self._make(name, folder, token):
            return None
        if {other: holder for other, holder in self._look(name).items() if other != number} != seen:
            self._discard(name, folder)
            return None
        self._tokens[folder] = token
        for older in [self._folder(name, other) for other in sorted(seen, reverse=True)]:
            if not saved(older):
                self._inherit(name, older, folder)
        self._sweep(name)
        return folder

    def _make(self, name: str, folder: Path, token: str) -> bool:
        """Make the folder appear with our lock in it, unless it exists."""
        fresh = self.work / f".new-{name}-{token}"
        fresh.mkdir(parents=True)
        content = {"host": socket.gethostname(), "pid": os.getpid(), "machine": machine(), "token": token}
        try:
            (fresh / LOCK).write_text(json.dumps(content))
            os.rename(fresh, folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):  # ENOENT: swept by another taker
                raise
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        return self._is_of(folder, token)  # an NFS client may repeat a successful request and report an error

    def _gone(self, name: str, number: int, holder: Holder) -> bool:
        """Whether the holder is gone for good, as far as can be known; takes a while for a suspect."""
        if holder.machine == machine() and not _exists(holder.pid):
            return True
        if not self._suspect(holder):
            return False
        end = time.monotonic() + WATCH * HEARTBEAT
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, HEARTBEAT / 10))
            if self._read(self._folder(name, number)) != holder:
                return False
        return True

    def _suspect(self, holder: Holder) -> bool:
        if holder.machine == machine() and not _exists(holder.pid):
            return True
        return not -1 <= self._now() - holder.beat / 1e9 <= STALE

    def _now(self) -> float:
        """Seconds by the file server's clock, which also stamps heartbeats; by ours in a read-only store."""
        try:
            with tempfile.TemporaryFile(dir=self.work) as probe:
                return os.fstat(probe.fileno()).st_mtime
        except OSError:
            return time.time()

    def _inherit(self, name: str, old: Path, new: Path) -> None:
        """Move an older folder out of the way, as a whole, and keep the files in INHERITED."""
        aside = self._aside(name)
        try:
            os.rename(old, aside)
        except OSError:  # its holder has published or removed it after all
            return
        for file in INHERITED:
            if not (new / file).exists():
                with contextlib.suppress(OSError):
                    os.rename(aside / file, new / file)
        shutil.rmtree(aside, ignore_errors=True)

    def _discard(self, name: str, folder: Path) -> None:
        aside = self._aside(name)
        with contextlib.suppress(OSError):
            os.rename(folder, aside)
        shutil.rmtree(aside, ignore_errors=True)

    def _aside(self, name: str) -> Path:
        return self.work / f".old-{name}-{uuid.uuid4().hex}"

    def _sweep(self, name: str) -> None:
        """Remove what killed takers left half-way; a taker that is half-way now fails and tries again."""
        for kind in ("new", "old"):
            for path in self.work.glob(f".{kind}-{name}-*"):
                self._discard(name, path)

    # -- looking

    def _folder(self, name: str, number: int) -> Path:
        return self.work / (f"{name}.{number}" if number else name)

    def _numbers(self, name: str) -> list[int]:
        """The numbers of the existing folders, in order. No folder is renamed while a newer one may appear, so no
        listing misses one."""
        try:
            found = map(_HOLDERS.fullmatch, os.listdir(self.work))
        except (FileNotFoundError, NotADirectoryError):
            return []
        numbers = sorted(int(match[2] or 0) for match in found if match and match[1] == name)
        for number in numbers:  # a link in a folder's place would let a taker move files from where it points to
            solid.require(self._folder(name, number), self.work)
        return numbers

    def _look(self, name: str) -> dict[int, Holder | None]:
        """Number -> the contents of its lock, or None if it was released."""
        return {number: self._read(self._folder(name, number)) for number in self._numbers(name)}

    @staticmethod
    def _read(folder: Path) -> Holder | None:
        try:
            with open(folder / LOCK, "rb") as file:  # opening makes NFS fetch the file's current times
                beat, content = os.fstat(file.fileno()).st_mtime_ns, file.read()
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            said = json.loads(content)
            machine_, token = str(said.get("machine", "")), str(said.get("token", ""))
            return Holder(str(said["host"]), int(said["pid"]), machine_, token, beat)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            return Holder("?", -1, "", "", beat)  # cut off by a crash: its age decides

    def _is_of(self, folder: Path, token: str) -> bool:
        holder = self._read(folder)
        return holder is not None and holder.token == token

    def _beat(self, name: str, stop: threading.Event) -> None:
        while not stop.wait(HEARTBEAT):
            with contextlib.suppress(OSError):
                if self.lost(name):
                    self.robbed.add(name)
                    return
                os.utime(self.held[name] / LOCK)  # without a time: the file server sets it


@functools.cache
def machine() -> str:
    """Names the system in which a process id is unique: this boot of this host, this container."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
