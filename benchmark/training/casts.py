"""Casts all weights of a network to bf16 at once; autocast uses one kernel for each, forward and backward."""

import torch
from torch import Tensor, nn

CAST = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)  # those of our layers whose weights autocast casts


DEVICES = ("cuda",)  # on a CPU, where no kernels are launched, nothing would be gained


def cast_once(module: nn.Module, x: Tensor) -> Tensor:
    """module(x). Within bf16 autocast on CUDA one call casts the weights of its convolutions and linear layers, and
    another their gradients; numbers and gradients are the same as autocast's, bit for bit."""
    if x.device.type not in DEVICES or not torch.is_autocast_enabled(x.device.type):
        return module(x)
    weights = {
        f"{name}.{own}".lstrip("."): parameter
        for name, layer in module.named_modules()
        if isinstance(layer, CAST)
        for own, parameter in layer.named_parameters(recurse=False)
    }
    copies = dict(zip(weights, _Copies.apply(*weights.values()), strict=True)) if weights else {}
    return torch.func.functional_call(module, copies, (x,))


class _Copies(torch.autograd.Function):
    """fp32 tensors -> bf16 copies; backward, gradients in bf16 -> fp32, only for tensors that need one."""

    @staticmethod
    def forward(ctx, *weights: Tensor) -> tuple[Tensor, ...]:
        copies = _cast(weights, torch.bfloat16)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(
            *(copy for copy, wanted in zip(copies, ctx.needs_input_grad, strict=True) if not wanted)
        )
        return tuple(copies)

    @staticmethod
    def backward(ctx, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        given = [gradient for gradient in gradients if gradient is not None]
        cast = iter(_cast(given, torch.float32))
        return tuple(None if gradient is None else next(cast) for gradient in gradients)


def _cast(tensors, dtype: torch.dtype) -> list[Tensor]:
    copies = [torch.empty_like(tensor, dtype=dtype) for tensor in tensors]
    if copies:
        torch._foreach_copy_(copies, list(tensors))
    return copies
