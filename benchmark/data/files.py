"""Untrusted files: checksums, downloads, pictures (for archives see archives.py)."""

import hashlib
import http.client
import unicodedata
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from benchmark.data import _torchvision
from benchmark.errors import UserError

_BLOCK = 1 << 20
PICTURES = (".jpg", ".jpeg", ".png")
# the formats that such a file may have, whatever its name: otherwise Pillow would choose among all its formats by the
# content, and run Ghostscript for one
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")
_MOST_PIXELS = 64 << 20  # of one picture; larger ones are refused
_MOST_TOLD = 200  # bad pictures in one message


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
    """Download `url` into `folder` unless an intact copy is there; UserError with the way by hand if it fails."""
    path = folder / url.rsplit("/", 1)[1]
    if path.is_file() and digest(path, "md5") == md5:
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        utils = _torchvision.load("torchvision.datasets.utils")
        if utils is None:
            raise RuntimeError("torchvision, which downloads, does not load here")
        utils.download_url(url, str(folder), path.name, md5)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        raise UserError(f"cannot download {url} ({error}); get the file by hand and run: {by_hand}") from error
    require_md5(path, [md5])
    return path


def pictures_in(folder: Path) -> list[Path]:
    """The JPEG and PNG files directly in `folder`, hidden ones left out, in the order of `spelt` names."""
    return [path for path in _visible(folder) if path.suffix.lower() in PICTURES]


def folders_in(folder: Path) -> list[Path]:
    """The folders directly in `folder`, hidden ones left out, in the order of `spelt` names."""
    return [path for path in _visible(folder) if path.is_dir()]


def spelt(path: Path) -> str:
    """The file's or folder's name in Unicode's NFC form, whatever form the disk uses: some systems store an accent as a
    separate character. UserError for a name that is not UTF-8."""
    try:
        path.name.encode()
    except UnicodeEncodeError:
        raise UserError(f"the name of {path} is not UTF-8; rename it") from None
    return unicodedata.normalize("NFC", path.name)


def _visible(folder: Path) -> list[Path]:
    by_name: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if not path.name.startswith("."):  # macOS leaves a ._NAME beside each file on other systems' disks
            name = spelt(path)
            if name in by_name:
                raise UserError(f"{path} and {by_name[name]} are two spellings of one name; keep one of them")
            by_name[name] = path
    return [by_name[name] for name in sorted(by_name)]


def read_pictures(paths: Sequence[Path], size: int, resize: bool) -> Tensor:
    """Decode to uint8 [N, 3, size, size] in RGB. Other sizes: with `resize` as `resized` does, else a UserError.

    A UserError names every file that cannot be decoded or used.
    """
    result = np.empty((len(paths), size, size, 3), dtype=np.uint8)
    bad: list[str] = []

    def read(at: int) -> None:
        try:
            result[at] = _read_picture(paths[at], size, resize)
        except UserError as error:
            bad.append(str(error))

    with ThreadPoolExecutor() as pool:  # decoding releases the interpreter lock
        list(pool.map(read, range(len(paths))))
    if bad:
        raise UserError(told_all(sorted(bad), f"of {len(paths)} pictures"))
    return channels_first(result)


def told_all(problems: Sequence[str], of: str) -> str:
    """All problems in one sentence, with their number, so that they can be fixed together; `of`: of how many."""
    if len(problems) == 1:
        return problems[0]
    shown = problems[:_MOST_TOLD]
    more = f"; and {len(problems) - len(shown)} more" if len(shown) < len(problems) else ""
    return f"{len(problems)} {of} cannot be used: {'; '.join(shown)}{more}"


def _read_picture(path: Path, size: int, resize: bool) -> np.ndarray:
    if path.exists() and not path.is_file():  # a pipe would never end
        raise UserError(f"the picture {path} is no file; remove it")
    try:
        with Image.open(path, formats=_FORMATS) as opened:
            if opened.width * opened.height > _MOST_PIXELS:
                raise UserError(f"the picture {path} has {opened.width} x {opened.height} pixels; replace the file")
            if lost := _lost_in_rgb(path, opened):
                raise UserError(f"the picture {path} {lost}; save it as 8-bit RGB or grey, as you mean it to look")
            picture = opened.convert("RGB")
    except UserError:
        raise
    except Exception as error:  # a damaged picture can fail in any way
        raise UserError(f"the picture {path} cannot be read ({error}); replace the file") from error
    if resize:
        return resized(np.asarray(picture), size)
    if picture.size != (size, size):
        raise UserError(f"the picture {path} is {picture.size[0]} x {picture.size[1]} pixels, not {size} x {size}")
    return np.asarray(picture)


def resized(pixels: np.ndarray, size: int) -> np.ndarray:
    """uint8 [H, W, 3] -> [size, size, 3]: bilinear between pixel centres, without antialiasing (released code)."""
    image = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].double()
    image = interpolate(image, (size, size), mode="bilinear", align_corners=False)
    return image[0].permute(1, 2, 0).round().byte().numpy()


def _lost_in_rgb(path: Path, opened: Image.Image) -> str:
    """Why 8-bit RGB cannot represent a picture, in words that follow "the picture"; "" if it can."""
    if opened.format == "PNG":
        with open(path, "rb") as file:
            header = file.read(25)
        if header[24:] > b"\x08":  # in its first chunk: Pillow's modes for it differ between versions
            return f"has {header[24]} bits a channel"
    if getattr(opened, "is_animated", False) and opened.format != "MPO":  # a camera's, with a preview beside it
        return f"has {opened.n_frames} frames"  # pyright: ignore[reportAttributeAccessIssue]
    if opened.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in opened.info:
        opaque = opened.convert("RGBA").getchannel("A").getextrema() == (255, 255)
        return "" if opaque else "is transparent in places"
    return "" if opened.mode in ("1", "L", "P", "RGB") else f"has colours of the kind {opened.mode}"


def channels_first(pixels: np.ndarray) -> Tensor:
    """uint8 [N, H, W, 3] -> contiguous tensor [N, 3, H, W]."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
