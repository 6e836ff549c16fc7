"""A network cut in two: the encoder on the device, the server model in the cloud."""

from torch import Tensor, nn

from benchmark.models.convolution import Conv
from benchmark.models.layers import Layers


class Encoder(Layers):
    """Normalised images [B, 3, H, W] -> clean feature [B, C, h, w]."""

    @property
    def convs(self) -> list[nn.Conv2d]:
        """The conv layers in the order in which data passes through them."""
        return [module for module in self.modules() if isinstance(module, nn.Conv2d)]

    @property
    def widths(self) -> tuple[int, ...]:
        """Output channels of every conv layer, front and bottleneck included; `build` takes them back."""
        return tuple(conv.out_channels for conv in self.convs)


class SplitModel(nn.Module):
    """encoder: normalised images [B, 3, H, W] -> feature [B, C, h, w]; server: feature -> logits [B, K].

    feature_shape: (C, h, w).
    """

    def __init__(self, encoder: Encoder, server: nn.Module, feature_shape: tuple[int, int, int]):
        super().__init__()
        self.encoder, self.server, self.feature_shape = encoder, server, feature_shape

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes] of the undefended path: no noise, no mask."""
        return self.server(self.encoder(x))


def conv3x3(inputs: int, outputs: int) -> nn.Conv2d:
    return Conv(inputs, outputs, 3, padding=1)


def bottleneck_pair(inputs: int, outputs: int, width: int | None) -> tuple[list[nn.Module], list[nn.Module]]:
    """End of the encoder, start of the server: conv inputs -> width, Sigmoid | conv width -> outputs.

    Neither conv has a BatchNorm or a ReLU (released code: "noRELU, 8 channels, stride 1"). Two empty lists
    where `width` is None.
    """
    if width is None:
        return [], []
    return [conv3x3(inputs, width), nn.Sigmoid()], [conv3x3(width, outputs)]
