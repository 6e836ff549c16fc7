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


class Unreadable(UserError):
    """A file is there but cannot be read (rights, the disk, a file server): nobody knows whether it is damaged."""


class Diverged(Exception):
    """A training or an attack whose loss is no longer finite; recorded as such and never averaged in."""


class CannotWrite(OSError):
    """A file of ours could not be written: every further job would meet that as well. See `writing`."""


@contextlib.contextmanager
def writing(path: Path):
    """Around our own writing of results: CannotWrite for an OSError, to tell it from one that a plug-in raises.

    FileNotFoundError stays: a job's folder is gone once another runner has taken the job over.
    """
    try:
        yield
    except (CannotWrite, FileNotFoundError):
        raise
    except OSError as error:
        raise CannotWrite(f"cannot write {path}: {named(error)}") from error


@contextlib.contextmanager
def reading(path: Path):
    """Around the reading of a file: any trouble but that there is no such file becomes Unreadable."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        remedy = "nothing was changed there; see to the file's rights or the disk, then try again"
        raise Unreadable(f"cannot read {path} ({named(error)}); {remedy}") from None


@contextlib.contextmanager
def foreign(what: str):
    """Around code of a plug-in that no job runs: whatever it raises, SystemExit too, becomes a UserError naming `what`.

    Code that a job runs has its own boundary, `jobs.attempt`: the job fails, and the others go on.
    """
    try:
        yield
    except (KeyboardInterrupt, UserError):
        raise
    except BaseException as error:
        raise UserError(f"{what}: {named(error)}") from error
