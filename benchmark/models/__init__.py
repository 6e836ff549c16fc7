"""The networks: split classifiers (vgg.py, resnet.py), the attackers' decoder and critic; pruning, MACs."""

from collections.abc import Sequence
from types import ModuleType

import torch

from benchmark.errors import UserError
from benchmark.models import resnet, vgg
from benchmark.models.split import Encoder, SplitModel

ARCHITECTURES = {"vgg11": vgg, "resnet20": resnet}

__all__ = ["ARCHITECTURES", "Encoder", "SplitModel", "build"]


def build(
    arch: str,
    classes: int,
    image_size: int,
    cut: str = "c2",
    bottleneck: int | None = 8,
    front: int | None = None,
    widths: Sequence[int] | None = None,
    seed: int = 0,
) -> SplitModel:
    """A freshly initialised split classifier, fp32, on the CPU, in training mode.

    arch: `vgg11` or `resnet20`; image_size: pixels a side, a multiple of 4 from 32 on; cut: `c1` to `c3`,
    later is deeper (see vgg.py, resnet.py); bottleneck: channels of the feature, or None for the network
    without bottleneck conv and Sigmoid; front: channels of PATROL's extra conv (before a VGG's first one, after a
    ResNet's), or None; widths:
    `encoder.widths` of a pruned model, to rebuild it. The weights depend only on `seed`, and the global
    random state is unchanged. Raises UserError for other arguments.
    """
    if arch not in ARCHITECTURES:
        raise UserError(f"unknown architecture '{arch}'; known: {', '.join(ARCHITECTURES)}")
    family = ARCHITECTURES[arch]
    if cut not in family.CUTS:
        raise UserError(f"unknown cut '{cut}' of {arch}; known: {', '.join(family.CUTS)}")
    if image_size < 32 or image_size % 4:
        raise UserError(f"images of {image_size} px do not fit {arch}; use a multiple of 4 from 32 px on")
    for name, value, least in (("classes", classes, 2), ("bottleneck", bottleneck, 1), ("front", front, 1)):
        if value is not None and value < least:
            raise UserError(f"{name} is {value} for {arch}; use {least} or more")
    widths = _checked(widths, family, (cut, bottleneck, front), arch)
    # not torch.manual_seed, which would reseed the GPUs as well
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return family.build(classes, image_size, cut, bottleneck, front, widths)


def _checked(widths: Sequence[int] | None, family: ModuleType, options: tuple, arch: str) -> tuple[int, ...]:
    """`widths`, or for None those before pruning. UserError unless pruning could have produced them."""
    full = family.widths(*options)
    if widths is None:
        return full
    widths = tuple(widths)
    fits = len(widths) == len(full) and all(
        0 < width <= most if free else width == most
        for width, most, free in zip(widths, full, family.may_shrink(*options), strict=True)
    )
    if not fits:
        raise UserError(f"widths {widths} do not fit this {arch} encoder, whose layers are {full} before pruning")
    return widths
