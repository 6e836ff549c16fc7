"""The paper's decoder fitted on SSIM itself: the attacker that the SSIM column has to stand up to.

A decoder fitted by MSE answers with a mean, which is blurred, and SSIM marks blur down; so its SSIM says less of a
defence than that of one which was fitted on it. The loss is 1 - SSIM as the benchmark measures it (metrics/ssim.py).
"""

from torch import Tensor

from benchmark.attacks.base import ATTACKS
from benchmark.attacks.converged import ConvergedAttack
from benchmark.metrics.ssim import ssim_per_image


@ATTACKS.register("ssim_decoder")
class SSIMDecoderAttack(ConvergedAttack):
    """Minimises 1 - SSIM(D(z), x)."""

    title = "SSIM decoder"

    def loss(self, rebuilt: Tensor, x01: Tensor) -> Tensor:
        return 1 - ssim_per_image(rebuilt, x01).mean()
