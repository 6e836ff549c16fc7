"""The paper's decoder, on a schedule of its own, with averaged weights; the mean of several."""

from pydantic import Field
from torch import nn

from benchmark.attacks.base import ATTACKS
from benchmark.attacks.network import NetworkAttack
from benchmark.config import Count
from benchmark.models.decoder import Decoder


@ATTACKS.register("converged")
class ConvergedAttack(NetworkAttack):
    """The mean of several decoders of 711,539 parameters (8x8x8 to 32 px), each fitted by MSE."""

    class Params(NetworkAttack.Params):
        blocks: Count = Field(description="residual blocks of 64 channels")

    def network(self) -> nn.Module:
        return Decoder(self.target.feature_shape, self.target.image_size, blocks=self.params.blocks)
