"""The exceptions that stand for something else than a mistake of this program."""


class UserError(Exception):
    """A bad input, told in one clear sentence: what is wrong, where, and what to do about it.

    The command line prints the sentence and ends with exit status 2; it never shows a traceback for one.
    """


class TooLarge(UserError, MemoryError):
    """What was asked for does not fit into the memory that is free now; it may once fewer jobs run beside it."""


class Diverged(Exception):
    """A training or an attack whose loss is no longer finite; recorded as such and never averaged in."""
