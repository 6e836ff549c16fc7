"""Compiled passes over bf16 maps on a CPU (`kernels.py`), as torch operators, visible to its profilers and modes."""

import functools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

WIDTH = (
    1024  # as many rows are taken as one as make about so many numbers: a loop for each of 64 costs more than they do
)
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


def _totals_of(x: Tensor) -> Tensor:
    """Sums [C]."""
    (rows,) = _rows(x)
    sums = _sums(rows)
    _share(len(sums), kernels().totals, rows, BLOCK, sums)
    return _total(sums, x.shape[1])[0]


def _moments_of(x: Tensor, near: Tensor) -> tuple[Tensor, Tensor]:
    """Sums [C] of x - near and of its square."""
    rows, middle = _rows(x, near)
    sums = _sums(rows)
    _share(len(sums), kernels().moments, rows, middle, BLOCK, sums)
    return _total(sums, x.shape[1])


def _scaled_of(x: Tensor, slope: Tensor, offset: Tensor, floor: float) -> Tensor:
    """max(slope x + offset, floor)."""
    y = torch.empty_like(x)
    rows, *channels = _rows(x, slope, offset)
    _share(len(rows), kernels().scaled, rows, *channels, np.float32(floor), _rows(y)[0])
    return y


def _slopes_of(gradient: Tensor, x: Tensor, slope: Tensor, offset: Tensor, middle: Tensor, floor: float):
    """Sums [C] of the gradient of slope x + offset, and of it times x - middle."""
    rows, *channels = _rows(x, slope, offset, middle)
    sums = _sums(rows)
    given = *channels, np.float32(floor), BLOCK, sums
    _share(len(sums), kernels().slopes, _rows(gradient)[0], rows, *given)
    return _total(sums, x.shape[1])


def _unscaled_of(gradient, x, slope, offset, factor, constant, floor: float) -> Tensor:
    """slope times the gradient of slope x + offset, plus factor x + constant."""
    found = torch.empty_like(x)
    rows, *channels = _rows(x, slope, offset, factor, constant)
    given = *channels[:2], np.float32(floor), *channels[2:], _rows(found)[0]
    _share(len(rows), kernels().unscaled, _rows(gradient)[0], rows, *given)
    return found


def _pooled_of(x: Tensor, slope: Tensor, offset: Tensor, floor: float) -> Tensor:
    """The largest of each 2x2 of max(slope x + offset, floor)."""
    y, squares = _halved(x, x.dtype), _squares(x)
    _share(len(squares), kernels().pooled, squares, slope.numpy(), offset.numpy(), np.float32(floor), _lines(y))
    return y


def _choices_of(x: Tensor, slope: Tensor, offset: Tensor, floor: float) -> Tensor:
    """Which of each 2x2 that is, in uint8."""
    chosen, squares = _halved(x, torch.uint8), _squares(x)
    _share(len(squares), kernels().choices, squares, slope.numpy(), offset.numpy(), np.float32(floor), _lines(chosen))
    return chosen


def _slopes_pooled_of(gradient: Tensor, x: Tensor, chosen: Tensor, middle: Tensor) -> tuple[Tensor, Tensor]:
    squares, block = _squares(x), x.shape[2] // 2  # an image's
    sums = np.zeros((len(x), 2, x.shape[1]), np.float32)
    given = _lines(gradient), squares, _lines(chosen), middle.numpy(), block, sums
    _share(len(sums), kernels().slopes_pooled, *given)
    return _total(sums, x.shape[1])


def _unscaled_pooled_of(gradient, x, chosen, slope, factor, constant) -> Tensor:
    found, squares = torch.empty_like(x), _squares(x)
    channels = slope.numpy(), factor.numpy(), constant.numpy()
    given = _lines(gradient), squares, _lines(chosen), *channels, _squares(found)
    _share(len(squares), kernels().unscaled_pooled, *given)
    return found


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


def _halved(x: Tensor, dtype: torch.dtype) -> Tensor:
    size = (*x.shape[:2], x.shape[2] // 2, x.shape[3] // 2)
    return torch.empty(size, dtype=dtype, memory_format=torch.channels_last)


def _sums(rows: np.ndarray) -> np.ndarray:
    return np.zeros((-(-len(rows) // BLOCK), 2, rows.shape[1]), np.float32)


def _total(sums: np.ndarray, channels: int) -> tuple[Tensor, Tensor]:
    """The two sums of each channel, [C] in float64, from those [blocks, 2, times C]."""
    first, second = torch.from_numpy(sums.sum(0, dtype=np.float64).reshape(2, -1, channels).sum(1))
    return first, second


def _share(count: int, kernel: Callable, *given) -> None:
    """kernel(*given, first, last) for shares of 0..count, one for each of torch's threads."""
    threads = torch.get_num_threads()
    if threads == 1:
        return kernel(*given, 0, count)
    cuts = [count * part // threads for part in range(threads + 1)]
    list(side_threads(threads).map(lambda *part: kernel(*given, *part), cuts, cuts[1:]))


_LIBRARY = torch.library.Library("benchmark", "DEF")
_SHAPE = "Tensor slope, Tensor offset"
for _name, _function, _given, _found in (
    ("moments", _moments_of, "Tensor x, Tensor near", "(Tensor, Tensor)"),
    ("totals", _totals_of, "Tensor x", "Tensor"),
    ("scaled", _scaled_of, f"Tensor x, {_SHAPE}, float floor", "Tensor"),
    ("pooled", _pooled_of, f"Tensor x, {_SHAPE}, float floor", "Tensor"),
    ("choices", _choices_of, f"Tensor x, {_SHAPE}, float floor", "Tensor"),
    ("slopes", _slopes_of, f"Tensor gradient, Tensor x, {_SHAPE}, Tensor middle, float floor", "(Tensor, Tensor)"),
    ("slopes_pooled", _slopes_pooled_of, "Tensor gradient, Tensor x, Tensor chosen, Tensor middle", "(Tensor, Tensor)"),
    (
        *("unscaled", _unscaled_of),
        f"Tensor gradient, Tensor x, {_SHAPE}, Tensor factor, Tensor constant, float floor",
        "Tensor",
    ),
    (
        *("unscaled_pooled", _unscaled_pooled_of),
        "Tensor gradient, Tensor x, Tensor chosen, Tensor slope, Tensor factor, Tensor constant",
        "Tensor",
    ),
):
    _LIBRARY.define(f"{_name}({_given}) -> {_found}")
    _LIBRARY.impl(_name, _function, "CPU")
OPS = torch.ops.benchmark
