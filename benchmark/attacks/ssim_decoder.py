"""The paper's decoder fitted on SSIM itself: the right attacker for the SSIM column.

A decoder fitted by MSE gives a mean image, which is blurred, and SSIM penalises blur. So its SSIM says less about a
defence than the SSIM of a decoder fitted on SSIM. The loss is 1 - SSIM as the benchmark measures it (metrics/ssim.py).
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
