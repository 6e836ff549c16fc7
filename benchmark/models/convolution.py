"""Convolutions on a CPU: matrix products where oneDNN is slow, and gradients of weights without oneDNN's barrier.

The modules have the same state as torch's own, and elsewhere than on a CPU they are torch's own. The way a convolution
is computed depends only on hardware, shapes and arithmetic (`way`), so results do not depend on a clock. docs/SPEED.md
has the measurements. A job's provenance names the way (`described`).
"""

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.files import proc
from benchmark.models.passes import OPS, passable, side_threads

DENSE, PATCHES = 2, 4  # sides of the largest maps computed as one dense product, and as products of patches
NARROW = 4  # outputs of the widest convolution that is computed tap by tap
WIDE = 32  # and inputs of the narrowest
GATHERED, MANY = 8, 256  # largest side of a map, and fewest outputs, for gradients of weights from patches


class Conv(nn.Conv2d):
    """torch's Conv2d of zero padding; [B, C, H, W] -> [B, O, H', W']. It cannot be differentiated twice on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return super().forward(x)
        return _Convolution.apply(x, self.weight, self.bias, way(x, self))


class Transposed(nn.ConvTranspose2d):
    """torch's ConvTranspose2d; [B, C, H, W] -> [B, O, H', W']. It cannot be differentiated twice on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return super().forward(x)
        return _Convolution.apply(x, self.weight, self.bias, OneDNN(self))


class PenaltyConv(nn.Conv2d):
    """torch's Conv2d of zero padding for a network with a gradient penalty; [B, C, H, W] -> [B, O, H', W'].

    On a CPU it computes only what a penalty needs: in a gradient that is to be differentiated (`create_graph=True`)
    only x has one, and RuntimeError is raised if autocast changed the arithmetic. `first` says that x, if it is a
    leaf, has no other gradient than that. As in `Conv`, the gradient of the weights has no barrier.
    """

    first = False

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return super().forward(x)
        return _Penalised.apply(x, self.weight, self.bias, OneDNN(self), self.first and x.is_leaf)


def way(x: Tensor, conv: nn.Conv2d) -> "Way":
    """How the convolution of x [B, C, H, W] is computed on this CPU."""
    same = conv.stride == (1, 1) and conv.padding == tuple(side // 2 for side in conv.kernel_size)
    low = _arithmetic(x) == torch.bfloat16
    if same and conv.kernel_size == (3, 3):
        if max(x.shape[2:]) <= DENSE:
            return Dense()
        if max(x.shape[2:]) <= PATCHES and low and amx():
            return Patches()
        if max(x.shape[2:]) <= GATHERED and conv.out_channels >= MANY and low and amx():
            return Weights(conv)
    if same and low and conv.out_channels <= NARROW and conv.in_channels >= WIDE and not amx():
        return Taps()
    return OneDNN(conv)


@functools.cache
def amx() -> bool:
    """Whether this CPU multiplies matrices in bf16 by AMX."""
    return "amx_bf16" in (proc("cpuinfo", "flags") or "").split()


def described(device: torch.device) -> str:
    """How a job on `device` computes convolutions, for its provenance."""
    if device.type != "cpu":
        return "torch"
    return f"products of maps up to {PATCHES if amx() else DENSE}x{PATCHES if amx() else DENSE}, else oneDNN"


def _arithmetic(x: Tensor) -> torch.dtype:
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


class _Convolution(torch.autograd.Function):
    """A convolution by one of the ways below, in autocast's arithmetic; autograd casts gradients to their tensors'."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, by) -> Tensor:
        dtype = _arithmetic(x)
        low, kernel = x.to(dtype), weight.to(dtype)
        ctx.by, ctx.exact = by, (x.dtype, weight.dtype) == (dtype, dtype)
        ctx.save_for_backward(low, kernel)
        with torch.autocast("cpu", enabled=False):
            return by.forward(low, kernel, bias if bias is None else bias.to(dtype))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor):
        return *ctx.by.backward(gradient, *ctx.saved_tensors, ctx.needs_input_grad[:3]), None


class _Penalised(_Convolution):
    """A convolution whose gradient of x can be differentiated."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, by, images: bool) -> Tensor:
        ctx.images = images
        return _Convolution.forward(ctx, x, weight, bias, by)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        if not torch.is_grad_enabled():
            to_x, *to_held = ctx.needs_input_grad[:3]
            return *ctx.by.backward(gradient, *ctx.saved_tensors, (to_x and not ctx.images, *to_held)), None, None
        x, kernel = ctx.saved_tensors
        if not ctx.exact:  # copies, which no gradient reaches
            raise RuntimeError(f"a gradient in {x.dtype} cannot be differentiated; leave autocast for it")
        return _ToInput.apply(gradient, x, kernel, ctx.by), None, None, None, None


class _ToInput(torch.autograd.Function):
    """The gradient of x, which is linear in the gradient of the outputs and in the kernel."""

    @staticmethod
    def forward(ctx, gradient: Tensor, x: Tensor, kernel: Tensor, by: "OneDNN") -> Tensor:
        ctx.by = by
        ctx.save_for_backward(gradient, kernel)
        return by.to_input(gradient, x, kernel)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, change: Tensor):
        gradient, kernel = ctx.saved_tensors
        to_gradient, _, to_kernel, _ = ctx.needs_input_grad
        return (
            ctx.by.forward(change, kernel, None) if to_gradient else None,
            None,
            ctx.by.to_weight(gradient, change, kernel) if to_kernel else None,
            None,
        )


