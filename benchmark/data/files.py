"""Files from elsewhere, none of them trusted: checksums, downloads, archives, pictures."""

import hashlib
import http.client
import os
import shutil
import stat
import tarfile
import urllib.request
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmark.data import _torchvision
from benchmark.errors import UserError

_BLOCK = 1 << 20
PICTURES = (".jpg", ".jpeg", ".png")
# what such a file may hold, whatever it is called: Pillow would otherwise choose among all its formats by the content,
# and run Ghostscript on one
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")
_MOST_PIXELS = 64 << 20  # of one picture; more is a bomb
_MOST_UNPACKED = 100  # times the archive's size, and at least _LEAST bytes; more is a bomb
_LEAST = 100 << 20


def digest(path: Path, algorithm: str) -> str:
    """Hex digest of a file's content; `algorithm` "sha256" or "md5" (which only detects accidents here)."""
    result = hashlib.new(algorithm, usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            result.update(block)
    return result.hexdigest()


def require_md5(path: Path, allowed: Sequence[str]) -> None:
    """UserError naming the file unless it exists and its md5 is one of `allowed`."""
    if not path.is_file():
        raise UserError(f"the file {path} is missing; give a complete copy of the official data")
    found = digest(path, "md5")
    if found not in allowed:
        raise UserError(
            f"{path} is damaged, incomplete or not the official file (its md5 is {found}, expected "
            f"{' or '.join(allowed)}); delete it and get it again"
        )


def download(url: str, md5: str, folder: Path, by_hand: str) -> Path:
    """Download `url` into `folder` unless an intact copy is there; UserError with the way by hand if it
    fails.
    """
    path = folder / url.rsplit("/", 1)[1]
    if path.is_file() and digest(path, "md5") == md5:
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        utils = _torchvision.load("torchvision.datasets.utils")
        if utils is not None:
            utils.download_url(url, str(folder), path.name, md5)
        else:
            _fetch(url, path)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        raise UserError(f"cannot download {url} ({error}); get the file by hand and run: {by_hand}") from error
    require_md5(path, [md5])
    return path


def _fetch(url: str, path: Path) -> None:
    part = path.with_name(path.name + ".part")
    with urllib.request.urlopen(url, timeout=60) as response, open(part, "wb") as file:
        shutil.copyfileobj(response, file, _BLOCK)
    os.replace(part, path)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a .zip or .tar(.gz) into `folder`: plain files and folders only, none of them outside of it.

    UserError naming the archive (and the member) if it is unreadable or holds anything else.
    """
    try:
        left = most_unpacked(archive)
        members = _zip_members(archive) if zipfile.is_zipfile(archive) else _tar_members(archive)
        for name, plain, open_member in members:
            _require_harmless(archive, name, plain)
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with open_member() as content, open(target, "wb") as file:
                while block := content.read(_BLOCK):
                    left -= len(block)
                    if left < 0:
                        raise UserError(f"the archive {archive} unpacks to far more than its size; do not use it")
                    file.write(block)
    except UserError:
        raise
    except Exception as error:  # a damaged archive can fail in any way
        why = " ".join(str(error).split())[:200]
        raise UserError(f"the archive {archive} cannot be unpacked ({why}); get it again") from error


def most_unpacked(archive: Path) -> int:
    """Bytes that an archive of honest contents will not unpack to more than."""
    return max(_LEAST, _MOST_UNPACKED * archive.stat().st_size)


def _zip_members(archive: Path) -> Iterator[tuple]:
    with zipfile.ZipFile(archive) as content:
        for member in content.infolist():
            if not member.is_dir():
                kind = stat.S_IFMT(member.external_attr >> 16)  # 0: made where files have no kind
                yield member.filename, kind in (0, stat.S_IFREG), lambda member=member: content.open(member)


def _tar_members(archive: Path) -> Iterator[tuple]:
    with tarfile.open(archive) as content:
        for member in content:
            if not member.isdir():
                yield member.name, member.isreg(), lambda member=member: content.extractfile(member)


def _require_harmless(archive: Path, name: str, plain: bool) -> None:
    path = PurePosixPath(name)
    if not plain:
        raise UserError(f"the archive {archive} holds '{name}', which is a link or a device; do not use it")
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
        raise UserError(f"the archive {archive} holds '{name}', which lies outside of it; do not use it")


def pictures_in(folder: Path) -> list[Path]:
    """The JPEG and PNG files directly in `folder`, by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)


def folders_in(folder: Path) -> list[Path]:
    """The folders directly in `folder`, by name, hidden ones left out."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def read_pictures(paths: Sequence[Path], size: int, resize: bool) -> Tensor:
    """Decode to uint8 [N, 3, size, size] in RGB. Other sizes: with `resize` bilinear, else a UserError.

    A file that cannot be decoded is a UserError naming it.
    """
    result = np.empty((len(paths), size, size, 3), dtype=np.uint8)
    with ThreadPoolExecutor() as pool:  # decoding releases the interpreter lock
        for at, pixels in enumerate(pool.map(lambda path: _read_picture(path, size, resize), paths)):
            result[at] = pixels
    return channels_first(result)


def _read_picture(path: Path, size: int, resize: bool) -> np.ndarray:
    try:
        with Image.open(path, formats=_FORMATS) as opened:
            if opened.width * opened.height > _MOST_PIXELS:
                raise UserError(f"the picture {path} has {opened.width} x {opened.height} pixels; replace the file")
            picture = opened.convert("RGB")
    except UserError:
        raise
    except Exception as error:  # a damaged picture can fail in any way
        raise UserError(f"the picture {path} cannot be read ({error}); replace the file") from error
    if resize:
        picture = picture.resize((size, size), Image.Resampling.BILINEAR)
    elif picture.size != (size, size):
        raise UserError(f"the picture {path} is {picture.size[0]} x {picture.size[1]} pixels, not {size} x {size}")
    return np.asarray(picture)


def channels_first(pixels: np.ndarray) -> Tensor:
    """uint8 [N, H, W, 3] -> contiguous tensor [N, 3, H, W]."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
