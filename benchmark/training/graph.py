"""Steps as CUDA graphs: run a few times, captured once, replayed from then on. Elsewhere the same function is called.

A step function reads and writes tensors that stay at their addresses (and generators), and nothing else that changes:
what Python decides between steps is filled into such tensors before the step (`Order`, `scalar`, `set_lr`).
"""

import functools
import math
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

import torch
from torch import Tensor

from benchmark.errors import UserError

WARM_UP = 3  # eager steps before a capture; in them cuDNN times its kernels and optimisers make their state


class Captured:
    """Calls step functions, on CUDA by replaying graphs of them. A replayed step does what an eager one would.

    device: where the steps run; generators: all that they draw from, besides torch's own; obstacle: why they must not
    be captured, or "" (it is told once). The memory of the graphs is free again after `forget`.
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

        The first steps of each are real ones, run eagerly. One that cannot be captured runs eagerly for good, and
        `note` is told why, in a sentence.
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
                self.backend.release(self.replays)  # and what the broken capture took
                return self(step, *variant, note=note)
        self.replays[variant]()  # the capture itself computed nothing
        self.used = True

    def _capture(self, step: Callable[..., None], variant: tuple) -> bool:
        """Whether there now is a graph of step(*variant); if not, `obstacle` says why.

        Nothing of the error is kept, as its traceback holds all that the step had allocated.
        """
        assert self.backend is not None
        try:
            self.replays[variant] = self.backend.capture(lambda: step(*variant), self.generators)
        except RuntimeError as error:  # a wait for the device, an optimiser that cannot, no memory left
            # the step's error, not that of ending a broken capture
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

    The pool may be shared although the graphs run in any order, because none reads what another left in it: all state
    was made in warm-up steps, outside.
    """

    def __init__(self, device: torch.device):
        self.device, self.stream, self.pool = device, _side_stream(device), torch.cuda.graph_pool_handle()

    def warm_up(self, step: Callable[[], None]) -> None:
        """step() on the side stream, between what the current one did and will do."""
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="This instance was constructed with capturable=True")
            step()
        current.wait_stream(self.stream)

    def capture(self, step: Callable[[], None], generators: Iterable[torch.Generator]) -> Callable[[], None]:
        """The replay of a graph of step(), which is not executed. RuntimeError where it cannot be captured."""
        index, graph = self.stream.device.index, torch.cuda.CUDAGraph()
        for generator in generators:
            graph.register_generator_state(generator)
        default = torch.cuda.default_generators[index]  # registered by torch itself
        states = [(generator, generator.clone_state()) for generator in (*generators, default)]
        try:
            # the outer context puts the current stream back where ending a failed capture raises as well;
            # thread_local: what another thread does to the device does not break this capture
            with (
                torch.cuda.stream(self.stream),
                torch.cuda.graph(graph, self.pool, self.stream, capture_error_mode="thread_local"),
            ):
                step()
        except RuntimeError:
            for generator, state in states:  # a failed capture leaves them waiting for its end
                generator.graphsafe_set_state(state)
            # so does the allocator up to torch 2.11 (pytorch#180395); later it says that nothing is to be ended
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
    """One for all jobs of this process: cuBLAS keeps its workspaces, 130 MiB, for every stream that was used."""
    return torch.cuda.Stream(device)


def allowed() -> bool:
    """Whether CUDA graphs may be used: unless BENCHMARK_GRAPHS is `off`. UserError for any other value but `on`."""
    value = os.environ.get("BENCHMARK_GRAPHS", "on")
    if value not in ("on", "off"):
        raise UserError(f"the environment variable BENCHMARK_GRAPHS is '{value}'; set it to on or off, or not at all")
    return value == "on"


@contextmanager
def eager() -> Iterator[None]:
    """Within it, whatever is made captures no graphs, then or later."""
    before = os.environ.get("BENCHMARK_GRAPHS")
    os.environ["BENCHMARK_GRAPHS"] = "off"
    try:
        yield
    finally:
        if before is None:
            del os.environ["BENCHMARK_GRAPHS"]
        else:
            os.environ["BENCHMARK_GRAPHS"] = before


class Order:
    """The images of an epoch in their order, and the batch that a step takes, at fixed addresses on the device."""

    def __init__(self, images: int, batch_size: int, device: torch.device):
        self.images = torch.zeros(images, dtype=torch.int64, device=device)
        self.first_batch = torch.arange(batch_size, device=device)
        self.rows = self.first_batch.clone()  # places of the batch in the order, int64 [B]

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
    """A learning rate for an optimiser that a graph may hold: 0-dim, changed by `set_lr`.

    float64 on a CPU, where the optimisers compute with it as with a Python number; float32, which they want, on CUDA.
    """
    return torch.tensor(value, dtype=torch.float64 if device.type == "cpu" else torch.float32, device=device)


def adam(parameters: Iterable[Tensor], lr: float, device: torch.device, **options) -> torch.optim.Adam:
    """A fused Adam that a graph may hold."""
    return torch.optim.Adam(parameters, lr=scalar(lr, device), fused=True, capturable=device.type == "cuda", **options)


def cosine(high: float, low: float, epoch: int, epochs: int) -> float:
    """The rate of a cosine schedule from `high` to `low` in epoch `epoch` (from 0) of `epochs`."""
    return low + (high - low) * (1 + math.cos(math.pi * epoch / epochs)) / 2


def set_lr(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Fill the learning rate of every group in, without a wait for the device."""
    for group in optimizer.param_groups:
        group["lr"].fill_(value)


def steerable(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the learning rate is a tensor, which a graph reads, and not a number, which it would keep for ever."""
    return all(isinstance(group["lr"], Tensor) for group in optimizer.param_groups)
