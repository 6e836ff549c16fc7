"""VGG11 with BatchNorm, cut after one of its first three conv layers (paper: after the second)."""

from collections.abc import Sequence

from torch import nn

from benchmark.models.decoder import xavier_
from benchmark.models.layers import BatchNorm2d, Layers
from benchmark.models.split import Encoder, SplitModel, bottleneck_pair, conv3x3

PLAN = (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512, "pool")
# cut -> entries of PLAN that the encoder gets: [64, 16, 16], [128, 8, 8] and [256, 8, 8] at 32 px
CUTS = {"c1": 2, "c2": 4, "c3": 5}
CHANGES = 0  # raise it when a change in this module alters results: the key of every job on this network depends on it


def widths(cut: str, bottleneck: int | None, front: int | None) -> tuple[int, ...]:
    """Output channels of the encoder's convs before any pruning."""
    convs = tuple(entry for entry in PLAN[: CUTS[cut]] if entry != "pool")
    return tuple(width for width in (front, *convs, bottleneck) if width is not None)


def may_shrink(cut: str, bottleneck: int | None, front: int | None) -> tuple[bool, ...]:
    """Which convs pruning can narrow: all but the last, whose width is that of the feature."""
    return (True,) * (len(widths(cut, bottleneck, front)) - 1) + (False,)


def build(
    classes: int,
    image_size: int,
    cut: str,
    bottleneck: int | None,
    front: int | None,
    widths: tuple[int, ...],
) -> SplitModel:
    """The model with the encoder's convs `widths` wide. Arguments as checked by `benchmark.models.build`."""
    left, right = PLAN[: CUTS[cut]], PLAN[CUTS[cut] :]
    convs = iter(widths)
    plan = [entry if entry == "pool" else next(convs) for entry in ("front",) * (front is not None) + left]
    layers, channels = _layers(3, plan)
    full = [entry for entry in left if entry != "pool"][-1]  # the server does not shrink with the encoder
    narrow, widen = bottleneck_pair(channels, full, bottleneck)
    encoder = Encoder(*layers, *narrow)
    xavier_(encoder)  # as released
    layers, channels = _layers(full, right)
    head = [nn.Flatten(), nn.Dropout(), nn.Linear(channels * (image_size // 32) ** 2, 512), nn.ReLU(inplace=True)]
    head += [nn.Dropout(), nn.Linear(512, 512), nn.ReLU(inplace=True), nn.Linear(512, classes)]
    side = image_size >> left.count("pool")
    return SplitModel(encoder, Layers(*widen, *layers, *head), (encoder.widths[-1], side, side))


def _layers(channels: int, plan: Sequence) -> tuple[list[nn.Module], int]:
    """The layers of a part of the plan, from so many channels, and the channels after them."""
    layers = []
    for entry in plan:
        if entry == "pool":
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [conv3x3(channels, entry), BatchNorm2d(entry), nn.ReLU(inplace=True)]
            channels = entry
    return layers, channels
