"""A U-Net from a feature to an image (Ronneberger et al., MICCAI 2015), with residual blocks."""

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from benchmark.models.decoder import ResidualBlock, doublings_of
from benchmark.models.layers import BatchNorm2d, Layers
from benchmark.models.split import conv3x3


class UNet(nn.Module):
    """Feature [B, C, h, w] -> image in [0, 1], [B, 3, image_size, image_size].

    The feature is enlarged to the image's size, then halved step by step down to half of its own size, and enlarged
    again, with a skip at each size; `channels` at the image's size, twice as many after each halving. Raises UserError
    unless doubling the feature's size a whole number of times gives the image's.
    """

    def __init__(self, feature_shape: tuple[int, int, int], image_size: int, channels: int):
        super().__init__()
        below = feature_shape[1] % 2 == 0  # an odd map is not halved
        widths = [channels * 2**level for level in range(doublings_of(feature_shape, image_size) + below + 1)]
        pairs = list(zip(widths, widths[1:], strict=False))
        self.size = image_size
        self.head = nn.Sequential(conv3x3(feature_shape[0], channels), ResidualBlock(channels, channels))
        self.down = nn.ModuleList(
            nn.Sequential(nn.AvgPool2d(2), ResidualBlock(narrow, wide), ResidualBlock(wide, wide))
            for narrow, wide in pairs
        )
        self.up = nn.ModuleList(
            nn.Sequential(ResidualBlock(wide + narrow, narrow), ResidualBlock(narrow, narrow))
            for narrow, wide in reversed(pairs)
        )
        self.tail = Layers(BatchNorm2d(channels), nn.ReLU(), conv3x3(channels, 3), nn.Sigmoid())

    def forward(self, z: Tensor) -> Tensor:
        maps = [self.head(interpolate(z, size=(self.size, self.size)))]
        for layers in self.down:
            maps.append(layers(maps[-1]))
        x = maps.pop()
        for layers in self.up:
            x = layers(torch.cat([interpolate(x, scale_factor=2), maps.pop()], 1))
        return self.tail(x)
