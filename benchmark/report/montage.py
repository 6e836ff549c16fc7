"""The attackers' reconstructions of the same originals as one picture, with a line for each row of the tables."""

from pathlib import Path

from benchmark.analysis import names
from benchmark.report.drawing import drawing, write_figure
from benchmark.report.pictures import Rebuilt
from benchmark.report.tables import slug

COUNT = 8  # pictures of a line
SIDE = 0.62  # inches of a picture, and of the label's line height
LABEL = 2.3  # inches


def write_montages(groups: list[list[Rebuilt]], out: Path) -> list[Path]:
    """reconstructions-*.png below `out`: a picture for each data set, protocol, split and attacker; the paths.

    groups: of pictures.on_same_originals.
    """
    paths = []
    for group in groups:
        for attacker in dict.fromkeys(item.cell.attacker for item in group):
            lines = [item for item in group if item.cell.attacker == attacker]
            cell = lines[0].cell
            parts = [cell.dataset, cell.protocol, cell.split, attacker, str(cell.strength or "")]
            paths.append(_draw(lines, out / f"reconstructions-{slug(*parts)}.png"))
    return paths


def _draw(lines: list[Rebuilt], path: Path) -> Path:
    count = min(COUNT, lines[0].pairs.shape[1])
    rows = [("Original", lines[0].pairs[0]), *((_label(item), item.pairs[1]) for item in lines)]
    with drawing({"font.size": 8}) as figure_class:
        figure = figure_class(figsize=(LABEL + count * SIDE, len(rows) * SIDE), dpi=144)
        for line, (label, pictures) in enumerate(rows):
            bottom = 1 - (line + 1) / len(rows)
            figure.text(0.01, bottom + 0.5 / len(rows), label, va="center")
            for place in range(count):
                left = (LABEL + place * SIDE) / (LABEL + count * SIDE)
                width, height = SIDE / (LABEL + count * SIDE), 1 / len(rows)
                panel = figure.add_axes((left, bottom, 0.95 * width, 0.95 * height))
                panel.imshow(pictures[place], interpolation="nearest")
                panel.axis("off")
        return write_figure(figure, path)


def _label(item: Rebuilt) -> str:
    """The row, and PSNR (dB) and SSIM over all scored images."""
    name = names.row_label(item.cell.defense, item.cell.cem)
    return f"{name}\nPSNR / SSIM {item.mean}" if item.mean else name
