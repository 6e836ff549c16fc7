"""Figures with matplotlib's own defaults, whatever settings the user has, written atomically."""

import contextlib
import os
from pathlib import Path

from benchmark.errors import UserError
from benchmark.files import whole

# Okabe and Ito's palette, which people with any form of colour blindness can tell apart (jfly.uni-koeln.de/color)
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
GREY = "#767676"  # in place of their yellow, which is too light for a line on white
# Paul Tol's muted colours that are far from those above (sronpersonalpages.nl/~pault), for rows not in the paper
FURTHER = ("#332288", "#882255", "#999933", "#117733", "#44AA99", "#AA4499")
MARKS = "osD^vP*X"
UNDATED = {"svg": {"Date": None}, "png": {"Software": None}}  # the same figure gives the same bytes
ALWAYS: dict = {
    "svg.hashsalt": "benchmark",  # otherwise the ids in a file are random
    "text.parse_math": False,  # a $ in a plug-in's name is a $
}


@contextlib.contextmanager
def drawing(settings: dict | None = None):
    """While the block runs, matplotlib uses its own defaults, ALWAYS and `settings`, not the user's matplotlibrc.

    Yields the class of figures, which are made and written in the block. UserError if matplotlib cannot be loaded.
    """
    os.environ.pop("MPLBACKEND", None)  # none is needed to write files, and an unknown one stops the import
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except Exception as error:  # not installed, or a matplotlibrc that cannot be read
        raise UserError(f"matplotlib cannot be loaded ({error}); mend its matplotlibrc or install it anew") from None
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(ALWAYS | (settings or {}))
        yield Figure


def write_figure(figure, path: Path, **options) -> Path:
    """Write the figure in the format of its name; returns the path. options: for savefig. UserError on failure."""
    kind = path.suffix[1:]
    try:
        with whole(path) as temporary:
            figure.savefig(temporary, format=kind, metadata=UNDATED[kind], **options)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error}; choose another folder") from None
    return path
