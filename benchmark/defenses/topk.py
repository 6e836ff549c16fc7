"""Top-k: of each feature only the largest elements are sent, the others are zero.

Source: top-k sparsification of the cut layer, Zheng, Chen, Lyu & Yao, "Reducing Communication for Split Learning by
Randomized Top-k Sparsification", IJCAI 2023, there to save traffic; that paper's randomised choice is not included.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from benchmark.config import Fraction
from benchmark.defenses import DEFENSES, SHARPEST, Masking
from benchmark.defenses.intervals import log_between


@DEFENSES.register("topk")
class TopK(Masking):
    """z = mask * (z_clean + noise); the mask keeps the round(share * d), at least 1, of largest magnitude.

    d: elements of a feature, all channels together. No rescaling. The gradient passes where the mask is 1.
    """

    title = "Top-k"

    class Params(Masking.Params):
        share: Annotated[Fraction, Field(gt=0)] = Field(description="share of a feature's elements that is sent")

    def transform(self, z: Tensor, generator, phase) -> Tensor:
        z = super().transform(z, generator, phase)
        flat = z.flatten(1)
        count = max(1, round(self.params.share * flat.shape[1]))
        largest = flat.detach().abs().topk(count, dim=1).indices
        return z * torch.zeros_like(flat).scatter(1, largest, 1).view_as(z)

    def misfit(self, z_clean: Tensor, z: Tensor) -> Tensor:
        """-log p(z | z_clean) up to a constant: Gaussian over the elements kept; each other element, with its noise,
        had a smaller magnitude than the smallest kept."""
        kept = self.kept(z)
        least = z.abs().masked_fill(~kept, torch.inf).flatten(1).amin(1).clamp(1e-6, 1e6)
        least = least.view(-1, *[1] * (z.dim() - 1)).expand_as(z)
        below = log_between(-least, least, z_clean, max(self.params.noise_std, SHARPEST))
        return super().misfit(z_clean, z) - below.masked_fill(kept, 0).flatten(1).sum(1)
