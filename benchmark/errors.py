"""The exceptions that stand for something else than a mistake of this program."""

import contextlib
from pathlib import Path

from benchmark.text import named


class UserError(Exception):
    """A bad input, told in one clear sentence: what is wrong, where, and what to do about it.

    The command line prints the sentence and ends with exit status 2; it never shows a traceback for one.
    """


class TooLarge(UserError, MemoryError):
    """What was asked for does not fit into the memory that is free now; it may once fewer jobs run beside it."""


class Diverged(Exception):
    """A training or an attack whose loss is no longer finite; recorded as such and never averaged in."""


class CannotWrite(OSError):
    """A file of ours could not be written: every further job would meet that as well. See `writing`."""


@contextlib.contextmanager
def writing(path: Path):
    """Around our own writing of results: CannotWrite for an OSError, to tell it from one that a plug-in raises."""
    try:
        yield
    except CannotWrite:
        raise
    except OSError as error:
        raise CannotWrite(f"cannot write {path}: {named(error)}") from error


@contextlib.contextmanager
def foreign(what: str):
    """Around code of a plug-in that no job runs: whatever it raises, SystemExit too, becomes a UserError naming `what`.

    Code that a job runs has its own boundary, `runner.attempt`: the job fails, and the others go on.
    """
    try:
        yield
    except (KeyboardInterrupt, UserError):
        raise
    except BaseException as error:
        raise UserError(f"{what}: {named(error)}") from error