class Way:
    """How a convolution and its gradients are computed, all in the arithmetic of the tensors given."""

    forward: Any  # set by the subclass: (x, kernel, bias or None) -> the outputs
    to_input: Any  # the same: (gradient of the outputs, x, kernel) -> the gradient of x
    to_weight: Any  # the same for the gradient of the kernel

    def backward(self, gradient: Tensor, x: Tensor, kernel: Tensor, wanted: tuple[bool, ...]) -> list[Tensor | None]:
        """The gradients of x, of the kernel and of the bias, those that are wanted."""
        return [
            self.to_input(gradient, x, kernel) if wanted[0] else None,
            self.to_weight(gradient, x, kernel) if wanted[1] else None,
            _summed(gradient) if wanted[2] else None,
        ]


class OneDNN(Way):
    """torch's own operator; the gradient of the weights from as many pieces of the batch as there are threads.

    With several threads, oneDNN computes that gradient with barriers in which they spin; beside another process on the
    same cores, most of the time is lost there. Here one thread computes each piece, without waiting. The gradient of
    the bias is summed separately, because oneDNN is slow at it (docs/SPEED.md).
    """

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d):
        shape = conv.stride, conv.padding, conv.dilation, conv.transposed, conv.output_padding, conv.groups
        self.shape = [list(item) if isinstance(item, tuple) else item for item in shape]

    def forward(self, x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
        return torch.ops.aten.convolution(x, kernel, bias, *self.shape)

    def to_input(self, gradient: Tensor, x: Tensor, kernel: Tensor) -> Tensor:
        return self._backward(gradient, x, kernel, [True, False, False])[0]

    def to_weight(self, gradient: Tensor, x: Tensor, kernel: Tensor) -> Tensor:
        threads = torch.get_num_threads()
        if threads == 1:
            return self._to_weight(gradient, x, kernel)
        pieces = zip(gradient.chunk(threads), x.chunk(threads), strict=True)
        working = [side_threads(threads).submit(self._to_weight, *piece, kernel) for piece in pieces]
        first, *others = (piece.result() for piece in working)
        total = first.to(_wide(gradient.dtype))
        for other in others:
            total += other
        return total

    @torch.no_grad()
    def _to_weight(self, gradient: Tensor, x: Tensor, kernel: Tensor) -> Tensor:
        return self._backward(gradient, x, kernel, [False, True, False])[1]

    def _backward(self, gradient: Tensor, x: Tensor, kernel: Tensor, wanted: list[bool]) -> tuple[Tensor, ...]:
        return torch.ops.aten.convolution_backward(gradient, x, kernel, [gradient.shape[1]], *self.shape, wanted)


class Dense(Way):
    """3x3 on a map of 1x1 to 2x2, where each output sees each input: one product with a matrix of all pairs."""

    def forward(self, x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
        height, width = x.shape[2:]
        matrix = self._matrix(kernel, height, width)
        y = F.linear(_rows(x).flatten(1), matrix, None if bias is None else bias.repeat(height * width))
        return _map(y, x)

    def to_input(self, gradient: Tensor, x: Tensor, kernel: Tensor) -> Tensor:
        height, width = x.shape[2:]
        return _map(_rows(gradient).flatten(1) @ self._matrix(kernel, height, width), x)

    def to_weight(self, gradient: Tensor, x: Tensor, kernel: Tensor) -> Tensor:
        (height, width), (outputs, inputs) = x.shape[2:], kernel.shape[:2]
        pairs = _rows(gradient).flatten(1).mT @ _rows(x).flatten(1)
        blocks = pairs.view(height * width, outputs, height * width, inputs)
        found = pairs.new_zeros(outputs, 3, 3, inputs, dtype=_wide(pairs.dtype))
        for place, row, source, column in _pairs(height, width):
            found[:, row, column] += blocks[place, :, source]
        return found.permute(0, 3, 1, 2)

    def _matrix(self, kernel: Tensor, height: int, width: int) -> Tensor:
        """[H W O, H W C]: weights from each position and input to each position and output."""
        (outputs, inputs), places = kernel.shape[:2], height * width
        matrix = kernel.new_empty(places, outputs, places, inputs)
        for place, row, source, column in _pairs(height, width):
            matrix[place, :, source] = kernel[:, :, row, column]
        return matrix.view(places * outputs, places * inputs)


def _pairs(height: int, width: int) -> list[tuple[int, int, int, int]]:
    """(position of the output, kernel's row, position of the input, kernel's column) of all pairs of positions."""
    places = [divmod(place, width) for place in range(height * width)]
    return [
        (place, up - down + 1, source, left - right + 1)
        for place, (down, right) in enumerate(places)
        for source, (up, left) in enumerate(places)
    ]


class Patches(Way):
    """3x3 as products with gathered 3x3 patches. Weights in channels_last are the product's matrix without a copy."""

    def forward(self, x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
        matrix = kernel.permute(0, 2, 3, 1).reshape(len(kernel), -1)
        return _map(F.linear(_patches(x), matrix, bias), x)

    def to_input(self, gradient: Tensor, x: Tensor, kernel: Tensor) -> Tensor:
        flipped = kernel.permute(2, 3, 0, 1).flatten(0, 1).flip(0).flatten(0, 1)  # [9 O, C]
        return _map(_patches(gradient) @ flipped, x)

    def to_weight(self, gradient: Tensor, x: Tensor, kernel: Tensor) -> Tensor:
        # transposed first: takes half the time of a product that transposes
        found = _rows(gradient).flatten(0, 2).mT.contiguous() @ _patches(x)
        return found.view(len(kernel), 3, 3, -1).permute(0, 3, 1, 2)


class Weights(OneDNN):
    """torch's own operator, but the gradient of the weights as a product with patches."""

    def to_weight(self, gradient: Tensor, x: Tensor, kernel: Tensor) -> Tensor:
        return Patches().to_weight(gradient, x, kernel)


def _patches(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B H W, 9 C], rows of the kernel first, then columns, then channels."""
    batch, channels, height, width = x.shape
    padded = F.pad(_rows(x), (0, 0, 1, 1, 1, 1))
    image, row, column, _ = padded.stride()
    patches = padded.as_strided((batch, height, width, 3, 3, channels), (image, row, column, row, column, 1))
    return patches.reshape(batch * height * width, 9 * channels)


class Taps(Way):
    """k x k with few outputs: a product for all taps at once, whose results are then shifted and added.

    Without AMX oneDNN computes a vector of outputs at a time, of which only three would be used.
    """

    def forward(self, x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
        batch, _, height, width = x.shape
        taps = self._matrix(kernel) @ _rows(x).flatten(0, 2).mT
        side, outputs = kernel.shape[2], len(kernel)
        taps = taps.view(side, side, outputs, batch, height, width)
        total = taps[side // 2, side // 2].to(_wide(x.dtype))
        for row, column, there, here in _shifts(side, height, width):
            total[(..., *here)] += taps[(row, column, ..., *there)]
        if bias is not None:
            total += bias.view(-1, 1, 1, 1)
        return total.permute(1, 0, 2, 3).to(x.dtype, memory_format=torch.channels_last)

    def to_input(self, gradient: Tensor, x: Tensor, kernel: Tensor) -> Tensor:
        return _map(self._spread(gradient, kernel.shape[2]).mT @ self._matrix(kernel), x)

    def to_weight(self, gradient: Tensor, x: Tensor, kernel: Tensor) -> Tensor:
        found = self._spread(gradient, kernel.shape[2]) @ _rows(x).flatten(0, 2)
        return found.view(*kernel.shape[2:], *kernel.shape[:2]).permute(2, 3, 0, 1)

    def _matrix(self, kernel: Tensor) -> Tensor:
        """[k k O, C]."""
        return kernel.permute(2, 3, 0, 1).reshape(-1, kernel.shape[1])

    def _spread(self, gradient: Tensor, side: int) -> Tensor:
        """The gradient of all taps [k k O, B H W] from that of the outputs [B, O, H, W]."""
        (height, width), places = gradient.shape[2:], range(side - 1, -1, -1)
        padded = F.pad(gradient.permute(1, 0, 2, 3).contiguous(), [side // 2] * 4)
        taps = [padded[..., row : row + height, column : column + width] for row in places for column in places]
        return torch.stack(taps).view(-1, gradient[:, 0].numel())


def _shifts(side: int, height: int, width: int) -> list[tuple[int, int, tuple[slice, slice], tuple[slice, slice]]]:
    """(row, column, positions of inputs, positions of the outputs they reach) of all taps but the middle one."""

    def shift(tap: int, length: int) -> tuple[slice, slice]:
        by = tap - side // 2
        return slice(max(0, by), length + min(0, by)), slice(max(0, -by), length - max(0, by))

    taps = [(row, column) for row in range(side) for column in range(side) if (row, column) != (side // 2, side // 2)]
    moves = [(row, column, shift(row, height), shift(column, width)) for row, column in taps]
    return [(row, column, (y[0], x[0]), (y[1], x[1])) for row, column, y, x in moves]


def _rows(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, H, W, C], contiguous; channels_last is not copied."""
    return x.permute(0, 2, 3, 1).contiguous()


def _map(rows: Tensor, like: Tensor) -> Tensor:
    """[B H W, C] or [B, H W C] -> [B, C, H, W] in channels_last, B, H and W as in `like`."""
    batch, _, height, width = like.shape
    return rows.view(batch, height, width, -1).permute(0, 3, 1, 2)


def _summed(gradient: Tensor) -> Tensor:
    """The gradient of a bias, in at least fp32: in bf16 each partial sum would be rounded again."""
    if passable(gradient):
        return OPS.totals(gradient).float()
    return gradient.sum((0, 2, 3), dtype=_wide(gradient.dtype))


def _wide(dtype: torch.dtype) -> torch.dtype:
    """The type for sums: at least fp32."""
    return torch.promote_types(dtype, torch.float32)
