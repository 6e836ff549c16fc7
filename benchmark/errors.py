"""The one exception that stands for a mistake of the user's, or of their files, rather than of this program."""


class UserError(Exception):
    """A bad input, told in one clear sentence: what is wrong, where, and what to do about it.

    The command line prints the sentence and ends with exit status 2; it never shows a traceback for one.
    """


class Diverged(Exception):
    """A training or an attack whose loss is no longer finite; recorded as such and never averaged in."""
