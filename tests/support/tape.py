"""A CUDA graph without CUDA: the operations of a step recorded on the CPU, and played again on the same memory.

As a graph does, it keeps every Python number and every address as they were while it was recorded, leaves all state as
it found it, and refuses what a capture refuses: reading a value, shapes that depend on values, copies of Python data,
draws from a generator that nobody registered.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "bincount", "unique_dim", "_unique2", "lift_fresh"}


class Tape(TorchDispatchMode):
    """In place of `Captured.backend`; `played` counts the replays, `warmed` the eager steps."""

    def __init__(self):
        super().__init__()
        self.played = self.warmed = self.captures = 0

    def warm_up(self, step):
        self.warmed += 1
        step()

    def release(self, replays):
        replays.clear()

    def capture(self, step, generators):
        self.calls, self.generators = [], (*generators, torch.default_generator)
        self.outside, self.inside = {}, {}  # storages by address: (storage, copy) and those made by the step itself
        states = [generator.get_state() for generator in self.generators]
        try:
            with self:
                step()
        finally:
            for storage, copy in self.outside.values():
                storage.copy_(copy)
            for generator, state in zip(self.generators, states, strict=True):
                generator.set_state(state)
        self.captures += 1
        calls, kept = self.calls, (self.outside, self.inside)  # no address may be given away while the tape lives
        return lambda: self.play(calls, kept)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = function._overloadpacket.__name__
        tensors = [value for value in tree_iter((args, kwargs)) if isinstance(value, torch.Tensor)]
        by_mask = name in ("index", "index_put_") and any(tensor.dtype == torch.bool for tensor in tensors)
        if name in WAITS or by_mask:
            raise RuntimeError(f"{name} waits for the device")
        generator = kwargs.get("generator")
        if generator is not None and generator.initial_seed() not in {g.initial_seed() for g in self.generators}:
            raise RuntimeError(f"{name} draws from a generator that is not registered")
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self.inside and storage.data_ptr() not in self.outside:
                self.outside[storage.data_ptr()] = storage, storage.clone()
        result = function(*args, **kwargs)
        given = {tensor.untyped_storage().data_ptr() for tensor in tensors}
        made = []
        for index, value in enumerate(tree_iter(result)):
            if isinstance(value, torch.Tensor) and value.untyped_storage().data_ptr() not in given:
                self.inside[value.untyped_storage().data_ptr()] = value.untyped_storage()
                made.append((index, value.detach()))
        if made or function._schema.is_mutable or "batch_norm" in name:
            args, kwargs = tree_map(_detached, (args, kwargs))
            self.calls.append((function, args, kwargs, made))
        return result

    @torch.no_grad()
    def play(self, calls, kept):
        self.played += 1
        for function, args, kwargs, made in calls:
            result = list(tree_iter(function(*args, **kwargs)))
            for index, place in made:
                place.copy_(result[index])


def _detached(value):
    return value.detach() if isinstance(value, torch.Tensor) else value
