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
        whole = LABEL + count * SIDE, len(rows) * SIDE
        figure = figure_class(figsize=whole, dpi=144)
        panel = figure.add_axes((0, 0, 1, 1))  # in inches; one for each picture would take most of the time
        panel.axis("off")
        for line, (label, pictures) in enumerate(rows):
            bottom = (len(rows) - line - 1) * SIDE
            figure.text(0.01, (bottom + 0.5 * SIDE) / whole[1], label, va="center")
            for place in range(count):
                left = LABEL + place * SIDE
                corners = (left, left + 0.95 * SIDE, bottom, bottom + 0.95 * SIDE)
                panel.imshow(pictures[place], extent=corners, interpolation="nearest")
        panel.set(xlim=(0, whole[0]), ylim=(0, whole[1]), aspect="auto")
        return write_figure(figure, path)


def _label(item: Rebuilt) -> str:
    """The row, and PSNR (dB) and SSIM over all scored images."""
    name = names.row_label(item.cell.defense, item.cell.cem)
    return f"{name}\nPSNR / SSIM {item.mean}" if item.mean else name
