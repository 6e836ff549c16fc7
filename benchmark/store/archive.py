"""Results as one file: the same results give the same bytes; reading treats the file as untrusted."""

import gzip
import io
import json
import re
import shutil
import tarfile
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from benchmark.data import archives
from benchmark.errors import UserError
from benchmark.files import whole
from benchmark.store import checksums, hygiene, solid
from benchmark.store.lock import LOCK, Lost
from benchmark.store.store import METRICS, Store, write_json
from benchmark.text import LONGEST_NAME, plain

_WORD = r"[\w+-][\w.+-]*"
_FOLDER = re.compile(rf"{_WORD}/{_WORD}/{_WORD}")
_FILE = re.compile(rf"{checksums.NAME}|{_WORD}\.(json|csv|txt|png|safetensors)")


def export(store: Store, folders: list[Path], file: Path, tensors: bool) -> None:
    """Write the finished jobs in `folders` into a .tar.gz; tensors: with their weights.

    UserError for a damaged job, for a file name with another ending, and if the file cannot be written.
    """
    if not file.name.endswith((".tar.gz", ".tgz")):
        raise UserError(f"{file} is to be a .tar.gz; give it a name that ends in .tar.gz")
    try:
        with (
            whole(file) as temporary,
            open(temporary, "wb") as raw,
            gzip.GzipFile("", "wb", mtime=0, fileobj=raw) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            for folder in folders:
                _require_whole(folder)
                for name, content in _contents(folder, tensors):
                    member = tarfile.TarInfo(f"{folder.relative_to(store.root).as_posix()}/{name}")
                    member.size, member.mode = len(content), 0o644
                    archive.addfile(member, io.BytesIO(content))
    except OSError as error:
        raise UserError(f"cannot write {file} ({error}); choose another place") from error


def sign(folders: list[Path], by: str) -> None:
    """Record who measured the results in `folders`, if no name is recorded there yet.

    UserError for a damaged job, and for a name that is empty, longer than 80 characters or not one line.
    """
    if not by.strip() or len(by) > LONGEST_NAME or plain(by) != by:
        raise UserError(f"--by {plain(by)[:LONGEST_NAME]!r}: give a name of 1 to {LONGEST_NAME} characters on one line")
    for folder in folders:
        _require_whole(folder)
        if not (folder / checksums.SUBMITTER).exists():
            write_json(folder / checksums.SUBMITTER, {"by": by})
            checksums.add(folder, checksums.SUBMITTER)


def _require_whole(folder: Path) -> None:
    problems = checksums.problems(folder) or list(filter(None, [hygiene.foreign(folder)]))
    if problems:
        raise UserError(f"{'; '.join(problems)}; run the suite again, which mends it, and then export")


def _contents(folder: Path, tensors: bool):
    """(name, content) of a job's exported files; a job without checksums gets them here."""
    if checksums.read(folder) is None:
        strays = [path.name for path in folder.iterdir() if path.name == LOCK or not _FILE.fullmatch(path.name)]
        text = checksums.listing(folder, leave_out=tuple(strays))
    else:
        text = (folder / checksums.NAME).read_text()
    yield checksums.NAME, text.encode()
    for name in sorted(checksums.parse(text, folder)):
        shared = tensors or not checksums.spared(name)
        if _FILE.fullmatch(name) and shared and (folder / name).exists():
            yield name, (folder / name).read_bytes()


@dataclass
class Imported:
    """The outcome for an archive's jobs, by folder below the results."""

    new: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)


def import_(store: Store, file: Path) -> Imported:
    """Import the jobs of an archive that are not in the store; existing jobs are not changed.

    UserError for an archive that holds anything but intact results; nothing is imported then.
    """
    if not file.is_file():
        raise UserError(f"there is no archive {file}; give one that `store export` wrote")
    store.check_writable()
    unpacked = store.work / f".import-{uuid.uuid4().hex}"
    try:
        archives.unpack(file, unpacked)
        folders = _checked(file, unpacked)
        result = Imported()
        for name in folders:
            getattr(result, _bring(store, unpacked / name, store.root / name)).append(name)
        return result
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)


def _checked(file: Path, unpacked: Path) -> list[str]:
    """The jobs' folders in an unpacked archive, after checking everything in it."""
    names: dict[str, set[str]] = {}
    for path in unpacked.rglob("*"):
        if not path.is_dir():
            folder, _, name = path.relative_to(unpacked).as_posix().rpartition("/")
            if not _FOLDER.fullmatch(folder) or not _FILE.fullmatch(name):
                raise UserError(f"the archive {file} holds '{folder}/{name}', which is no file of a result")
            names.setdefault(folder, set()).add(name)
    if not names:
        raise UserError(f"the archive {file} holds no results")
    for folder, found in names.items():
        listed = checksums.read(unpacked / folder)
        unlisted = sorted(found - {checksums.NAME} - set(listed or ()))
        problems = checksums.problems(unpacked / folder) + [f"{name} has no checksum" for name in unlisted]
        problems += filter(None, [hygiene.foreign(unpacked / folder)])
        if METRICS not in found or not isinstance(loaded(unpacked / folder / METRICS), dict):
            problems.append(f"it has no {METRICS}")
        if problems:
            text = "; ".join(problems).replace(f"{unpacked}/", "")
            raise UserError(f"the archive {file} is damaged: {folder}: {text}; get it again, nothing was imported")
    return sorted(names)


def _bring(store: Store, new: Path, final: Path) -> str:
    """Move a result to its place; returns the name of its list: `new`, `same` or `differing`.

    UserError if either folder disappears meanwhile.
    """
    solid.require(final, store.root)
    final.parent.mkdir(parents=True, exist_ok=True)
    try:
        store.publish(new, final)
        return "new"
    except Lost:
        if not new.is_dir() or not final.is_dir():
            raise UserError(f"what was unpacked for {final} was removed meanwhile (store gc?); import again") from None
        return "same" if _agree(loaded(new / METRICS), loaded(final / METRICS)) else "differing"


def _agree(one, other) -> bool:
    """Whether two results agree in everything that both record; another version may record more."""
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return False
    values, others = one.get("values"), other.get("values")
    if not (isinstance(values, dict) and isinstance(others, dict)) or one.get("status") != other.get("status"):
        return one == other
    shared = values.keys() & others.keys()
    return (bool(shared) or values == others) and all(values[name] == others[name] for name in shared)


def loaded(path: Path):
    """The JSON in a file; None if it cannot be read."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
