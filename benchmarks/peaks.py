"""The machine's measured peaks and the counted work of a step: the two sides of a roofline."""

import math
import time

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry

from benchmark.training.device import wait

# operators that pick rows: they only touch the picked part of their largest tensor
PICKING = ("index", "gather", "scatter", "embedding_bag", "_embedding_bag")


def matrix_peak(device: torch.device, dtype: torch.dtype, size: int, tries: int = 8) -> float:
    """FLOP/s of the fastest of `tries` products of two square matrices of `size`."""
    a, b = (torch.rand(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / _fastest(lambda: torch.mm(a, b), device, tries)


def bandwidth(device: torch.device, mib: int, tries: int = 8) -> float:
    """Bytes/s of the fastest of `tries` sums a + b -> c of arrays of `mib` MiB each (read, read, written)."""
    a, b = (torch.rand(mib * 2**18, device=device) for _ in range(2))
    c = torch.empty_like(a)
    return 3 * a.nbytes / _fastest(lambda: torch.add(a, b, out=c), device, tries)


def _fastest(call, device: torch.device, tries: int) -> float:
    call()
    best = math.inf
    for _ in range(tries):
        wait(device)
        start = time.perf_counter()
        call()
        wait(device)
        best = min(best, time.perf_counter() - start)
    return best


def count(call) -> tuple[float, float]:
    """(FLOP of the matrix products and convolutions, bytes that the operators read and write) of one eager call.

    On one thread, because operators on other threads are not seen.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with Counter() as counter:
        call()
    torch.set_num_threads(threads)
    return float(counter.flop), float(counter.bytes)


class Counter(TorchDispatchMode):
    """Adds up every operator's FLOP, by torch's formulas, and the bytes of its inputs and outputs.

    Bytes are counted as if there were no caches between operators. torch's FlopCounterMode is not used: its hooks on
    modules break a gradient of a gradient.
    """

    def __init__(self):
        super().__init__()
        self.flop = self.bytes = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:  # or the first operator would import torch's compiler, for seconds
        return False

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        if function._overloadpacket in flop_registry:
            self.flop += flop_registry[function._overloadpacket](*args, **kwargs, out_val=result)
        self.bytes += _traffic(function._schema, args, kwargs, result)
        return result


def _traffic(schema, args: tuple, kwargs: dict, result) -> int:
    """Bytes of one operator's inputs and outputs; 0 for a view."""
    inputs = _tensors((args, kwargs))
    places = {tensor.data_ptr() for tensor in inputs}
    outputs = [tensor for tensor in _tensors(result) if tensor.data_ptr() not in places]
    if schema.is_mutable:
        given = zip(schema.arguments, args, strict=False)
        written = [value for argument, value in given if argument.alias_info and argument.alias_info.is_write]
        outputs += _tensors([*written, kwargs.get("out")])
    elif not outputs:
        return 0
    sizes = [_size(tensor) for tensor in (*inputs, *outputs)]
    if schema.name.split("::")[1].startswith(PICKING):
        whole = max(sizes)
        sizes = [2 * size for size in sizes if size != whole]
    return sum(sizes)


def _tensors(tree) -> list[torch.Tensor]:
    return [value for value in tree_iter(tree) if isinstance(value, torch.Tensor)]


def _size(tensor: torch.Tensor) -> int:
    """Bytes in memory: a broadcast tensor has fewer than its shape says."""
    return min(tensor.nbytes, tensor.untyped_storage().nbytes())
