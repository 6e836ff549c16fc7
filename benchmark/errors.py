"""The exceptions for anything other than a bug in this program."""

import contextlib
from pathlib import Path

from benchmark.text import named


class UserError(Exception):
    """A bad input, explained in one clear sentence: what is wrong, where, and what to do about it.

    The command line prints the sentence and ends with exit status 2; it never shows a traceback for one.
    """


class TooLarge(UserError, MemoryError):
    """The request does not fit into the free memory now; it may fit when fewer jobs run."""


class Unreadable(UserError):
    """A file exists but cannot be read (rights, the disk, a file server), so it may or may not be damaged."""


class Diverged(Exception):
    """A training or an attack whose loss is no longer finite; recorded as such and never averaged in."""


class CannotWrite(OSError):
    """A file of ours could not be written: every further job would fail in the same way. See `writing`."""


@contextlib.contextmanager
def writing(path: Path):
    """Wraps our own writing of results: an OSError becomes CannotWrite, to distinguish it from one of a plug-in.

    FileNotFoundError is unchanged: a job's folder is gone once another runner has taken the job over.
    """
    try:
        yield
    except (CannotWrite, FileNotFoundError):
        raise
    except OSError as error:
        raise CannotWrite(f"cannot write {path}: {named(error)}") from error


@contextlib.contextmanager
def reading(path: Path):
    """Wraps the reading of a file: any error except a missing file becomes Unreadable."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        remedy = "nothing was changed there; see to the file's rights or the disk, then try again"
        raise Unreadable(f"cannot read {path} ({named(error)}); {remedy}") from None


@contextlib.contextmanager
def foreign(what: str):
    """Wraps plug-in code outside of jobs: whatever it raises, even SystemExit, becomes a UserError naming `what`.

    Code inside a job is handled by `jobs.attempt`: the job fails, and the others go on.
    """
    try:
        yield
    except (KeyboardInterrupt, UserError):
        raise
    except BaseException as error:
        raise UserError(f"{what}: {named(error)}") from error
