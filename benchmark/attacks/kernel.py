"""The posterior mean over the attacker's own images: Bayes' estimate if these were all the images there are.

x_hat(z) = sum_i w_i x_i with w_i in proportion to p(z | F_e(x_i))^(1 / T), by the defence's own noise and over the
elements that no mask zeroed: for Gaussian noise exp(-||z - F_e(x_i)||^2 / (2 T sigma^2)), the estimator of Nadaraya and
of Watson (1964). T = 1 is exact for that prior. In many dimensions it is almost the nearest image alone, so the noise
is widened, T > 1; the best T is chosen on held-out images. T towards infinity gives the mean image. Nothing is
trained: an attack that is weaker than this floor has failed.
"""

import functools
import math

import torch
from pydantic import Field
from torch import Tensor

from benchmark.attacks.base import ATTACKS, unit
from benchmark.attacks.held_out import ClosedForm
from benchmark.config import Count, Strict

CHOOSERS = 512  # held-out images that T is chosen on, at most
QUERIES = 32  # features at once in the choice of T, with a row of weights for each T
IMAGES = 4096  # of the attacker's images at once
ELEMENTS = 2**24  # of features at once, if the likelihood is computed pair by pair
PROBES, ALIKE = 64, 1e-3  # pairs that tell whether the likelihood is a squared distance, and how alike their ratios are


@ATTACKS.register("kernel")
class KernelAttack(ClosedForm):
    """It holds the matrix of images by features for only one batch of features at a time."""

    state = ("temperature",)

    class Params(Strict):
        doublings: Count = Field(description="the noise is widened by factors of 2 up to 2^doublings, T = 4^k")

    @classmethod
    def flop(cls, params, scale):
        size, pixels = math.prod(scale.feature), 3 * scale.image_size**2
        return 2.0 * scale.scored * scale.fitted * (2 * size + pixels)

    def solve(self) -> None:
        self.temperature = 1.0
        temperatures = [4.0**k for k in range(self.params.doublings + 1)]
        errors = torch.zeros(len(temperatures), dtype=torch.float64, device=self.target.device)
        choosers = (part[:CHOOSERS].split(QUERIES) for part in (self.held_out.z, self.held_out.images))
        for z, images in zip(*choosers, strict=True):
            self.monitor.preparing("choosing the width of the kernel")
            means = self._means(z, temperatures)
            errors += (means - unit(images).flatten(1)).double().square().sum((1, 2))
        self.temperature = temperatures[int(errors.argmin())]

    @torch.no_grad()
    def reconstruct(self, z: Tensor) -> Tensor:
        return self._means(z, [self.temperature])[0].unflatten(1, self.target.images.shape[1:])

    def _means(self, z: Tensor, temperatures: list[float]) -> Tensor:
        """z [B, C, h, w] -> the posterior means at each temperature, [T, B, pixels], fp32."""
        misfits = self._misfits(z)
        weights = torch.cat([torch.softmax(-misfits / t, 1).float() for t in temperatures])
        parts = zip(weights.split(IMAGES, 1), self.target.images.split(IMAGES), strict=True)
        means = torch.as_tensor(sum(part @ unit(images).flatten(1) for part, images in parts))
        return means.unflatten(0, (len(temperatures), len(z)))

    def _misfits(self, z: Tensor) -> Tensor:
        """Negative log-likelihoods of z [B, C, h, w] given each of the attacker's N images, float64 [B, N]."""
        if self.factor is None:
            return torch.stack([self._one_by_one(one) for one in z.split(1)])
        kept = self.target.kept(z).flatten(1).double()
        sent, parts = z.flatten(1).double() * kept, []
        for clean in self.target.features.split(IMAGES):
            a = clean.flatten(1).double()
            parts.append(kept @ a.square().T - 2 * sent @ a.T)
        return self.factor * (torch.cat(parts, 1) + sent.square().sum(1, keepdim=True))

    def _one_by_one(self, z: Tensor) -> Tensor:
        """Of one feature as sent [1, C, h, w], float64 [N]."""
        parts = self.target.features.split(max(1, ELEMENTS // z.numel()))
        return torch.cat([self.target.misfit(part, z.expand_as(part)) for part in parts]).double()

    @functools.cached_property
    def factor(self) -> float | None:
        """c if the misfit is c times the squared distance over the elements kept, as for Gaussian noise; all pairs are
        then matrix products. None if the ratio of the two differs between some probes."""
        clean = self.target.features[:PROBES]
        z = self.held_out.z[torch.arange(len(clean), device=clean.device) % len(self.held_out.z)]
        distances = ((z - clean) * self.target.kept(z)).flatten(1).double().square().sum(1)
        ratios = self.target.misfit(clean, z).double() / distances.clamp_min(1e-30)
        low, high = ratios.min().item(), ratios.max().item()
        return (low + high) / 2 if high - low <= ALIKE * high else None
