"""The device of a run and the arithmetic that is fastest on it."""

import ctypes
import functools
import math
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from benchmark.errors import UserError
from benchmark.files import proc


def pick(name: str = "auto") -> torch.device:
    """`auto` takes CUDA if available, else the CPU. UserError for a missing device."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"unknown device '{name}'; use auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"the device '{name}' is not supported; use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"the device '{name}' was asked for but no CUDA GPU is usable here; use --device cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"there is no {name}: this machine has {torch.cuda.device_count()} CUDA GPU(s)")
    return device


def describe(device: torch.device) -> str:
    """The name of the hardware, for provenance and for Table S6."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = proc("cpuinfo", "model name") or platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} threads"


def wait(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


THREADS = 4


@functools.cache
def cores() -> int:
    """The cores this process may use: torch's choice at its start (physical cores, or OMP_NUM_THREADS where set)."""
    return torch.get_num_threads()


def most_threads() -> int:
    """The threads that one step on a CPU may use: 4, or the cores where they are fewer.

    Four, because layers of this size split into small pieces, and further cores help a second job more than the first.
    """
    return min(cores(), THREADS)


def threads() -> int:
    """The threads of every job on a CPU: `most_threads`, but 1 on two cores.

    There, two jobs with one thread each do more work than one job with both (1.3 times; docs/SPEED.md). The number does
    not depend on other jobs: sums are split among threads, so results depend on the number of threads (bit for bit;
    checked), and must not depend on how many jobs run at once.
    """
    return most_threads() if cores() > 2 else 1


@contextmanager
def tf32_convolutions(wanted: bool) -> Iterator[None]:
    """Within it, fp32 convolutions on CUDA multiply with 10 bits of mantissa if `wanted`, else as before; also in
    backward passes run within it."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = wanted or before
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


# mallopt's parameters, from malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4


def settle(device: torch.device) -> None:
    """The settings of this process under which jobs run on `device`."""
    torch.set_num_threads(threads())
    if device.type == "cpu":
        tune_allocator()
    else:
        if device.index is not None:
            torch.cuda.set_device(device)  # starts CUDA; the default for what names no device (graph generators)
        torch.backends.cudnn.benchmark = True  # shapes repeat
        torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32


def tune_allocator() -> None:
    """Make glibc keep freed memory for the next step; does nothing with another C library.

    By default, it takes every block of over 32 MB from the system and returns it when it is freed: in each step of a
    training on a CPU the activations are mapped again and zeroed page by page (80,000 page faults a step of 128
    images of 32 px, a tenth of its time). With this, only blocks of over 1 GiB are returned; the process keeps the
    rest. Results are the same bit for bit.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_M_TRIM_THRESHOLD, -1)  # never
    if not mallopt(_M_MMAP_THRESHOLD, 1 << 30):  # refused before glibc 2.35
        mallopt(_M_MMAP_MAX, 0)


@functools.cache
def precision(device: torch.device, wanted: str) -> str:
    """`fp32` or `bf16`; `auto` is bf16 on a GPU that has it, and on a CPU the faster one according to `bf16_gain`."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        with torch.cuda.device(device):
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if bf16_gain() > 1.2 else "fp32"


def arithmetic(device: torch.device, chosen: str) -> dict[str, Any]:
    """The arguments of torch.autocast for a precision, `fp32` or `bf16`."""
    return dict(device_type=device.type, dtype=torch.bfloat16, enabled=chosen == "bf16", cache_enabled=False)


def where(autocast: dict[str, Any]) -> dict[str, str]:
    """Device type and precision of what runs with these arguments of torch.autocast."""
    return {"device": autocast["device_type"], "precision": "bf16" if autocast["enabled"] else "fp32"}


@functools.cache
def bf16_gain() -> float:
    """How many times faster a conv's forward and backward pass is in bf16 autocast than in fp32 on this CPU.

    A CPU with AMX or AVX512-BF16 gains; one without emulates bf16 and is many times slower. Takes about 0.3 s. It
    compares the processor time of one thread in the fastest of several passes: the numbers of a run depend on the
    answer, so it must be the same on a busy machine.
    """

    def seconds(bf16: bool) -> float:
        start = time.thread_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            y = conv(x)
        y.float().sum().backward()
        return time.thread_time() - start

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    plain = fast = math.inf
    with torch.random.fork_rng(devices=[]):
        conv = nn.Conv2d(128, 128, 3, padding=1).to(memory_format=torch.channels_last)
        x = torch.rand(16, 128, 8, 8).to(memory_format=torch.channels_last)
    for turn in range(10):
        plain, fast = min(plain, seconds(False)), min(fast, seconds(True))
        if turn >= 2 and fast > 2 * plain:  # emulated
            break
    torch.set_num_threads(threads)
    return plain / fast
