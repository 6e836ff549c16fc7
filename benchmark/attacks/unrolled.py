"""An unrolled network: each stage encodes the current guess, compares it with the feature, and corrects the guess.

The paper's decoder makes a first guess. Each stage sees the guess x, the feature as sent z, the residual z - F_e(x)
and the gradient by x of -log p(z | F_e(x)), as a step of white-box descent would. It adds the output of a small network
on these (after learned primal-dual reconstruction, Adler & Oktem, IEEE TMI 2018). Each stage has a loss of its own and
passes on its guess without a gradient, so nothing is differentiated twice and the encoder never changes.
"""

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import interpolate

from benchmark.attacks.base import ATTACKS
from benchmark.attacks.network import NetworkAttack
from benchmark.config import Count
from benchmark.models import macs
from benchmark.models.decoder import Decoder
from benchmark.models.split import conv3x3
from benchmark.training.casts import cast_once


@ATTACKS.register("unrolled")
class UnrolledAttack(NetworkAttack):
    """Minimises the mean over the stages of ||x_k - x||^2; the last stage answers."""

    class Params(NetworkAttack.Params):
        blocks: Count = Field(description="residual blocks of the decoder that makes the first guess")
        stages: Count = Field(description="stages after it")
        channels: Count = Field(description="channels of a stage's network")

    @classmethod
    def macs(cls, params, scale):
        shape = (2 * scale.feature[0] + 6, scale.image_size, scale.image_size)
        # a stage runs through the encoder and back to the pixels; that pass is not differentiated again
        stage = macs.forward(_stage, shape, params.channels) + scale.encoder
        return super().macs(params, scale) + params.stages * stage

    def network(self) -> nn.Module:
        shape, params = self.target.feature_shape, self.params
        stages = (Stage(2 * shape[0] + 6, params.channels) for _ in range(params.stages))
        first = Decoder(shape, self.target.image_size, blocks=params.blocks)
        return nn.ModuleDict({"first": first, "stages": nn.ModuleList(stages)})

    def rebuild(self, network: nn.ModuleDict, z: Tensor) -> Tensor:
        """The guesses after every stage, fp32 [1 + stages, B, 3, H, W]."""
        guesses = [cast_once(network["first"], z).float()]
        for stage in network["stages"].children():
            x01 = guesses[-1].detach().clamp(0, 1)
            residual, gradient = self.look(x01, z)
            enlarged = interpolate(torch.cat([z, residual], 1), size=x01.shape[2:])
            guesses.append(x01 + cast_once(stage, torch.cat([x01, gradient, enlarged], 1)).float())
        return torch.stack(guesses)

    def answer(self, rebuilt: Tensor) -> Tensor:
        return rebuilt[-1]

    def loss(self, rebuilt: Tensor, x01: Tensor) -> Tensor:
        return (rebuilt - x01).square().mean()

    def look(self, x01: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Residual [B, C, h, w] over the elements kept, and the gradient by x01 [B, 3, H, W] at a mean square of 1."""
        with torch.enable_grad():
            x01 = x01.detach().requires_grad_()
            z_clean = self.target.encode(x01.contiguous(memory_format=torch.channels_last))
            (gradient,) = torch.autograd.grad(self.target.misfit(z_clean, z).sum(), x01)
        scale = gradient.square().mean((1, 2, 3), keepdim=True).sqrt() + 1e-12
        return ((z - z_clean) * self.target.kept(z)).detach(), gradient / scale


def _stage(shape: tuple[int, int, int], channels: int) -> "Stage":
    return Stage(shape[0], channels)


class Stage(nn.Module):
    """[B, inputs, H, W] -> the correction of an image, [B, 3, H, W]; at first 0.

    Without BatchNorm: its running statistics would come from guesses that earlier stages no longer make.
    """

    def __init__(self, inputs: int, channels: int):
        super().__init__()
        self.head, self.tail = conv3x3(inputs, channels), conv3x3(channels, 3)
        self.blocks = nn.ModuleList(
            nn.Sequential(conv3x3(channels, channels), nn.ReLU(), conv3x3(channels, channels)) for _ in range(2)
        )
        for parameter in self.tail.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x)
        for block in self.blocks:
            x = x + block(x)
        return self.tail(x)
