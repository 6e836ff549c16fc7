"""What tests build in a process of its own: a module that such a process imports in no time."""

import os
import time


def expects(spins: str | None):
    assert os.environ.get("GOMP_SPINCOUNT") == spins
    return lambda: None


def naps(seconds: float):
    return lambda: time.sleep(seconds)


def breaks():
    raise RuntimeError("out of\nmemory")


def dies():
    os._exit(3)
