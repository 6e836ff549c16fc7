"""How every figure looks, and how it is written: the same data give the same bytes."""

import io
import re
import textwrap

from benchmark.analysis import names
from benchmark.report.drawing import BLACK, BLUE, FURTHER, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION

COLUMN, PAGE = 3.25, 6.875  # inches: a column of a two-column paper, and both with the gap between them
# colour and marker both show the defence, so that a grey print works as well
DEFENSES = {
    "none": (BLACK, "x"),
    "bottleneck": (BLUE, "o"),
    "distcorr": (ORANGE, "s"),
    "dropout": (GREEN, "^"),
    "patrol": (VERMILLION, "D"),
    "ressfl": (SKY, "v"),
    "noise_nopeek": (PURPLE, "P"),
    "noise_arl": (GREY, "h"),
}
SPARE = list(zip(FURTHER, ("<", ">", "p", "*", "X", "d"), strict=True))
TITLE = 24  # characters that stand above a panel
TIP = "tip: "  # an artist's hover text is its gid, after this prefix

RC = {
    "font.size": 7,
    "figure.labelsize": 7,
    "hatch.linewidth": 0.4,
    "axes.titlesize": 7,
    "axes.labelsize": 7,
    "xtick.labelsize": 6,
    "ytick.labelsize": 6,
    "legend.fontsize": 6,
    "axes.linewidth": 0.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.3,
    "grid.color": "#DDDDDD",
    "xtick.major.width": 0.5,
    "ytick.major.width": 0.5,
    "xtick.major.size": 2,
    "ytick.major.size": 2,
    "xtick.minor.size": 0,
    "lines.linewidth": 0.8,
    "lines.markersize": 4,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # TrueType: conferences refuse type 3 fonts
}


def looks(defenses) -> dict[str, tuple[str, str]]:
    """(colour, marker) of each defence; distinct up to six that the paper does not have."""
    others = sorted(set(defenses) - set(DEFENSES))
    return DEFENSES | {name: SPARE[index % len(SPARE)] for index, name in enumerate(others)}


def ordered(defenses) -> list[str]:
    """Defences in the order of the printed tables, others after them."""
    known = ["none", *names.DEFENSES]
    return sorted(set(defenses), key=lambda name: names.rank(name, known))


def panel_title(attacker: str, split: str) -> str:
    """In lines that are no wider than a panel."""
    return textwrap.fill(f"{names.attacker_title(attacker)} attack, {split}", TITLE)


def tell(artist, text: str) -> None:
    """Give a mark a text that is shown when the pointer is over it."""
    artist.set_gid(TIP + text)


def svg(figure) -> str:
    """The figure as SVG without a date; the texts from `tell` are titles in it, which viewers show."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return re.sub(rf'<g id="{TIP}([^"]*)">', r"<g><title>\1</title>", file.getvalue())


def pdf(figure) -> bytes:
    """The figure as PDF without a date."""
    file = io.BytesIO()
    figure.savefig(file, format="pdf", metadata={"CreationDate": None})
    return file.getvalue()
