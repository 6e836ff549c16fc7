"""Structured pruning of the encoder by Taylor importance, for PATROL.

Sources: Molchanov et al., CVPR 2019 (first-order importance |w * gradient|); the paper's released code (5 % of every
layer of over 32 outputs, by torch-pruning 1.4.1).
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from benchmark.models import ARCHITECTURES
from benchmark.models.split import Encoder, SplitModel

SPARED = 32  # layers with at most this many outputs are never pruned (released code)


def taylor_scores(encoder: Encoder) -> list[Tensor | None]:
    """For each conv layer the importance of its channels, fp32 [width], or None where it is not to be pruned.

    The sum of |w * gradient| over a channel's filter and over the next layer's weights that read the channel, from the
    gradients now in the parameters. torch-pruning's group Taylor importance gives the same order of channels (it takes
    the mean of the two and divides by the layer's mean; BatchNorm and biases do not count). Raises ValueError if a
    layer has no gradient, or if `encoder` is already pruned.
    """
    convs = encoder.convs
    scores = []
    for index, prunable in enumerate(_prunable(encoder.widths)):
        scores.append(_taylor(convs[index], 0) + _taylor(convs[index + 1], 1) if prunable else None)
    return scores


def probe(encoder: Encoder) -> None:
    """Add to the gradients in the parameters those of the summed feature of one image of standard normal noise.

    The image, fp32 [1, 3, 32, 32], comes from torch's default generator of the encoder's device; the encoder is in
    evaluation mode. Far larger than a batch's gradients of the loss, these decide what the released code prunes.
    """
    training, device = encoder.training, next(encoder.parameters()).device
    encoder.eval()
    encoder(torch.randn(1, 3, 32, 32, device=device)).sum().backward()
    encoder.train(training)


def target_widths(widths: Sequence[int], ratio: float = 0.05) -> tuple[int, ...]:
    """The widths after pruning by `ratio`: prunable layers keep (1 - ratio) of their channels, rounded down.

    widths: `encoder.widths` of any encoder that `models.build` makes, before pruning. At 5 % a VGG's 64 and 128 become
    60 and 121 (83,723 parameters with 16 channels in front); a ResNet's first conv of a 64-channel block 60 (111,312).
    Raises ValueError for other widths.
    """
    prunable = _prunable(widths)
    return tuple(
        int(width * (1 - ratio)) if shrinks else width for width, shrinks in zip(widths, prunable, strict=True)
    )


@torch.no_grad()
def shrink(model: SplitModel, keep: Sequence[Tensor | None], optimizer: torch.optim.Optimizer | None = None) -> None:
    """Remove all channels of `model.encoder` but `keep` (sorted int64 indices for each conv; None: all).

    The conv's outputs, its BatchNorm and the next conv's inputs are cut. The changed parameters are new objects without
    gradients. With `optimizer` they continue to train: it gets the new parameters, and its per-element state (momentum)
    is cut in the same way. Without, they are frozen, as in the released code, whose optimiser does not know them
    (`freeze_replaced`); BatchNorm statistics are still updated. Anything else that holds the old parameters (another
    optimiser, a captured CUDA graph) has to be made again. Raises ValueError if a layer that must not be pruned would
    lose channels.
    """
    encoder, convs, full = model.encoder, model.encoder.convs, model.encoder.widths
    for index, (kept, prunable) in enumerate(zip(keep, _prunable(full), strict=True)):
        conv = convs[index]
        if kept is None or len(kept) == conv.out_channels:
            continue
        if not prunable:
            raise ValueError(f"conv layer {index} of the encoder is not to be pruned")
        kept = kept.to(conv.weight.device)
        norm, following = _norm_after(conv, encoder), convs[index + 1]
        for module, name, dim in _replaced(conv, norm, following):
            _cut(module, name, dim, kept, optimizer)
        for name in ("running_mean", "running_var"):
            setattr(norm, name, getattr(norm, name)[kept])
        conv.out_channels = norm.num_features = following.in_channels = len(kept)
    if optimizer is None:
        freeze_replaced(encoder, full)


def freeze_replaced(encoder: Encoder, full: Sequence[int]) -> None:
    """Freeze the parameters that pruning from the widths `full` to those of `encoder` has replaced, also in a rebuilt
    encoder."""
    convs = encoder.convs
    for index, (width, before) in enumerate(zip(encoder.widths, full, strict=True)):
        if width != before:
            conv = convs[index]
            for module, name, _ in _replaced(conv, _norm_after(conv, encoder), convs[index + 1]):
                getattr(module, name).requires_grad_(False)


def _prunable(widths: Sequence[int]) -> list[bool]:
    """Which conv layers of the encoder with these widths (before pruning) lose channels."""
    widths = tuple(widths)
    for family in ARCHITECTURES.values():
        for cut, front, bottleneck in itertools.product(family.CUTS, (None, *widths[:2]), (None, widths[-1])):
            if family.widths(cut, bottleneck, front) == widths:
                free = family.may_shrink(cut, bottleneck, front)
                return [may and width > SPARED for width, may in zip(widths, free, strict=True)]
    raise ValueError(f"no encoder has the widths {widths} before pruning")


def _taylor(conv: nn.Conv2d, dim: int) -> Tensor:
    """Sum of |w * gradient| for each output (dim 0) or input (dim 1) of the conv."""
    if conv.weight.grad is None:
        raise ValueError("the encoder has no gradients to score its channels with; run a backward pass first")
    products = (conv.weight.detach() * conv.weight.grad).float().abs()
    return products.sum((1 - dim, 2, 3))


def _norm_after(conv: nn.Conv2d, encoder: Encoder) -> nn.BatchNorm2d:
    modules = list(encoder.modules())
    norm = modules[modules.index(conv) + 1]
    assert isinstance(norm, nn.BatchNorm2d)
    return norm


def _replaced(conv: nn.Conv2d, norm: nn.BatchNorm2d, following: nn.Conv2d) -> list[tuple[nn.Module, str, int]]:
    """(module, parameter, dimension) of everything tied to the outputs of `conv`."""
    own = [(module, name, 0) for module in (conv, norm) for name in ("weight", "bias")]
    return [*(one for one in own if getattr(*one[:2]) is not None), (following, "weight", 1)]


def _cut(module: nn.Module, name: str, dim: int, kept: Tensor, optimizer: torch.optim.Optimizer | None) -> None:
    # a new Parameter, because autograd remembers the old one's shape as long as some graph holds it
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
