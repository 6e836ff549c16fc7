"""The command line, `python -m benchmark`. Each command is thin: read the options, call one stage, print."""

import signal
import sys

from benchmark.cli import plan, run, tables, further, data, store  # isort: skip  # noqa: F401 (commands, in this order)
from benchmark.cli.app import app
from benchmark.errors import UserError
from benchmark.output import ReaderGone, standing_streams, tell
from benchmark.text import told

LONGEST = 100_000  # characters of an error message, which may name many files


def main() -> None:
    """Entry point: a UserError, or one of the system (an unreadable folder), gives one sentence and exit status 2."""
    with standing_streams():
        try:
            app()
        except (UserError, OSError) as error:
            tell(f"error: {told(error, LONGEST)}")
            sys.exit(2)
        except ReaderGone:
            sys.exit(128 + signal.SIGPIPE)  # like programs that do not handle the signal
