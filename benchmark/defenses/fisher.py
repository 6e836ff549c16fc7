"""Fisher: enough Gaussian noise to keep the diagonal Fisher information leakage (dFIL) at a given value.

Source: Maeng, Guo, Kariyappa & Suh, "Bounding the Invertibility of Privacy-preserving Instance Encoding using Fisher
Information", NeurIPS 2023: z = F(x) + N(0, s^2 I) has dFIL = tr(J^T J) / (s^2 d), J = dF/dx, and no unbiased attacker
has a mean squared error below 1 / dFIL. Simplified: one s for all images, so that the leakage is met on average and not
for each image; a running estimate of tr(J^T J) instead of the trace itself; and the encoder is not trained towards a
smaller J; the noise adapts to J instead.
"""

import torch
from pydantic import Field
from torch import Tensor

from benchmark.config import Count, NotNegative, Positive
from benchmark.defenses import DEFENSES, SHARPEST, Defense, add_gaussian


@DEFENSES.register("fisher")
class Fisher(Defense):
    """z = z_clean + s N(0, I), s = max(noise_std, sqrt(E tr(J^T J) / (leakage d))); x in [0, 1]^d, d = 3 H W.

    In every step, for some of the batch's images, tr(J^T J) is estimated by |J^T v|^2 with v ~ N(0, I) in the feature's
    space (Hutchinson's estimate, unbiased), the encoder in evaluation mode. The mean of about the last `window` steps
    is used; s is a constant to the gradient. As E 1 / dFIL(x) >= 1 / E dFIL(x), the error of unbiased attackers,
    averaged over images, is at least 1 / leakage, in squared units of a pixel.
    """

    title = "Fisher noise"
    learned = ("sensitivity",)
    sensitivity: Tensor
    steps: Tensor

    class Params(Defense.Params):
        noise_std: NotNegative = Field(description="least standard deviation of the noise, which CEM assumes")
        leakage: Positive = Field(description="dFIL, on average over images in [0, 1]")
        images: Count = Field(description="images of each batch whose Jacobian is probed")
        window: Count = Field(description="steps that the running mean is over")

    def __init__(self, params: Params, setting):
        super().__init__(params, setting)
        self.register_buffer("sensitivity", torch.zeros(()))  # E tr(J^T J)
        self.register_buffer("steps", torch.zeros(()))

    def std(self) -> Tensor:
        """s, 0-dim, in units of the feature."""
        pixels = 3 * self.setting.image_size**2
        return (self.sensitivity / (self.params.leakage * pixels)).sqrt().clamp_min(self.params.noise_std)

    def noise_level(self) -> float:
        return self.std().item()

    def before_step(self, x01, x, encode) -> None:
        """One more estimate. torch's own generator draws v: the loop saves its state."""
        some = x[: self.params.images].detach().requires_grad_()
        feature = encode(some, gradient=True).float()
        (product,) = torch.autograd.grad(feature, some, torch.randn_like(feature))
        estimate = (product * slope(x01, x)).square().sum() / len(some)
        self.steps += 1
        weight = (1 / self.steps).clamp_min(1 / self.params.window)
        self.sensitivity.lerp_(estimate, weight)

    def transform(self, z: Tensor, generator, phase) -> Tensor:
        return add_gaussian(z, self.std(), generator)

    def channel(self):
        return "gaussian"

    def misfit(self, z_clean: Tensor, z: Tensor) -> Tensor:
        """Gaussian of standard deviation s."""
        return ((z - z_clean) / self.std().clamp_min(SHARPEST)).square().flatten(1).sum(1) / 2

    def end_epoch(self, epoch, model, optimizer) -> dict[str, float]:
        """noise_std: s after the epoch."""
        return {"noise_std": self.noise_level()}


def slope(x01: Tensor, x: Tensor) -> Tensor:
    """dx/dx01 [1, 3, 1, 1] of the normalisation, which is affine in each channel: the ratio of the two spreads."""
    spread01, spread = (side.std((0, 2, 3), keepdim=True) for side in (x01, x))
    return spread / spread01.clamp_min(1e-6)
