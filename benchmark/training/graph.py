"""Steps as CUDA graphs: run a few times, captured once, replayed from then on. Elsewhere the same function is called.

A step function may only read and write generators and tensors that stay at their addresses. Values that Python decides
between steps are filled into such tensors before the step (`Order`, `scalar`, `set_lr`).
"""

import functools
import math
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress

import torch
from torch import Tensor

from benchmark.errors import UserError
from benchmark.training.optimizers import Adam

WARM_UP = 3  # eager steps before a capture, in which cuDNN times its kernels and optimisers create their state


class Captured:
    """Calls step functions, on CUDA by replaying graphs of them. A replayed step does the same as an eager one.

    device: where the steps run; generators: all that they draw from, besides torch's own; obstacle: why they must not
    be captured, or "" (reported once). `forget` frees the memory of the graphs.
    """

    def __init__(self, device: torch.device, generators: Iterable[torch.Generator], obstacle: str = ""):
        self.obstacle = obstacle
        self.backend = _CUDA(device) if device.type == "cuda" and allowed() else None
        self.generators = tuple(generators)
        self.replays: dict[tuple, Callable[[], None]] = {}
        self.seen: Counter = Counter()
        self.used = False  # whether any step was replayed

    def __call__(self, step: Callable[..., None], *variant, note: Callable[[str], None] = lambda text: None) -> None:
        """step(*variant). Each combination of the plain values `variant` has a graph of its own.

        The first steps of each graph run eagerly; they are real steps. A step that cannot be captured always runs
        eagerly, and `note` gets a sentence that says why.
        """
        if self.backend is not None and self.obstacle:
            self.backend = None
            note(f"no CUDA graphs: {self.obstacle}")
        if self.backend is None:
            return step(*variant)
        if variant not in self.replays:
            self.seen[variant] += 1
            if self.seen[variant] <= WARM_UP:
                return self.backend.warm_up(lambda: step(*variant))
            if not self._capture(step, variant):
                self.backend.release(self.replays)  # also memory that the broken capture took
                return self(step, *variant, note=note)
        self.replays[variant]()  # the capture itself computed nothing
        self.used = True

    def _capture(self, step: Callable[..., None], variant: tuple) -> bool:
        """Whether there now is a graph of step(*variant); if not, `obstacle` says why.

        The error itself is not kept, because its traceback holds everything that the step allocated.
        """
        assert self.backend is not None
        try:
            self.replays[variant] = self.backend.capture(lambda: step(*variant), self.generators)
        except RuntimeError as error:  # a wait for the device, an unsuitable optimiser, no memory left
            # the step's own error, not the one from ending a broken capture
            words = " ".join(str(error.__context__ or error).split())
            self.obstacle = f"the step cannot be captured ({words[:200]})"
        return variant in self.replays

    def forget(self) -> None:
        """Drop the graphs: the tensors that they work on are no longer the ones in use, or the task is over."""
        if self.backend is not None and self.replays:
            self.backend.release(self.replays)
        self.seen.clear()


class _CUDA:
    """Warm-up and capture on one side stream, all graphs in one memory pool.

    The graphs can share the pool although they run in any order, because none reads what another left in it: all state
    was created outside, in warm-up steps.
    """

    def __init__(self, device: torch.device):
        self.device, self.stream, self.pool = device, _side_stream(device), torch.cuda.graph_pool_handle()

    def warm_up(self, step: Callable[[], None]) -> None:
        """step() on the side stream, ordered between earlier and later work of the current stream."""
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="This instance was constructed with capturable=True")
            step()
        current.wait_stream(self.stream)

    def capture(self, step: Callable[[], None], generators: Iterable[torch.Generator]) -> Callable[[], None]:
        """The replay of a graph of step(), which is not executed. RuntimeError if it cannot be captured."""
        index, graph = self.stream.device.index, torch.cuda.CUDAGraph()
        for generator in generators:
            graph.register_generator_state(generator)
        default = torch.cuda.default_generators[index]  # registered by torch itself
        states = [(generator, generator.clone_state()) for generator in (*generators, default)]
        try:
            # the outer context restores the current stream even if ending a failed capture raises too;
            # thread_local: another thread's work on the device does not break this capture
            with (
                torch.cuda.stream(self.stream),
                torch.cuda.graph(graph, self.pool, self.stream, capture_error_mode="thread_local"),
            ):
                step()
        except RuntimeError:
            for generator, state in states:  # after a failed capture they still wait for its end
                generator.graphsafe_set_state(state)
            # so does the allocator up to torch 2.11 (pytorch#180395); later versions raise that there is nothing to end
            with suppress(RuntimeError, AttributeError):
                torch._C._cuda_endAllocateToPool(index, self.pool)
            raise
        return graph.replay

    def release(self, replays: dict) -> None:
        """Empty `replays`; the memory of their graphs goes back to the device."""
        torch.cuda.synchronize(self.device)
        replays.clear()
        torch.cuda.empty_cache()


@functools.cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """One stream for all jobs of this process: cuBLAS keeps a workspace of 130 MiB for every stream that was used."""
    return torch.cuda.Stream(device)


def allowed() -> bool:
    """Whether CUDA graphs may be used: unless BENCHMARK_GRAPHS is `off`. UserError for any other value but `on`."""
    value = os.environ.get("BENCHMARK_GRAPHS", "on")
    if value not in ("on", "off"):
        raise UserError(f"the environment variable BENCHMARK_GRAPHS is '{value}'; set it to on or off, or not at all")
    return value == "on"


class Order:
    """The images of an epoch in their order, and the batch that a step takes, at fixed addresses on the device."""

    def __init__(self, images: int, batch_size: int, device: torch.device):
        self.images = torch.zeros(images, dtype=torch.int64, device=device)
        self.first_batch = torch.arange(batch_size, device=device)
        self.rows = self.first_batch.clone()  # positions of the batch in the order, int64 [B]

    def begin(self, images: Tensor) -> None:
        """The order of an epoch: image numbers, int64 [N]."""
        self.images.copy_(images)

    def move(self, index: int) -> None:
        """To the epoch's batch `index`, from 0."""
        torch.add(self.first_batch, index * len(self.rows), out=self.rows)

    def batch(self) -> Tensor:
        """The numbers of the batch's images, int64 [B]."""
        return self.images[self.rows]


def scalar(value: float, device: torch.device) -> Tensor:
    """A learning rate for an optimiser in a graph: 0-dim, changed by `set_lr`.

    float64 on a CPU, where optimisers use it like a Python number; float32 on CUDA, where they require it.
    """
    return torch.tensor(value, dtype=torch.float64 if device.type == "cpu" else torch.float32, device=device)


def adam(parameters: Iterable[Tensor], lr: float, device: torch.device, **options) -> torch.optim.Adam:
    """A fused Adam that works in a graph."""
    return Adam(parameters, lr=scalar(lr, device), fused=True, capturable=device.type == "cuda", **options)


def cosine(high: float, low: float, epoch: int, epochs: int) -> float:
    """The rate of a cosine schedule from `high` to `low` in epoch `epoch` (from 0) of `epochs`."""
    return low + (high - low) * (1 + math.cos(math.pi * epoch / epochs)) / 2


def set_lr(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Set the learning rate of every group, without a wait for the device."""
    for group in optimizer.param_groups:
        group["lr"].fill_(value)


def steerable(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the learning rate is a tensor, which a graph reads; a number would be fixed in the graph."""
    return all(isinstance(group["lr"], Tensor) for group in optimizer.param_groups)
