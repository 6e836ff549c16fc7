"""Functions compiled by numba. Importing this raises ImportError if numba is missing."""

import numba

# Reorderings of sums that vectorisation may make. Not "fast": non-finite values must stay visible.
_REASSOCIATE = {"reassoc", "contract", "nsz", "arcp"}


def compiled(function):
    """Compiled at its first call, without Python's lock, and cached on disk if that is writable."""
    try:
        return numba.njit(nogil=True, fastmath=_REASSOCIATE, cache=True)(function)
    except RuntimeError:  # numba finds no folder it may write to
        return numba.njit(nogil=True, fastmath=_REASSOCIATE)(function)
