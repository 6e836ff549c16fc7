"""Reconstructions for the page: strips of small pictures, cut from those that each attack stored, and their values."""

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from benchmark.analysis import names
from benchmark.jobs.pictures import EXTREMES
from benchmark.matrix.cells import Cell
from benchmark.report.pictures import Rebuilt, Value, publishable

BUDGET = 9_000_000  # bytes of all encoded pictures of a page; strips have fewer images if they exceed it


@dataclass(frozen=True)
class Strip:
    """Pictures side by side, as the content of a WebP file in base64, and the values below them."""

    data: str
    count: int
    rows: int
    size: int
    values: list[Value]


@dataclass(frozen=True)
class Attacked:
    """The pictures of one attack. mean: PSNR and SSIM over all scored images, as text; cell: filter axes; best,
    worst: pairs of original and reconstruction.
    """

    label: str
    mean: str
    cell: dict[str, str]
    rebuilt: Strip
    best: Strip
    worst: Strip


@dataclass(frozen=True)
class Grid:
    """Attacks on the same originals. cell: the axes that they share."""

    title: str
    cell: dict[str, str]
    originals: Strip
    attacks: list[Attacked]


def grids(cells: list[Cell], groups: list[list[Rebuilt]]) -> tuple[list[Grid], str]:
    """(the grids, a sentence on what is left out) of every finished attack, under the first seed that has pictures.

    groups: of pictures.on_same_originals.
    """
    attacks = [cell for cell in cells if cell.kind == "attack"]
    rebuilt = [item for group in groups for item in group]
    first = {(item.cell.dataset, item.cell.protocol): item.cell.seed for item in rebuilt}
    result = _within_budget(groups)
    return result, _left_out(attacks, first, result, max((item.pairs.shape[1] for item in rebuilt), default=0))


def _within_budget(groups: list[list[Rebuilt]]) -> list[Grid]:
    result = [_grid(group, None) for group in groups]
    total = sum(len(strip.data) for grid in result for strip in _strips(grid))
    if total > BUDGET:
        most = max((grid.originals.count for grid in result), default=0)
        result = [_grid(group, max(2, int(most * BUDGET / total))) for group in groups]
    return result


def _strips(grid: Grid) -> list[Strip]:
    return [grid.originals, *(strip for item in grid.attacks for strip in (item.rebuilt, item.best, item.worst))]


def _left_out(attacks: list[Cell], first: dict, shown: list[Grid], kept: int) -> str:
    parts = []
    hidden = sorted({cell.dataset for cell in attacks if not publishable(cell.dataset)})
    if hidden:
        titles = ", ".join(map(names.dataset_title, hidden))
        parts.append(f"Pictures of {titles} may not be published and are never part of a report.")
    if any(cell.seed != first.get((cell.dataset, cell.protocol), cell.seed) for cell in attacks):
        seeds = ", ".join(sorted({str(seed) for seed in first.values()}))
        parts.append(f"Of several seeds, the pictures are those of seed {seeds}.")
    most = max((grid.originals.count for grid in shown), default=0)
    if most < kept:
        parts.append(f"Of each attack's {kept} pictures {most} are shown, to keep the page small.")
    if not shown:
        parts.append("No finished attack has left a picture.")
    return " ".join(parts)


def _grid(group: list[Rebuilt], most: int | None) -> Grid:
    cell = group[0].cell
    shared = {"dataset": cell.dataset, "protocol": cell.protocol, "split": cell.split}
    title = f"{names.dataset_title(cell.dataset)}, split {cell.split}, protocol {cell.protocol}"
    title += f": {', '.join(dict.fromkeys(item.cell.attacker for item in group))}"
    title += f", {cell.strength}" if cell.strength else ""
    originals = _strip(group[0].pairs[:1], [], most)
    return Grid(title, shared, originals, [_attacked(item, most) for item in group])


def _attacked(item: Rebuilt, most: int | None) -> Attacked:
    cell = item.cell
    own = {name: getattr(cell, name) for name in ("dataset", "protocol", "defense", "cem", "attacker", "split")}
    rebuilt = _strip(item.pairs[1:], item.values["first"], most)
    half, few = item.extremes.shape[1] // 2, None if most is None else max(1, most * EXTREMES // 12)
    best = _strip(item.extremes[:, :half], item.values["best"], few)
    worst = _strip(item.extremes[:, half:], item.values["worst"], few)
    return Attacked(names.row_label(cell.defense, cell.cem), item.mean, own, rebuilt, best, worst)


def _strip(tiles: np.ndarray, values: list[Value], most: int | None) -> Strip:
    """Rows of pictures, each in a transparent frame of a pixel; the first `most` of them."""
    tiles = tiles[:, :most]
    rows, count, size = tiles.shape[:3]
    framed = np.zeros((rows, count, size + 2, size + 2, 4), np.uint8)
    framed[:, :, 1:-1, 1:-1, :3], framed[:, :, 1:-1, 1:-1, 3] = tiles, 255
    picture = framed.transpose(0, 2, 1, 3, 4).reshape(rows * (size + 2), count * (size + 2), 4)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "WEBP", lossless=True, quality=40, method=3)
    return Strip(base64.b64encode(file.getvalue()).decode("ascii"), count, rows, size, values[:most])
