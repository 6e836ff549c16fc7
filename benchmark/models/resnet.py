"""ResNet-20 as the paper uses it for TinyImageNet: a 5x5 conv and three stages of three residual blocks.

The stages are 32, 64 and 128 channels wide and each one's first block has stride 2, so 64 px images become
maps of 32, 16 and 8 px. A shortcut has no parameters: it takes every second pixel and pads the channels with
zeros.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.models.convolution import Conv
from benchmark.models.layers import BatchNorm2d, normed
from benchmark.models.split import Encoder, SplitModel, bottleneck_pair

# (inputs, outputs, stride) of the nine blocks
BLOCKS = [block for a, b in ((16, 32), (32, 64), (64, 128)) for block in ((a, b, 2), (b, b, 1), (b, b, 1))]
# cut -> blocks in the encoder. c1: stage 1 (four layers, the default of the released training script: a 32x32
# map at 64 px); c2: one block more (the released GAN script; only this cut gives the 8x16x16 feature of the
# released configuration); c3: stages 1 and 2
CUTS = {"c1": 3, "c2": 4, "c3": 6}
CHANGES = 1  # raise it when a change in this module alters results: the key of every job on this network depends on it


class Block(nn.Module):
    """conv3x3, BN, ReLU, conv3x3, BN, plus shortcut, ReLU.

    [B, inputs, H, W] -> [B, outputs, H / stride, W / stride]; inner: channels between the convs (None: outputs).
    """

    def __init__(self, inputs: int, outputs: int, stride: int, inner: int | None = None):
        super().__init__()
        inner = inner or outputs
        self.conv1 = Conv(inputs, inner, 3, stride, padding=1, bias=False)
        self.bn1 = BatchNorm2d(inner)
        self.conv2 = Conv(inner, outputs, 3, padding=1, bias=False)
        self.bn2 = BatchNorm2d(outputs)
        self.stride, self.added = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        y = normed(self.bn1, self.conv1(x))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        # as in the released code, the new channels, all zero, come after the others (He et al. 2016, option A)
        shortcut = F.pad(shortcut, (0, 0, 0, 0, 0, self.added))
        return F.relu(normed(self.bn2, self.conv2(y), relu=False) + shortcut)


def widths(cut: str, bottleneck: int | None, front: int | None) -> tuple[int, ...]:
    """Output channels of the encoder's convs before any pruning; PATROL's extra conv is the second."""
    blocks = tuple(outputs for _, outputs, _ in BLOCKS[: CUTS[cut]] for _ in range(2))
    optional = (16, front, *blocks, bottleneck)
    return tuple(width for width in optional if width is not None)


def may_shrink(cut: str, bottleneck: int | None, front: int | None) -> tuple[bool, ...]:
    """Which convs pruning can narrow: the first of each block. The others are tied by shortcuts or make the feature."""
    stem, tail = 1 + (front is not None), bottleneck is not None
    return (False,) * stem + (True, False) * CUTS[cut] + (False,) * tail


def build(
    classes: int,
    image_size: int,
    cut: str,
    bottleneck: int | None,
    front: int | None,
    widths: tuple[int, ...],
) -> SplitModel:
    """The model with the encoder's convs `widths` wide. Arguments as checked by `benchmark.models.build`.

    front: a 3x3 conv without bias, BatchNorm or ReLU after the stem (released code).
    """
    left, right = list(BLOCKS[: CUTS[cut]]), BLOCKS[CUTS[cut] :]
    stem = [Conv(3, 16, 5, padding=2, bias=False), BatchNorm2d(16), nn.ReLU(inplace=True)]
    if front is not None:
        stem.append(Conv(16, front, 3, padding=1, bias=False))
        left[0] = (front, *left[0][1:])
    inner = widths[1 + (front is not None) :: 2]  # a block's first conv
    channels = left[-1][1]
    narrow, widen = bottleneck_pair(channels, channels, bottleneck)
    encoder = Encoder(*stem, *(Block(*block, width) for block, width in zip(left, inner, strict=False)), *narrow)
    _initialise(encoder, widen)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, classes)]
    server = nn.Sequential(*widen, *(Block(*block) for block in right), *head)
    side = image_size // 2 ** sum(stride == 2 for _, _, stride in left)
    return SplitModel(encoder, server, (encoder.widths[-1], side, side))


@torch.no_grad()
def _initialise(encoder: Encoder, widen: list) -> None:
    """N(0, 2 / (kernel area * outputs)) for the encoder's convs and the server's first one, whose bias is zero; all
    else is torch's (released code)."""
    for conv in (*encoder.convs, *widen):
        outputs, _, *kernel = conv.weight.shape
        nn.init.normal_(conv.weight, 0, (2 / (math.prod(kernel) * outputs)) ** 0.5)
    for conv in widen:
        conv.bias.zero_()
