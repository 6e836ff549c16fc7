"""Unpacks untrusted archives: what an honest archive would not contain is refused before it costs anything.

Everything that can grow has a limit: the unpacked bytes, the bytes of one header, the number of members, and the depth
of folders.
"""

import contextlib
import errno
import gzip
import io
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from benchmark.errors import UserError
from benchmark.text import told

_BLOCK = 1 << 16  # bytes read at a time; a header or name that needs more is refused
_MOST_UNPACKED, _LEAST_UNPACKED = 100, 100 << 20  # times the archive's size in bytes, and at least so many
_BYTES_A_MEMBER, _LEAST_MEMBERS, _MOST_MEMBERS = 64, 10_000, 250_000  # the largest official archive has 120,609
_DEEPEST = 16  # folders
_PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # the others may take any amount of memory
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG)


class _Refused(Exception):
    """No honest archive of its size would hold this: it is refused."""


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a .zip or .tar(.gz) into `folder`: plain files and folders only, none of them outside of it.

    UserError naming the archive (and the member) if it is unreadable or holds anything else.
    """
    with _refusing(archive, folder):
        left = _most_bytes(archive)
        for name, opened in _members(archive):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with opened() as content, open(target, "wb") as file:
                while block := content.read(_BLOCK):
                    left -= len(block)
                    if left < 0:
                        raise _Refused("unpacks to far more than its size")
                    file.write(block)


def names(archive: Path) -> list[str]:
    """The names of the files in a .zip or .tar(.gz); UserError as for `unpack`."""
    with _refusing(archive, archive.parent):
        return [name for name, _ in _members(archive)]


@contextlib.contextmanager
def _refusing(archive: Path, folder: Path):
    """Wraps reading an archive for `folder`: UserError for whatever goes wrong."""
    try:
        yield
    except _Refused as error:
        raise UserError(f"the archive {archive} {error}; do not use it") from None
    except Exception as error:  # a damaged archive can fail in any way
        if isinstance(error, OSError) and error.errno in _DISK:
            raise UserError(f"cannot unpack {archive} into {folder} ({error}); free space or choose another") from None
        raise UserError(f"the archive {archive} cannot be unpacked ({told(error, 200)}); get it again") from error


def _members(archive: Path) -> Iterator[tuple]:
    """(name, a function that opens it) of each file."""
    left = _most_members(archive)
    listed = _zip_members if zipfile.is_zipfile(archive) else _tar_members
    for name, plain, opened in listed(archive):
        left -= 1
        if left < 0:
            raise _Refused("holds far more files than one of its size should")
        if opened is not None:  # not a folder
            _require_harmless(name, plain)
            yield name, opened


def require_modest_zip(file: Path) -> None:
    """ValueError for a .zip (an .npz is one) that unpacks to far more than its size, or is packed in an odd way."""
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
    if sum(member.file_size for member in members) > _most_bytes(file) or len(members) > _most_members(file):
        raise ValueError("it unpacks to far more than its size")
    if any(member.compress_type not in _PACKED for member in members):
        raise ValueError("it is packed in a way that is not read here")


def _most_bytes(archive: Path) -> int:
    """The most bytes that an honest archive unpacks to."""
    return max(_LEAST_UNPACKED, _MOST_UNPACKED * archive.stat().st_size)


def _most_members(archive: Path) -> int:
    return min(_MOST_MEMBERS, max(_LEAST_MEMBERS, archive.stat().st_size // _BYTES_A_MEMBER))


def _zip_members(archive: Path) -> Iterator[tuple]:
    """(name, whether it is a plain file, a function that opens it, or None for a folder) of each member."""
    with zipfile.ZipFile(archive) as content:
        for member in content.infolist():
            if member.is_dir():
                yield member.filename, True, None
                continue
            if member.compress_type not in _PACKED:
                raise ValueError(f"'{member.filename[:80]}' is packed in a way that is not read here")
            kind = stat.S_IFMT(member.external_attr >> 16)  # 0: made on a system without file kinds
            yield member.filename, kind in (0, stat.S_IFREG), lambda member=member: content.open(member)


def _tar_members(archive: Path) -> Iterator[tuple]:
    """As `_zip_members`."""
    with open(archive, "rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        stream = _Bounded(gzip.GzipFile(fileobj=raw) if packed else raw, _most_bytes(archive))
        with tarfile.open(fileobj=stream, mode="r:") as content:
            while (member := content.next()) is not None:
                # otherwise it keeps every header until the end
                content.members.clear()  # pyright: ignore[reportAttributeAccessIssue]
                plain = member.isreg() and not member.issparse() and member.size >= 0
                yield member.name, plain, None if member.isdir() else lambda member=member: content.extractfile(member)


class _Bounded(io.RawIOBase):
    """The stream that tarfile reads from. tarfile takes each header and its names in one read of the size that the
    header states: no read, and no position in the stream, may be larger than an honest archive needs."""

    def __init__(self, file, most: int):
        self.file, self.most = file, most

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _BLOCK:
            raise _Refused(f"has a header of {size} bytes")
        found = self.file.read(size)
        self._require(self.file.tell())
        return found

    def seek(self, position: int, whence: int = io.SEEK_SET) -> int:
        self._require(position)
        return self.file.seek(position, whence)

    def tell(self) -> int:
        return self.file.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def _require(self, position: int) -> None:
        if position > self.most:
            raise _Refused("unpacks to far more than its size")


def _require_harmless(name: str, plain: bool) -> None:
    path = PurePosixPath(name)
    if not plain:
        raise _Refused(f"holds '{name[:200]}', which is a link or a device")
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
        raise _Refused(f"holds '{name[:200]}', which lies outside of it")
    if len(path.parts) > _DEEPEST:
        raise _Refused(f"holds '{name[:200]}', which lies too deep")
