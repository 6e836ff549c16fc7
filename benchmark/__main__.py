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

import signal  # noqa: E402

# Ctrl-C while everything is loaded ends the process at once and silently; where it is ignored, it stays so
loud = signal.getsignal(signal.SIGINT) is signal.default_int_handler
if loud:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
from benchmark.cli import main  # noqa: E402

if loud:
    signal.signal(signal.SIGINT, signal.default_int_handler)
main()
