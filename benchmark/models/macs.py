"""Sizes of networks as Table S6 and supplement S3 state them: parameters and multiply-accumulates (MAC)."""

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Network = TypeVar("Network", bound=nn.Module)
WEIGHTED = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
NORMS = (nn.BatchNorm2d, nn.InstanceNorm2d)
ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.Sigmoid)
POOLS = (nn.MaxPool2d, nn.AdaptiveAvgPool2d)
LARGE = 100_000_000  # parameters


@dataclass(frozen=True)
class Scale:
    """What the cost of a job depends on, besides the parameters of its defence or attacker.

    feature: (C, h, w); encoder: its multiply-accumulates for an image; fitted, scored: numbers of images; epochs: of
    the training.
    """

    feature: tuple[int, int, int]
    image_size: int
    encoder: int
    fitted: int
    scored: int
    epochs: int


@functools.cache
def forward(make: Callable[..., nn.Module], shape: tuple[int, int, int], *arguments: object) -> int:
    """Multiply-accumulates of make(shape, *arguments) for one input of that shape."""
    return multiplications(blank(lambda: make(shape, *arguments)), shape)


def blank(make: Callable[[], Network]) -> Network:
    """make() with arbitrary weights, which takes no time: for counting.

    Large networks stay on the meta device, where they take no memory. Others move to the CPU: with the first operator
    on the meta device torch imports its compiler, which takes seconds.
    """
    with torch.device("meta"), _Unfilled():
        network = make()
    large = sum(parameter.numel() for parameter in network.parameters()) > LARGE
    # not to_empty(): it asks the meta device for the strides, by an operator
    return network if large else network._apply(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype))


class _Unfilled(TorchFunctionMode):
    """torch.nn.init does nothing: some of it is an operator, and there is nothing to fill on the meta device."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def multiplications(network: nn.Module, shape: tuple[int, int, int]) -> int:
    """Multiply-accumulates of convs and linear layers for one input of that shape, on the network's device."""
    device = next(iter(network.parameters())).device
    return count(network, torch.zeros(1, *shape, device=device))["macs_conv"]


def count(module: nn.Module, *example_inputs: Tensor) -> dict[str, int]:
    """Numbers for one image: run `module` on `example_inputs` ([B, ...], any B) and count.

    params: parameters (buffers are not counted).
    macs_conv: multiplications of convs and linear layers alone; those of a transposed conv at its input's
    resolution, which is where they are done.
    macs_all: the convention nearest the printed numbers: transposed convs at their output's resolution, one
    for each bias that is added, two for each element normalised, one for each activated, one for each element
    pooled. Sums over shortcuts count in neither. A copy of the module is run, in evaluation mode.
    """
    totals = {"macs_conv": 0, "macs_all": 0}

    def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        for key, value in zip(totals, _layer(layer, inputs[0][0], output[0]), strict=True):
            totals[key] += value

    copied = copy.deepcopy(module).eval()
    for layer in copied.modules():
        if isinstance(layer, WEIGHTED + NORMS + ACTIVATIONS + POOLS):
            layer.register_forward_hook(hook)
    with torch.no_grad():
        copied(*example_inputs)
    return {"params": sum(parameter.numel() for parameter in module.parameters()), **totals}


def _layer(layer: nn.Module, source: Tensor, output: Tensor) -> tuple[int, int]:
    """(macs_conv, macs_all) of one layer, from one image's input and output."""
    if isinstance(layer, WEIGHTED):
        positions = output[0].numel() if output.dim() == 3 else 1
        multiplied = source[0].numel() if isinstance(layer, nn.ConvTranspose2d) else positions
        biases = 0 if layer.bias is None else output.numel()
        return layer.weight.numel() * multiplied, layer.weight.numel() * positions + biases
    if isinstance(layer, NORMS):
        return 0, 2 * output.numel()
    return 0, source.numel()
