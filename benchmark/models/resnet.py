"""ResNet-20 as the paper uses it for TinyImageNet: a 5x5 conv and three stages of three residual blocks.

The stages are 32, 64 and 128 channels wide and each one's first block has stride 2, so 64 px images become
maps of 32, 16 and 8 px. A shortcut has no parameters: it takes every second pixel and pads the channels with
zeros.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.models.split import Encoder, SplitModel, bottleneck_pair, conv_bn_relu

# (inputs, outputs, stride) of the nine blocks
BLOCKS = [
    (16, 32, 2),
    *[(32, 32, 1)] * 2,
    (32, 64, 2),
    *[(64, 64, 1)] * 2,
    (64, 128, 2),
    *[(128, 128, 1)] * 2,
]
# cut -> blocks in the encoder. c1: stage 1 (four layers, the default of the released training script: a 32x32
# map at 64 px); c2: one block more (the released GAN script, and the only one whose feature is the 8x16x16 of
# the released configuration); c3: stages 1 and 2
CUTS = {"c1": 3, "c2": 4, "c3": 6}


class Block(nn.Module):
    """conv3x3, BN, ReLU, conv3x3, BN, plus shortcut, ReLU.

    [B, inputs, H, W] -> [B, outputs, H / stride, W / stride].
    """

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.stride, self.added = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        # half of the new channels on either side, as in the CIFAR networks of He et al. 2016, option A
        shortcut = F.pad(shortcut, (0, 0, 0, 0, self.added // 2, self.added - self.added // 2))
        return self.relu(self.bn2(self.conv2(y)) + shortcut)


def widths(cut: str, bottleneck: int | None, front: int | None) -> tuple[int, ...]:
    """Output channels of the encoder's convs. None is ever pruned: the sums over the shortcuts tie them."""
    blocks = tuple(outputs for _, outputs, _ in BLOCKS[: CUTS[cut]] for _ in range(2))
    return (front,) * (front is not None) + (16, *blocks) + (bottleneck,) * (bottleneck is not None)


def build(
    classes: int,
    image_size: int,
    cut: str,
    bottleneck: int | None,
    front: int | None,
    widths: tuple[int, ...],
) -> SplitModel:
    """The model; `widths` are what the function `widths` says. `models.build` checks the arguments."""
    left, right = BLOCKS[: CUTS[cut]], BLOCKS[CUTS[cut] :]
    stem = [nn.Conv2d(front or 3, 16, 5, padding=2, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)]
    if front is not None:
        stem = conv_bn_relu(3, front) + stem
    channels = left[-1][1]
    narrow, widen = bottleneck_pair(channels, channels, bottleneck)
    encoder = Encoder(*stem, *(Block(*block) for block in left), *narrow)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, classes)]
    server = nn.Sequential(*widen, *(Block(*block) for block in right), *head)
    side = image_size // 2 ** sum(stride == 2 for _, _, stride in left)
    return SplitModel(encoder, server, (encoder.widths[-1], side, side))
