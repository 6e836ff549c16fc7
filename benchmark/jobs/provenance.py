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
    """The git commit of the code, with `+changes` where tracked files differ from it; empty unless this very file is
    tracked: an installed copy may lie inside a checkout of something else. Then it is what `told_commit` says."""
    here = Path(__file__).resolve()
    # GIT_DIR and its like speak of the user's own repository; a stranger's may name a program to be run as its monitor
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
    """The commit that BENCHMARK_COMMIT says: of a copy of the code that was brought without its repository. "" where it
    is not set; UserError where it is not 40 hexadecimal digits."""
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
