"""Noise_ARL: an adversary on the clean feature, Gaussian noise on the path to the server.

Source: released code of the CEM paper. Jeong et al., UAI 2023, train an attribute classifier instead of a decoder,
which needs a private attribute for each image; that variant is not included.
"""

from torch import Tensor

from benchmark.defenses.base import DEFENSES
from benchmark.defenses.ressfl import ResSFL


@DEFENSES.register("noise_arl")
class NoiseARL(ResSFL):
    """ResSFL's game, played on z_clean."""

    def view(self, z_clean: Tensor, z: Tensor) -> Tensor:
        return z_clean
