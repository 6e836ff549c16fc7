"""Noise_NoPeek: noise on the feature, with or without the distance-correlation loss.

Sources: Titcombe et al. 2021 (Laplacian noise added after training, scales 0.1, 0.5, 1.0, NoPeek weight 0.1);
released code of the CEM paper (Gaussian noise; whether dCor is included is not said, so its weight is a parameter).
"""

from typing import Literal

from pydantic import Field
from torch import Tensor

from benchmark.defenses import DEFENSES, SHARPEST, add_gaussian, add_laplace
from benchmark.defenses.distcorr import DistCorr


@DEFENSES.register("noise_nopeek")
class NoiseNoPeek(DistCorr):
    """CE + weight * dCor(x, z_clean); z = z_clean + noise."""

    title = "Noise_Nopeek"

    class Params(DistCorr.Params):
        distribution: Literal["gaussian", "laplace"] = Field(description="the noise; laplace: scale = noise_std")
        when: Literal["always", "after_training"] = Field(
            description="always (released), or only once the network is trained (Titcombe et al.)"
        )

    def transform(self, z: Tensor, generator, phase) -> Tensor:
        if phase == "train" and self.params.when == "after_training":
            return z
        if self.params.distribution == "gaussian":
            return add_gaussian(z, self.params.noise_std, generator)
        return add_laplace(z, self.params.noise_std, generator)

    def channel(self):
        return "gaussian" if self.params.distribution == "gaussian" else "other"

    def misfit(self, z_clean: Tensor, z: Tensor) -> Tensor:
        if self.params.distribution == "gaussian":
            return super().misfit(z_clean, z)
        return (z - z_clean).abs().flatten(1).sum(1) / max(self.params.noise_std, SHARPEST)
