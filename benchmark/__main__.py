"""`python -m benchmark`."""

import os
import sys

# Python looks for modules first in the current folder. That may be a folder of results from a stranger, with a typer.py
# in it. Unless it is the checkout itself, it is removed, here and in the worker processes. (os and sys are loaded
# before that folder is added.)
here, home = os.path.realpath(""), os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
if here != home and os.path.realpath(sys.path[0]) == here:
    del sys.path[0]
os.environ["PYTHONSAFEPATH"] = "1"  # for the worker processes; read from Python 3.11 on

from benchmark.cli import main  # noqa: E402

main()
