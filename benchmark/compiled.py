"""Functions compiled by numba. Importing this raises ImportError where numba is missing."""

import numba

# What sums may do to be vectorised. Not "fast": values that are not finite have to show.
_REASSOCIATE = {"reassoc", "contract", "nsz", "arcp"}


def compiled(function):
    """Compiled at its first call, without Python's lock, and kept on disk where that can be written to."""
    try:
        return numba.njit(nogil=True, fastmath=_REASSOCIATE, cache=True)(function)
    except RuntimeError:  # numba finds no folder it may write to
        return numba.njit(nogil=True, fastmath=_REASSOCIATE)(function)
