"""The GAN attack's critic. Architecture: released code (after Zhang et al., CVPR 2020)."""

import math

from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.models.convolution import PenaltyConv


class Critic(nn.Module):
    """Images [B, 3, image_size, image_size] -> one unbounded value each, [B].

    Three 5x5 convs of stride 2 (64, 128, 256 channels; InstanceNorm on the last two; LeakyReLU 0.2) and a 4x4
    conv to one channel. Its map is 1x1 at 32 px; at other sizes the map is averaged. Raises UserError below
    25 px.
    """

    def __init__(self, image_size: int):
        super().__init__()
        if image_size < 25:
            raise UserError(f"the GAN critic needs images of 25 px or more, not {image_size} px")
        self.layers = nn.Sequential(
            _halving(3, 64, first=True), nn.LeakyReLU(0.2),
            _halving(64, 128), nn.InstanceNorm2d(128, affine=True), nn.LeakyReLU(0.2),
            _halving(128, 256), nn.InstanceNorm2d(256, affine=True), nn.LeakyReLU(0.2),
            PenaltyConv(256, 1, 4),
        )  # fmt: skip

    @staticmethod
    def places(image_size: int) -> int:
        """Elements of its map: 1, 9 and 25 at 32, 48 and 64 px."""
        side = math.ceil(image_size / 8)  # each of the three halvings rounds up
        return (side - 3) ** 2

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).mean((1, 2, 3))


def _halving(inputs: int, outputs: int, first: bool = False) -> PenaltyConv:
    conv = PenaltyConv(inputs, outputs, 5, stride=2, padding=2)
    conv.first = first
    return conv
