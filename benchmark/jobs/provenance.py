"""Where a result came from: version, commit, packages, device, time."""

import functools
import os
import platform
import re
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import benchmark
from benchmark.errors import UserError
from benchmark.models import convolution, layers
from benchmark.training.device import describe

PACKAGES = ("torch", "torchvision", "numpy", "numba", "pandas", "scikit-image", "safetensors", "pydantic")


def provenance(device: torch.device) -> dict:
    """The record of a job that ends now; JSON values."""
    return {
        "version": benchmark.__version__,
        "commit": _commit(),
        "device": describe(device),
        "device_type": device.type,
        "convolutions": convolution.described(device),
        "normalisation": layers.described(device),
        "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


@functools.cache
def _commit() -> str:
    """The git commit of the code, with `+changes` if tracked files differ from it. If this file itself is not tracked
    (an installed copy may lie inside another project's checkout), the result of `told_commit`."""
    here = Path(__file__).resolve()
    # GIT_DIR and similar variables refer to the user's own repository; a stranger's repository may name a program to
    # run as its monitor
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*words: str) -> str:
        command = ["git", "-c", "core.fsmonitor=false", *words]
        options = {"cwd": here.parent, "env": environment, "timeout": 20, "check": True}
        return subprocess.run(command, capture_output=True, text=True, errors="replace", **options).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "--", here.name)
        return git("rev-parse", "HEAD") + (
            "+changes" if git("status", "--porcelain", "--untracked-files=no", "--", "..") else ""
        )
    except (OSError, subprocess.SubprocessError):
        return told_commit()


def told_commit() -> str:
    """The commit in BENCHMARK_COMMIT, for a copy of the code without its repository. "" if it is not set; UserError if
    it is not 40 hexadecimal digits."""
    value = os.environ.get("BENCHMARK_COMMIT", "")
    if value and not re.fullmatch("[0-9a-f]{40}", value):
        raise UserError(
            f"the environment variable BENCHMARK_COMMIT is {value!r}; set it to the 40 hexadecimal digits that "
            "`git rev-parse HEAD` prints, or not at all"
        )
    return value


@functools.cache
def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
