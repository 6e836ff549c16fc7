"""Reads the pictures that attacks stored, for the page and the montage."""

import hashlib
import json
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from benchmark.analysis import names
from benchmark.analysis.history import damaged
from benchmark.data import DATASETS
from benchmark.errors import reading
from benchmark.jobs.pictures import EXTREME_PAIRS, PAIRS, VALUES
from benchmark.matrix.cells import Cell
from benchmark.store.checksums import content
from benchmark.store.store import Store

LARGEST = 4096  # pixels: a wider or higher picture is not one of ours


@dataclass(frozen=True)
class Value:
    """psnr_db and ssim of one image (None where there is none); index among those scored."""

    psnr_db: float | None
    ssim: float | None
    index: int


@dataclass(frozen=True)
class Rebuilt:
    """The pictures of one attack. mean: PSNR and SSIM over all scored images, as text; values: for `first`, `best`
    and `worst`, those of each picture."""

    cell: Cell
    pairs: np.ndarray  # uint8 [2, images, size, size, 3]
    extremes: np.ndarray  # the best, then as many of the worst
    values: dict[str, list[Value]]
    mean: str


def on_same_originals(cells: list[Cell], store: Store, order: list[str]) -> list[list[Rebuilt]]:
    """The pictures of every finished attack, for the first seed that has any; grouped by originals.

    order: the order of the defences. UserError for a file that is not such a picture.
    """
    drawn = [cell for cell in cells if cell.kind == "attack" and publishable(cell.dataset) and store.done(cell.job)]
    drawn = [cell for cell in drawn if (store.path(cell.job) / PAIRS).is_file()]
    first = {(cell.dataset, cell.protocol): cell.seed for cell in reversed(drawn)}
    chosen = [cell for cell in drawn if cell.seed == first[cell.dataset, cell.protocol]]
    chosen.sort(key=lambda cell: (order.index(cell.defense), cell.attacker, names.form_rank(cell.cem)))
    groups: dict[tuple, list[Rebuilt]] = {}
    for item in (_load(cell, store) for cell in chosen):
        originals = hashlib.sha256(item.pairs[0].tobytes()).hexdigest()
        key = (item.cell.suite, item.cell.protocol, item.cell.dataset, item.cell.split, originals)
        groups.setdefault(key, []).append(item)
    return list(groups.values())


def publishable(dataset: str) -> bool:
    return dataset in DATASETS.names() and DATASETS.get(dataset).publishable


def _load(cell: Cell, store: Store) -> Rebuilt:
    folder = store.path(cell.job)
    pairs, extremes, values = _tiles(folder / PAIRS), _tiles(folder / EXTREME_PAIRS), _values(folder / VALUES)
    return Rebuilt(cell, pairs, extremes, values, _mean(store.metrics(cell.job)["values"]))


def _mean(values: dict) -> str:
    psnr, ssim = values.get("psnr_db_per_image"), values.get("ssim")
    return "" if psnr is None or ssim is None else f"{psnr:.1f} / {ssim:.2f}"


def _tiles(path) -> np.ndarray:
    """The pairs of a picture that pictures.pairs made, without their frames: uint8 [2, images, size, size, 3]."""
    try:
        with reading(path), Image.open(path, formats=["PNG"]) as image:
            width, height = image.size
            if max(width, height) > LARGEST:
                raise ValueError("it is too large")
            picture = np.asarray(image.convert("RGB"))
        tile = height // 2
        if height % 2 or tile < 3 or width % tile:
            raise ValueError("it is not two rows of square pictures")
    except Exception as error:  # a damaged picture can fail in any way
        raise damaged(path, error) from None
    return picture.reshape(2, tile, width // tile, tile, 3).transpose(0, 2, 1, 3, 4)[:, :, 1:-1, 1:-1]


def _values(path) -> dict[str, list[Value]]:
    """The values that pictures.save_pictures wrote for each image."""
    try:
        stored = json.loads(content(path))
        return {
            name: [Value(_number(line["psnr_db"]), _number(line["ssim"]), int(line["index"])) for line in stored[name]]
            for name in ("first", "best", "worst")
        }
    except (FileNotFoundError, ValueError, KeyError, TypeError, ArithmeticError, RecursionError) as error:
        raise damaged(path, repr(error)) from None


def _number(item) -> float | None:
    """A finite number, or None. ArithmeticError for one too large for a float."""
    return float(item) if item is not None and math.isfinite(item) else None
