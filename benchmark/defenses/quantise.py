"""Quantise: each element of the noisy feature is sent in a few bits.

Sources: the rounding and its gradient are the k-bit quantiser of Zhou et al., DoReFa-Net, arXiv 1606.06160 (2016);
straight-through gradients: Bengio et al., arXiv 1308.3432 (2013). Quantised features in split learning, there to save
traffic: Zheng et al., IJCAI 2023.
"""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from benchmark.defenses import DEFENSES, SHARPEST, Defense
from benchmark.defenses.intervals import OPEN, log_between


@DEFENSES.register("quantise")
class Quantise(Defense):
    """z = Q(z_clean + noise), Q(r) = round((2^b - 1) clip(r, 0, 1)) / (2^b - 1); the gradient of Q is taken as 1.

    The range [0, 1] is fixed: the bottleneck ends in a Sigmoid, so training, evaluation and attack agree without any
    state. The noise comes first, so that what is sent has b bits, and so that rounding can only lose information.
    """

    title = "Quantised"

    class Params(Defense.Params):
        bits: Annotated[int, Field(ge=1, le=16)] = Field(description="b: bits an element is sent in")

    @property
    def steps(self) -> int:
        """Between 0 and 1; the levels are one more."""
        return 2**self.params.bits - 1

    def transform(self, z: Tensor, generator, phase) -> Tensor:
        z = super().transform(z, generator, phase).float()  # bf16 has too few digits for many levels
        rounded = (z.clamp(0, 1) * self.steps).round() / self.steps
        return rounded.detach() + (z - z.detach())  # exactly what was rounded, with the gradient of z

    def channel(self):
        return "processed"

    def misfit(self, z_clean: Tensor, z: Tensor) -> Tensor:
        """-log of the probability that z_clean + noise is rounded to z; values outside the range count at its ends."""
        level = (z * self.steps).round()
        low = ((level - 0.5) / self.steps).masked_fill(level == 0, -OPEN)
        high = ((level + 0.5) / self.steps).masked_fill(level == self.steps, OPEN)
        return -log_between(low, high, z_clean, max(self.params.noise_std, SHARPEST)).flatten(1).sum(1)
