"""The attackers' decoder: feature -> image. Supplement S3 and figure S1; details from the released code."""

import math

import torch
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.models.convolution import Conv, Transposed
from benchmark.models.layers import BatchNorm2d, Layers
from benchmark.models.split import conv3x3

WIDTH = 64


class ResidualBlock(nn.Module):
    """BN, ReLU, conv3x3, BN, ReLU, conv3x3, plus shortcut: [B, inputs, H, W] -> [B, outputs, H, W].

    The shortcut is a 1x1 conv without bias and BN where the widths differ, else the identity.
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        # not in place: the first BN's input is also that of the shortcut
        self.body = Layers(
            BatchNorm2d(inputs), nn.ReLU(), conv3x3(inputs, outputs),
            BatchNorm2d(outputs), nn.ReLU(), conv3x3(outputs, outputs),
        )  # fmt: skip
        self.shortcut = nn.Identity()
        if inputs != outputs:
            self.shortcut = Layers(Conv(inputs, outputs, 1, bias=False), BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.shortcut(x)


class Decoder(Layers):
    """Feature [B, C, h, w] -> image in [0, 1], [B, 3, image_size, image_size].

    711,539 parameters for (8, 8, 8) -> 32 px (the supplement prints 711.54k). One transposed conv per
    doubling; a residual block stands in for each of the first two doublings that is not needed. blocks:
    residual blocks before them (8; 4 in the ResSFL adversary). Initial weights are torch's, as released; the adversary
    uses `xavier_`. Raises UserError unless doubling the feature's size a whole number of times gives the image's.
    """

    def __init__(self, feature_shape: tuple[int, int, int], image_size: int, blocks: int = 8):
        channels, doublings = feature_shape[0], doublings_of(feature_shape, image_size)
        layers = [ResidualBlock(channels, WIDTH), nn.ReLU()]
        for _ in range(blocks):
            layers += [ResidualBlock(WIDTH, WIDTH), nn.ReLU()]
        for _ in range(doublings):
            layers += [Doubling(), BatchNorm2d(WIDTH), nn.ReLU()]
        for _ in range(2 - doublings):
            layers += [ResidualBlock(WIDTH, WIDTH), nn.ReLU()]
        super().__init__(*layers, ResidualBlock(WIDTH, 3), nn.Sigmoid())


@torch.no_grad()
def xavier_(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases for all convs of `module`, including transposed ones: the release starts
    its VGG encoders and its adversaries in this way."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                layer.bias.zero_()


class LargeDecoder(nn.Module):
    """Feature [B, C, h, w] -> image in [0, 1], [B, 3, image_size, image_size].

    A conv to `width` channels; a trunk of `blocks` residual blocks with a skip around it; for each doubling a conv and
    a pixel shuffle, then `tail` residual blocks of half the channels (64 at least); a conv; Sigmoid. Raises UserError
    as `Decoder` does.
    """

    def __init__(self, feature_shape: tuple[int, int, int], image_size: int, blocks: int, width: int, tail: int):
        super().__init__()
        doublings = doublings_of(feature_shape, image_size)
        self.head = conv3x3(feature_shape[0], width)
        self.trunk = nn.Sequential(*(ResidualBlock(width, width) for _ in range(blocks)))
        layers = []
        for _ in range(doublings):
            narrower = max(width // 2, WIDTH)
            layers += [conv3x3(width, 4 * narrower), nn.PixelShuffle(2)]
            layers += [ResidualBlock(narrower, narrower) for _ in range(tail)]
            width = narrower
        self.rise = Layers(*layers, BatchNorm2d(width), nn.ReLU(), conv3x3(width, 3), nn.Sigmoid())

    def forward(self, z: Tensor) -> Tensor:
        z = self.head(z)
        return self.rise(z + self.trunk(z))


def doublings_of(feature_shape: tuple[int, int, int], image_size: int) -> int:
    """How often the feature's size has to be doubled to give the image's."""
    _, height, width = feature_shape
    doublings = round(math.log2(image_size / height))
    if height != width or doublings < 0 or height << doublings != image_size:
        raise UserError(
            f"a decoder from {height}x{width} to {image_size} px needs a whole number of doublings; "
            "choose another cut or image size"
        )
    return doublings


class Doubling(Transposed):
    """Transposed 3x3 conv of stride 2: [B, WIDTH, H, W] -> [B, WIDTH, 2H, 2W]."""

    def __init__(self):
        super().__init__(WIDTH, WIDTH, 3, stride=2, padding=1, output_padding=1)
