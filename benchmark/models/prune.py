"""Structured pruning of the encoder by Taylor importance, for PATROL.

Sources: Molchanov et al., CVPR 2019 (first-order importance |w * gradient|); the paper's released code (5 %,
layers of at most 32 outputs spared).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from benchmark.models.split import Encoder, SplitModel

SPARED = 32  # layers with at most this many outputs are never pruned (released code)


def taylor_scores(encoder: Encoder) -> list[Tensor | None]:
    """For each conv layer the importance of its channels, fp32 [width], or None where it is not to be pruned.

    A channel's score is the sum of |w * gradient| over its filter, from the gradients now in the parameters.
    Spared are the last conv (its width is the feature's), layers of at most 32 outputs, and the convs in
    residual blocks. Raises ValueError where a layer has no gradient.
    """
    return [_score(conv) if _may_shrink(conv, encoder) else None for conv in encoder.convs]


def target_widths(widths: Sequence[int], ratio: float = 0.05) -> tuple[int, ...]:
    """The widths after pruning by `ratio`: those over 32 lose it and are rounded down to a multiple of 4.

    At 5 % 64 and 128 become 60 and 120: 83,108 parameters for the encoder with 16 channels in front.
    """
    return tuple(width if width <= SPARED else int(width * (1 - ratio)) // 4 * 4 for width in widths)


@torch.no_grad()
def shrink(model: SplitModel, keep: Sequence[Tensor | None], optimizer: torch.optim.Optimizer | None = None) -> None:
    """Remove all channels of `model.encoder` but `keep` (sorted int64 indices for each conv; None: all).

    The conv's outputs, its BatchNorm and the next conv's inputs are cut. The changed parameters are new
    objects without gradients; `optimizer` is told of them and its per-element state (momentum) is cut alike.
    Whatever else holds the old parameters (another optimiser, a captured CUDA graph) has to be made again.
    Raises ValueError where a layer that is not to be pruned would lose channels.
    """
    encoder, convs = model.encoder, model.encoder.convs
    layers = list(encoder)
    for index, (conv, kept) in enumerate(zip(convs, keep, strict=True)):
        if kept is None or len(kept) == conv.out_channels:
            continue
        if not _may_shrink(conv, encoder):
            raise ValueError(f"conv layer {index} of the encoder is not to be pruned")
        kept = kept.to(conv.weight.device)
        norm = layers[layers.index(conv) + 1]
        for name in ("weight", "bias"):
            _cut(conv, name, 0, kept, optimizer)
            _cut(norm, name, 0, kept, optimizer)
        norm.running_mean, norm.running_var = norm.running_mean[kept], norm.running_var[kept]
        conv.out_channels = norm.num_features = len(kept)
        _cut(convs[index + 1], "weight", 1, kept, optimizer)
        convs[index + 1].in_channels = len(kept)


def _may_shrink(conv: nn.Conv2d, encoder: Encoder) -> bool:
    chained = any(layer is conv for layer in encoder)  # a conv in a residual block is tied to its shortcut
    return chained and conv is not encoder.convs[-1] and conv.out_channels > SPARED


def _score(conv: nn.Conv2d) -> Tensor:
    if conv.weight.grad is None:
        raise ValueError("the encoder has no gradients to score its channels with; run a backward pass first")
    return (conv.weight.detach() * conv.weight.grad).float().abs().sum((1, 2, 3))


def _cut(module: nn.Module, name: str, dim: int, kept: Tensor, optimizer: torch.optim.Optimizer | None) -> None:
    # a new Parameter, since autograd remembers the shape of an old one as long as some graph holds it
    old = getattr(module, name)
    new = nn.Parameter(_select(old, dim, kept), requires_grad=old.requires_grad)
    setattr(module, name, new)
    if optimizer is None:
        return
    for group in optimizer.param_groups:
        group["params"] = [new if parameter is old else parameter for parameter in group["params"]]
    if old in optimizer.state:
        state = optimizer.state.pop(old)
        optimizer.state[new] = {
            key: _select(value, dim, kept) if torch.is_tensor(value) and value.shape == old.shape else value
            for key, value in state.items()
        }


def _select(tensor: Tensor, dim: int, kept: Tensor) -> Tensor:
    channels_last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    form = torch.channels_last if channels_last else torch.contiguous_format
    return tensor.detach().index_select(dim, kept).contiguous(memory_format=form)
