"""BatchNorm with the ReLU and pooling after it, in as few passes over memory as possible, on a CPU in bf16.

torch reads and writes the whole map for each of the three, twice for BatchNorm, and keeps each result for the backward
pass. Here only the input is kept, and the rest is computed from it again (`passes.py`). On other devices, and in fp32,
the modules run one after the other. Numbers are torch's except for rounding: values between the modules are not rounded
to bf16. They do not depend on the threads. docs/SPEED.md has the measurements.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.models.passes import OPS, kernels, passable


class BatchNorm2d(nn.BatchNorm2d):
    """torch's, with its state, but `num_batches_tracked` is not updated: with a momentum nothing reads it, and counting
    takes a kernel for each layer and step."""

    momentum: float
    running_mean: Tensor
    running_var: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape."""
        state = (self.running_mean, self.running_var, self.weight, self.bias)
        return F.batch_norm(x, *state, self.training, self.momentum, self.eps)


class Layers(nn.Sequential):
    """nn.Sequential that may fuse a BatchNorm with the ReLU and 2x2 pooling after it."""

    def forward(self, x: Tensor) -> Tensor:
        layers, place = list(self), 0
        while place < len(layers):
            layer, place = layers[place], place + 1
            if not _fusible(layer, x):
                x = layer(x)
                continue
            relu = place < len(layers) and isinstance(layers[place], nn.ReLU)
            place += relu
            pooled = relu and place < len(layers) and _halves(layers[place], x)
            place += pooled
            x = _Normed.apply(x, layer.weight, layer.bias, layer, relu, pooled)
        return x


def normed(norm: BatchNorm2d, x: Tensor, relu: bool = True) -> Tensor:
    """`norm` of x [B, C, H, W], and the ReLU after it."""
    if _fusible(norm, x):
        return _Normed.apply(x, norm.weight, norm.bias, norm, relu, False)
    return F.relu(norm(x)) if relu else norm(x)


def _fusible(layer: nn.Module, x: Tensor) -> bool:
    """Whether `layer` and what follows it are fused here; torch's own BatchNorm2d is left to torch."""
    return isinstance(layer, BatchNorm2d) and passable(x)


def described(device: torch.device) -> str:
    """How BatchNorm is computed in bf16 on `device`, for a job's provenance."""
    return "fused" if device.type == "cpu" and kernels() is not None else "torch"


def _halves(layer: nn.Module, x: Tensor) -> bool:
    """Whether `layer` is max pooling over each 2x2 of x."""
    sizes = (layer.kernel_size, layer.stride, layer.padding) if isinstance(layer, nn.MaxPool2d) else ()
    return sizes == (2, 2, 0) and x.shape[2] % 2 == x.shape[3] % 2 == 0


class _Normed(torch.autograd.Function):
    """y = max(slope x + offset, floor) with a slope and an offset a channel, and the largest of each 2x2 of it."""

    @staticmethod
    def forward(ctx, x, weight, bias, norm, relu, pooled):
        if norm.training:
            mean, variance = _moments(x, norm.running_mean)
            _track(norm, mean, variance, x.numel() // x.shape[1])
        else:
            mean, variance = norm.running_mean.double(), norm.running_var.double()
        scale = (variance + norm.eps).rsqrt()
        slope = (weight * scale).float()
        offset = (bias - weight * scale * mean).float()
        floor = 0.0 if relu else -math.inf
        ctx.pooled, ctx.floor, ctx.moving = pooled, floor, norm.training
        # of each 2x2 the largest is remembered, one of five values
        chosen = OPS.choices(x, slope, offset, floor) if pooled and any(ctx.needs_input_grad) else None
        ctx.save_for_backward(x, chosen, slope, offset, mean.float(), scale)
        return (OPS.pooled if pooled else OPS.scaled)(x, slope, offset, floor)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        x, chosen, slope, offset, mean, scale = ctx.saved_tensors
        gradient = gradient.to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
        if ctx.pooled:
            total, product = OPS.slopes_pooled(gradient, x, chosen, mean)
        else:
            total, product = OPS.slopes(gradient, x, slope, offset, mean, ctx.floor)
        # in training the gradient less its mean, and less its part along x - mean
        rows = x.numel() // x.shape[1] if ctx.moving else math.inf
        factor = -slope * scale * scale * product / rows
        lines = factor.float(), (-slope * total / rows - factor * mean).float()
        if ctx.pooled:
            found = OPS.unscaled_pooled(gradient, x, chosen, slope, *lines)
        else:
            found = OPS.unscaled(gradient, x, slope, offset, *lines, ctx.floor)
        return found, (product * scale).float(), total.float(), None, None, None


def _moments(x: Tensor, near: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel, in float64. near: a value close to the mean, to avoid cancellation."""
    total, square = OPS.moments(x, near)
    rows = x.numel() // x.shape[1]
    apart = total / rows
    return near + apart, (square / rows - apart * apart).clamp_min(0)


def _track(norm: BatchNorm2d, mean: Tensor, variance: Tensor, rows: int) -> None:
    unbiased = variance * (rows / max(rows - 1, 1))
    norm.running_mean += norm.momentum * (mean.float() - norm.running_mean)
    norm.running_var += norm.momentum * (unbiased.float() - norm.running_var)
