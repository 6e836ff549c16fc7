"""A store is made of real folders and regular files. Anything else in it (a link, a pipe, a device) is named in one
sentence, and never opened, followed, packed or deleted."""

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from benchmark.errors import Unreadable

_KINDS = {
    stat.S_IFDIR: "a folder where a file belongs",
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
    stat.S_IFREG: "a file where a folder belongs",
}

# submitit leaves links to its own scripts below .work/slurm: nothing here opens them or deletes anything there
_SUBMITTED = re.compile(r"\.submission_file_[0-9a-f]+\.sh")


class Irregular(Unreadable):
    """Something in a store is neither a real folder nor a regular file."""

    def __init__(self, path: Path, mode: int):
        what = _KINDS.get(stat.S_IFMT(mode), "of an unknown kind")
        super().__init__(
            f"{path} is {what}; a store holds real folders and regular files alone: move it out of the store "
            "(nothing was changed there), then try again"
        )


def require_folder(path: Path) -> None:
    """Irregular unless `path` is a real folder, or is not there."""
    mode = _mode(path)
    if mode is not None and not stat.S_ISDIR(mode):
        raise Irregular(path, mode)


def require_file(path: Path) -> None:
    """Irregular unless `path` is a regular file, or is not there. Its parents are to be checked before."""
    mode = _mode(path)
    if mode is not None and not stat.S_ISREG(mode):
        raise Irregular(path, mode)


def folders(folder: Path) -> list[Path]:
    """The folders in a folder, in order, without hidden ones; among them links to folders, which are to be refused.

    Unreadable if it cannot be listed; it may be missing.
    """
    found = [folder / entry.name for entry in _listed(folder) if not entry.name.startswith(".")]
    return [path for path in found if os.path.isdir(path)]


def holds(folder: Path, name: str) -> bool:
    """Whether something of that name, of any kind, is in the folder. Unreadable if it cannot be listed."""
    return any(entry.name == name for entry in _listed(folder))


def require(folder: Path, root: Path) -> Path:
    """`folder`. Irregular unless it, its parents below `root` and everything directly in it are real folders and files.

    None of them has to exist. The root itself may be a link: the user chose it.
    """
    for part in reversed(folder.relative_to(root).parents[:-1]):
        require_folder(root / part)
    require_folder(folder)
    for _ in _entries(folder):
        pass
    return folder


def require_all(root: Path) -> None:
    """Irregular for the first thing in the whole store that is neither folder nor regular file."""
    folders = [root]
    while folders:
        folders += _entries(folders.pop())


def _entries(folder: Path) -> Iterator[Path]:
    """The folders in a folder, which may be missing; Irregular for anything that is neither folder nor regular file."""
    for entry in _listed(folder):
        if _SUBMITTED.fullmatch(entry.name) and folder.parts[-3:-1] == (".work", "slurm"):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield folder / entry.name
        elif not entry.is_file(follow_symlinks=False) and (mode := _mode(folder / entry.name)) is not None:
            raise Irregular(folder / entry.name, mode)


def _listed(folder: Path) -> list[os.DirEntry]:
    try:
        return sorted(os.scandir(folder), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):  # a root that is a file contains nothing
        return []
    except OSError as error:
        raise _unreadable(folder, error) from None


def _unreadable(path: Path, error: OSError) -> Unreadable:
    return Unreadable(f"cannot read {path} ({error}); see to its rights or the disk, then try again")


def _mode(path: Path) -> int | None:
    try:
        return os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):  # parents are checked first
        return None
    except OSError as error:
        raise _unreadable(path, error) from None
