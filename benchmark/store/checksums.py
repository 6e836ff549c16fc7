"""The checksums of a finished job's files: SHA256SUMS in its folder, as `sha256sum -c` reads it.

Weights and other tensors (*.safetensors, except an encoder's) may be left out when results are shared, and files added
later can be measured again; every other listed file must be there. Results from before checksums existed have none.
"""

import hashlib
import re
from pathlib import Path

from benchmark.data.files import digest
from benchmark.errors import Unreadable, UserError, reading
from benchmark.files import whole

NAME = "SHA256SUMS"
ENCODER = "encoder.safetensors"  # small, and needed by every attack: shared like the numbers
RECOGNITION, LPIPS = "recognition.json", "lpips.json"
SUBMITTER = "submitter.json"  # who measured it, from `store export --by`
_TEXT = (".json", ".csv", ".txt")  # files that git may treat as text
ADDED = {RECOGNITION, LPIPS, SUBMITTER}  # by `measure` and `store export` to a finished job: not part of the result
_LINE = re.compile(r"([0-9a-f]{64})  ([\w+-][\w.+-]*)")


class Damaged(UserError):
    """A finished job's files are not what was written."""


def spared(name: str) -> bool:
    """Whether a file may be left out when results are shared: tensors, except an encoder."""
    return name.endswith(".safetensors") and name != ENCODER


def listing(folder: Path, leave_out: tuple[str, ...] = ()) -> str:
    """The checksums of every file in `folder` except those named in `leave_out`, a line for each."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name not in (NAME, *leave_out))
    return "".join(f"{digest(path, 'sha256')}  {path.name}\n" for path in files)


def write(folder: Path, leave_out: tuple[str, ...] = ()) -> None:
    text = listing(folder, leave_out)
    with whole(folder / NAME) as new:  # a folder with half a list would look complete
        new.write_text(text)


def add(folder: Path, name: str) -> None:
    """Add a file, or its new content, to the list if there is one."""
    listed = read(folder)
    if listed is not None:
        listed[name] = digest(folder / name, "sha256")
        with whole(folder / NAME) as new:
            new.write_text("".join(f"{listed[name]}  {name}\n" for name in sorted(listed)))


def read(folder: Path) -> dict[str, str] | None:
    """File name -> sha256 as listed, or None if there is no list. Damaged if it is not a list; Unreadable."""
    try:
        text = content(folder / NAME).decode("ascii")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise Damaged(f"cannot read {folder / NAME} ({error})") from None
    return parse(text, folder / NAME)


def parse(text: str, where) -> dict[str, str]:
    lines = text.splitlines()
    found = [match for match in map(_LINE.fullmatch, lines) if match]
    if not lines or len(found) < len(lines):
        raise Damaged(f"{where} is not a list of checksums")
    return {match[2]: match[1] for match in found}


def verified(path: Path) -> bytes:
    """The file's content. Damaged unless it is what was written; FileNotFoundError; Unreadable."""
    found = content(path)
    _compare(path, hashlib.sha256(found).hexdigest(), read(path.parent))
    return found


def verify(path: Path, listed: dict[str, str] | None = None) -> None:
    """Damaged unless the file (of any size) is what was written; FileNotFoundError; Unreadable.

    listed: its folder's list, if that was read already.
    """
    with reading(path):
        found = digest(path, "sha256")
    _compare(path, found, listed or read(path.parent))


def content(path: Path) -> bytes:
    """The file's content, whatever it is. FileNotFoundError; Unreadable."""
    with reading(path):
        return path.read_bytes()


def problems(folder: Path, tensors: bool = True) -> list[str]:
    """What is wrong with the folder's listed files, a line for each; tensors: also check those that are there.

    Unreadable if that cannot be determined, and for other line endings.
    """
    try:
        listed = read(folder) or {}
    except Damaged as error:
        return [str(error)]
    found = []
    for name in sorted(set(listed) - ADDED):
        path, tensor = folder / name, spared(name)
        if tensor and not tensors:
            continue
        try:
            verify(path, listed)
        except Damaged as error:
            found.append(str(error))
        except FileNotFoundError:
            if not tensor:
                found.append(f"{path} is missing")
    return found


def _compare(path: Path, found: str, listed: dict[str, str] | None) -> None:
    """Damaged unless the file's sha256 is as listed. Unreadable if only its line endings differ from what was written:
    then it is not damaged, and nothing is recomputed."""
    if listed is None or found == (wanted := listed.get(path.name)):
        return
    if path.suffix in _TEXT and hashlib.sha256(content(path).replace(b"\r\n", b"\n")).hexdigest() == wanted:
        raise Unreadable(
            f"{path} has other line endings than it was written with (git's core.autocrlf, or an editor, made CRLF of "
            "LF); check it out as it is: git config core.autocrlf false, delete the folder, git checkout it again"
        )
    raise Damaged(f"{path} was altered since it was written")
