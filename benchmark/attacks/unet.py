"""A U-Net as the decoder, with the same side information about the defence as `informed`.

It sees each position of the feature in a wider neighbourhood than the paper's decoder, which works only at the
feature's size before it enlarges; and it refines at every size.
"""

from pydantic import Field
from torch import Tensor, nn

from benchmark.attacks.base import ATTACKS
from benchmark.attacks.informed import Briefing
from benchmark.attacks.network import NetworkAttack
from benchmark.config import Count
from benchmark.models import macs
from benchmark.models.unet import UNet


@ATTACKS.register("unet")
class UNetAttack(NetworkAttack):
    """Minimises ||U(z, mask, linear estimate of z_hat) - x||^2."""

    title = "U-Net"

    class Params(NetworkAttack.Params):
        channels: Count = Field(description="channels at the image's size, twice as many after each halving")

    @classmethod
    def macs(cls, params, scale):
        return macs.forward(UNet, scale.feature, scale.image_size, params.channels)

    def build(self) -> None:
        self.briefing = Briefing(self.target, self.noise)
        super().build()

    def network(self) -> nn.Module:
        return UNet(self.briefing.shape, self.target.image_size, self.params.channels)

    def rebuild(self, network: nn.Module, z: Tensor) -> Tensor:
        return super().rebuild(network, self.briefing(z))
