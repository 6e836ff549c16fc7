"""Where a result came from: versions, commit, device, time."""

import functools
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from benchmark.models import convolution
from benchmark.training.device import describe

PACKAGES = ("torch", "torchvision", "numpy", "numba", "pandas", "scikit-image", "safetensors", "pydantic")


def provenance(device: torch.device) -> dict:
    """The record of a job that ends now; JSON values."""
    return {
        "commit": _commit(),
        "device": describe(device),
        "device_type": device.type,
        "convolutions": convolution.described(device),
        "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


@functools.cache
def _commit() -> str:
    """The git commit of the code, with `+changes` where tracked files differ from it; empty outside a checkout."""
    here = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, timeout=20).stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        return commit + ("+changes" if commit and git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


@functools.cache
def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
