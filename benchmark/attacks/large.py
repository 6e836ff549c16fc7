"""A larger decoder with the informed one's inputs: wider, deeper, a long skip, and more than one conv at each size.

It is built like a network for super-resolution, a similar task: a trunk of residual blocks with a skip around it and
sub-pixel upsampling, after SRResNet (Ledig et al., CVPR 2017). It also has blocks at each resolution, which cost little
for such small images.
"""

from pydantic import Field
from torch import nn

from benchmark.attacks.base import ATTACKS
from benchmark.attacks.informed import InformedAttack
from benchmark.config import Count
from benchmark.models import macs
from benchmark.models.decoder import LargeDecoder


@ATTACKS.register("large")
class LargeDecoderAttack(InformedAttack):
    """The informed attack with `LargeDecoder`."""

    title = "larger"

    class Params(InformedAttack.Params):
        width: Count = Field(description="channels of the trunk; half of them after each doubling, 64 at least")
        tail: Count = Field(description="residual blocks after each doubling")

    @classmethod
    def macs(cls, params, scale):
        return macs.forward(LargeDecoder, scale.feature, scale.image_size, params.blocks, params.width, params.tail)

    def network(self) -> nn.Module:
        params = self.params
        return LargeDecoder(self.briefing.shape, self.target.image_size, params.blocks, params.width, params.tail)
