"""Ridge regression from the feature as sent to the image: the best linear attack, in closed form.

W minimises sum_i ||W^T (z_i - mean z) - (x_i - mean x)||^2 + N p ||W||^2 (Hoerl & Kennard, Technometrics 1970), over
the attacker's images, each sent `draws` times with fresh noise and mask. Nothing is trained, so it cannot fail to
converge: a network that it beats has failed.
"""

import math

import torch
from pydantic import Field
from torch import Tensor

from benchmark.attacks.base import ATTACKS, mean_image, unit
from benchmark.attacks.held_out import ClosedForm
from benchmark.config import Count, Strict
from benchmark.training.loop import seeded

BATCH = 2048  # images at once in the sums
PENALTIES = torch.logspace(-8, 2, 11, dtype=torch.float64)  # [ours] p, in mean variances of an element of the feature


@ATTACKS.register("ridge")
class RidgeAttack(ClosedForm):
    """Normal equations in float64; the penalty is the best one on the held-out images."""

    state = ("weights", "mean", "mean_image", "penalty")

    class Params(Strict):
        draws: Count = Field(description="times that each image is sent; 1 where nothing is random")

    @classmethod
    def flop(cls, params, scale):
        size, pixels = math.prod(scale.feature), 3 * scale.image_size**2
        return 2.0 * params.draws * scale.fitted * size * (size + pixels)

    def solve(self) -> None:
        mean, mean_image, covariance, across = self._moments()
        variances, axes = torch.linalg.eigh(covariance)
        across = axes.T @ across
        held = (self.held_out.z.flatten(1).double() - mean) @ axes
        originals = unit(self.held_out.images).flatten(1).double()

        def gains(share: float) -> Tensor:
            return 1 / (variances.clamp_min(0) + share * variances.mean().clamp_min(1e-12))

        errors = [
            ((mean_image + held * gains(share) @ across).clamp(0, 1) - originals).square().mean()
            for share in PENALTIES.tolist()
        ]
        self.penalty = PENALTIES[int(torch.stack(errors).argmin())].item()
        self.weights = (axes * gains(self.penalty) @ across).float()
        self.mean, self.mean_image = mean.float(), mean_image.float()

    def _moments(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Means of feature [d] and image [p], covariance of the feature [d, d], that of feature and image [d, p].

        In float64, from sums over batches; centred on the clean feature's mean and the mean image: no cancellation.
        """
        features, images = self.target.features, self.target.images
        about = features.flatten(1).mean(0).double()
        average, draws = mean_image(images, torch.float64, BATCH).flatten(), self._draws()
        sums, count = torch.zeros_like(about), draws * len(images)
        squares = about.new_zeros(len(about), len(about))
        products = about.new_zeros(len(about), len(average))
        for clean, part in zip(features.split(BATCH), images.split(BATCH), strict=True):
            self.monitor.preparing("normal equations")
            received = torch.zeros_like(clean, dtype=torch.float64).flatten(1)  # in all draws together
            for _ in range(draws):
                z = self.target.send(clean, self.noise).flatten(1).double() - about
                squares.addmm_(z.T, z)
                received += z
            sums += received.sum(0)
            products.addmm_(received.T, unit(part).flatten(1).double() - average)
        shift = sums / count
        return about + shift, average, squares / count - torch.outer(shift, shift), products / count

    def _draws(self) -> int:
        first = self.target.features[:BATCH]
        again = [self.target.send(first, seeded(first.device, "randomness", number)) for number in range(2)]
        return 1 if torch.equal(*again) else self.params.draws

    @torch.no_grad()
    def reconstruct(self, z: Tensor) -> Tensor:
        x = self.mean_image + (z.flatten(1) - self.mean) @ self.weights
        return x.clamp(0, 1).unflatten(1, self.target.images.shape[1:])
