"""Networks with the weights of the oracles (tests/oracles): computed, the same on every machine."""

import functools
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

ORACLES = Path(__file__).parents[1] / "oracles"


def unit(k: int, n: int) -> np.ndarray:
    """n numbers in [0, 1), float64: a hash of tensor number k and the place."""
    mask = np.uint64(0xFFFFFFFF)
    h = np.arange(n, dtype=np.uint64) * np.uint64(2654435761)
    h = (h + np.uint64(k) * np.uint64(2654445111) + np.uint64(12345)) & mask
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        h ^= h >> np.uint64(shift)
        h = (h * np.uint64(factor)) & mask
    h ^= h >> np.uint64(16)
    return h / 2.0**32


@functools.cache
def table() -> pd.DataFrame:
    return pd.read_csv(ORACLES / "params.csv")


def names(*networks: str) -> list[str]:
    """The tensors of the networks, in the order of `parameters()`."""
    return [name for network in networks for name in table().query("network == @network")["tensor"]]


@torch.no_grad()
def fill(module: nn.Module, *networks: str) -> None:
    """Give the module the weights of `networks` (rows of params.csv), one network after the other."""
    rows = [row for network in networks for row in table().query("network == @network").to_dict("records")]
    for parameter, row in zip(module.parameters(), rows, strict=True):
        shape = tuple(int(size) for size in row["shape"].split("x"))
        assert tuple(parameter.shape) == shape, (row["tensor"], parameter.shape)
        parameter.copy_(_values(row, parameter.numel()).view(shape))


def _values(row: dict, count: int) -> Tensor:
    if row["kind"] == "constant":
        return torch.full((count,), row["scale"])
    values = (row["scale"] * (2 * unit(row["k"], count) - 1)).astype(np.float32)
    assert np.isclose(values.astype(np.float64).sum(), row["sum"], rtol=1e-9) and values[0] == np.float32(row["first"])
    return torch.from_numpy(values)


def oracle(name: str) -> dict[str, np.ndarray]:
    """The arrays of tests/oracles/NAME.npz."""
    with np.load(ORACLES / f"{name}.npz") as content:
        return {key: content[key] for key in content.files}


def relative(ours, theirs) -> float:
    """||ours - theirs|| / ||theirs|| in float64."""
    ours, theirs = (np.asarray(torch.as_tensor(item).detach(), dtype=np.float64) for item in (ours, theirs))
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
