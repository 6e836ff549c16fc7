"""Compiled passes over bf16 maps on a CPU (`kernels.py`), as torch operators, visible to its profilers and modes."""

import functools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

# as many rows are taken as one as make about so many numbers: a loop for each of 64 costs more than they do
WIDTH = 1024
BLOCK = 256  # such rows have their sums taken in fp32


@functools.cache
def kernels() -> Any:
    """The compiled passes, or None if numba is missing."""
    try:
        from benchmark.models import kernels
    except ImportError:
        return None
    return kernels


def passable(x: Tensor) -> bool:
    """Whether x [B, C, H, W] is such a map: in bf16 and channels_last, on a CPU."""
    layout = torch.channels_last
    here = x.device.type == "cpu" and x.dtype == torch.bfloat16 and x.numel() and x.is_contiguous(memory_format=layout)
    return bool(here) and kernels() is not None


@functools.cache
def side_threads(threads: int) -> ThreadPoolExecutor:
    """Threads whose operators each use only one thread."""
    return ThreadPoolExecutor(threads, initializer=lambda: torch.set_num_threads(1))


_LIBRARY = torch.library.Library("benchmark", "DEF")


def _operator(function: Callable) -> Callable:
    """Registers the function under its own name; its annotations give the operator's schema."""
    _LIBRARY.define(function.__name__ + torch.library.infer_schema(function, mutates_args=()))
    _LIBRARY.impl(function.__name__, function, "CPU")
    return function


@_operator
def totals(x: Tensor) -> Tensor:
    """Sums [C]."""
    return _sums(kernels().totals, x, BLOCK, *_rows(x))[0]


@_operator
def moments(x: Tensor, near: Tensor) -> tuple[Tensor, Tensor]:
    """Sums [C] of x - near and of its square."""
    return _sums(kernels().moments, x, BLOCK, *_rows(x, near))


@_operator
def scaled(x: Tensor, slope: Tensor, offset: Tensor, floor: float) -> Tensor:
    """max(slope x + offset, floor)."""
    y = torch.empty_like(x)
    rows, *channels = _rows(x, slope, offset)
    _share(len(rows), kernels().scaled, rows, *channels, np.float32(floor), _rows(y)[0])
    return y


@_operator
def slopes(
    gradient: Tensor, x: Tensor, slope: Tensor, offset: Tensor, middle: Tensor, floor: float
) -> tuple[Tensor, Tensor]:
    """Sums [C] of the gradient of slope x + offset, and of it times x - middle."""
    given = _rows(gradient)[0], *_rows(x, slope, offset, middle), np.float32(floor)
    return _sums(kernels().slopes, x, BLOCK, *given)


@_operator
def unscaled(
    gradient: Tensor, x: Tensor, slope: Tensor, offset: Tensor, factor: Tensor, constant: Tensor, floor: float
) -> Tensor:
    """slope times the gradient of slope x + offset, plus factor x + constant."""
    found = torch.empty_like(x)
    rows, *channels = _rows(x, slope, offset, factor, constant)
    given = *channels[:2], np.float32(floor), *channels[2:], _rows(found)[0]
    _share(len(rows), kernels().unscaled, _rows(gradient)[0], rows, *given)
    return found


@_operator
def pooled(x: Tensor, slope: Tensor, offset: Tensor, floor: float) -> Tensor:
    """The largest of each 2x2 of max(slope x + offset, floor)."""
    return _halved(kernels().pooled, x, slope, offset, floor, x.dtype)


@_operator
def choices(x: Tensor, slope: Tensor, offset: Tensor, floor: float) -> Tensor:
    """Which of each 2x2 that is, in uint8."""
    return _halved(kernels().choices, x, slope, offset, floor, torch.uint8)


@_operator
def slopes_pooled(gradient: Tensor, x: Tensor, chosen: Tensor, middle: Tensor) -> tuple[Tensor, Tensor]:
    """As `slopes`, a block for each image."""
    given = _lines(gradient), _squares(x), _lines(chosen), middle.numpy()
    return _sums(kernels().slopes_pooled, x, x.shape[2] // 2, *given)


@_operator
def unscaled_pooled(
    gradient: Tensor, x: Tensor, chosen: Tensor, slope: Tensor, factor: Tensor, constant: Tensor
) -> Tensor:
    """As `unscaled`."""
    found, squares = torch.empty_like(x), _squares(x)
    given = _lines(gradient), squares, _lines(chosen), slope.numpy(), factor.numpy(), constant.numpy(), _squares(found)
    _share(len(squares), kernels().unscaled_pooled, *given)
    return found


OPS = torch.ops.benchmark


def _rows(x: Tensor, *channels: Tensor) -> list[np.ndarray]:
    """The bits of x [B, C, H, W] as rows of channels, and the per-channel values repeated as often as in a row.

    Several rows are joined into one if possible.
    """
    width, rows = x.shape[1], x.numel() // x.shape[1]
    times = math.gcd(rows, 1 << max(0, (WIDTH // width).bit_length() - 1))
    bits = x.permute(0, 2, 3, 1).reshape(-1, times * width)
    return [bits.view(torch.uint16).numpy(), *(item.repeat(times).numpy() for item in channels)]


def _squares(x: Tensor) -> np.ndarray:
    """The bits of x [B, C, H, W] as [B H / 2, 2, W / 2, 2, C]."""
    batch, channels, height, width = x.shape
    bits = x.permute(0, 2, 3, 1).view(batch * height // 2, 2, width // 2, 2, channels)
    return bits.view(torch.uint16).numpy()


def _lines(y: Tensor) -> np.ndarray:
    """The bits of y [B, C, H, W] as [B H, W, C]."""
    lines = y.permute(0, 2, 3, 1).flatten(0, 1)
    return (lines if y.dtype == torch.uint8 else lines.view(torch.uint16)).numpy()


def _halved(kernel: Callable, x: Tensor, slope: Tensor, offset: Tensor, floor: float, dtype: torch.dtype) -> Tensor:
    """What the kernel makes of each 2x2: [B, C, H / 2, W / 2] in channels_last."""
    size = (*x.shape[:2], x.shape[2] // 2, x.shape[3] // 2)
    y, squares = torch.empty(size, dtype=dtype, memory_format=torch.channels_last), _squares(x)
    _share(len(squares), kernel, squares, slope.numpy(), offset.numpy(), np.float32(floor), _lines(y))
    return y


def _sums(kernel: Callable, x: Tensor, block: int, *given) -> tuple[Tensor, Tensor]:
    """The two sums of each channel of x, [C] in float64, that the kernel takes over blocks of so many rows."""
    rows = given[0]  # any map among them
    sums = np.zeros((-(-len(rows) // block), 2, rows.shape[-1]), np.float32)
    _share(len(sums), kernel, *given, block, sums)
    first, second = torch.from_numpy(sums.sum(0, dtype=np.float64).reshape(2, -1, x.shape[1]).sum(1))
    return first, second


def _share(count: int, kernel: Callable, *given) -> None:
    """kernel(*given, first, last) for shares of 0..count, one for each of torch's threads."""
    threads = torch.get_num_threads()
    if threads == 1:
        return kernel(*given, 0, count)
    cuts = [count * part // threads for part in range(threads + 1)]
    list(side_threads(threads).map(lambda *part: kernel(*given, *part), cuts, cuts[1:]))
