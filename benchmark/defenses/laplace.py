"""Laplace: the feature's L1 norm is bounded, and Laplacian noise makes each release of it differentially private.

Sources: the Laplace mechanism, Dwork, McSherry, Nissim & Smith, TCC 2006; bounded features with Laplacian noise on a
device: Wang et al., "Not Just Privacy: Improving Performance of Private Deep Learning in Mobile Cloud" (ARDEN),
KDD 2018, which bounds another norm, also nulls parts of the input and trains the server on noisy samples beside clean
ones; neither is included.
"""

import math

from pydantic import Field
from torch import Tensor

from benchmark.config import Positive, Strict
from benchmark.defenses import DEFENSES, SHARPEST, Defense, add_laplace


@DEFENSES.register("laplace")
class Laplace(Defense):
    """z = clip(z_clean) + Laplace(0, b) for each element; clip(a) = a min(1, bound / |a|_1) and b = 2 bound / epsilon.

    |a|_1 sums over all elements of one image's feature. Two clipped features are at most 2 bound apart in L1 norm, so
    log p(z | x) / p(z | x') <= epsilon for any two images: epsilon-local differential privacy of one release. An image
    sent n times has n epsilon. This simulates the mechanism; its draws in float32 are not a hardened one.
    """

    title = "Laplace"

    class Params(Strict):
        bound: Positive = Field(description="largest L1 norm of a feature")
        epsilon: Positive = Field(description="privacy loss in nats of one release of a feature")

        @property
        def scale(self) -> float:
            """b, in units of the feature."""
            return 2 * self.bound / self.epsilon

        @property
        def noise_std(self) -> float:
            """The noise's standard deviation, which CEM assumes."""
            return math.sqrt(2) * self.scale

    def clipped(self, z: Tensor) -> Tensor:
        """[B, C, h, w] -> the same, each image's L1 norm at most `bound`."""
        z = z.float()
        norm = z.abs().sum((1, 2, 3), keepdim=True)
        return z * (self.params.bound / norm.clamp_min(self.params.bound))

    def transform(self, z: Tensor, generator, phase) -> Tensor:
        return add_laplace(self.clipped(z), self.params.scale, generator)

    def misfit(self, z_clean: Tensor, z: Tensor) -> Tensor:
        """Laplacian, about the clipped feature."""
        return (z - self.clipped(z_clean)).abs().flatten(1).sum(1) / max(self.params.scale, SHARPEST)
