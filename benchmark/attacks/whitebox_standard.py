"""White-box inversion under a Gaussian prior, measured on held-out images too, so that it can be chosen among others.

Minimises -log p(z | F_e(x)) + |u|^2 / 2 over u, x = mean + L u, where L L^T is the covariance of the attacker's images:
the most probable image if images were normally distributed. For a linear encoder and Gaussian noise that is the best
linear estimate, as of `ridge`; here the encoder itself is used, not a linear fit of it. No weight has to be chosen,
unlike for the total variation of `whitebox`. Each column of L is a principal axis, so Adam's steps are scaled by axis.
The held-out images are optimised together with those under attack, each by itself. With fewer images than pixels only
what lies in the images' span can be rebuilt, which makes it a weaker attack than its name says.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmark.attacks.base import ATTACKS, SCORE_BATCH, Target, mean_image, unit
from benchmark.attacks.held_out import judged, set_aside
from benchmark.attacks.whitebox import Descent

LEAST = 1e-4  # [ours] added to every axis's variance: a standard deviation of 0.01, for axes on which few images differ


@ATTACKS.register("whitebox_standard")
class StandardWhiteBox(Descent):
    """The unknowns are coordinates u on the principal axes of the attacker's images, at first 0 (the mean image)."""

    title = "white-box, Gaussian prior"

    @classmethod
    def flop(cls, params: Any, scale):
        """Of each step, the change of coordinates and back as well."""
        pixels = 3 * scale.image_size**2
        return super().flop(params, scale) + 4.0 * pixels**2 * scale.scored * params.iterations

    def __init__(self, params, target: Target):
        target, self.held_out = set_aside(target)
        self.asked = len(target.received)
        self.restored: Tensor | None = None
        super().__init__(params, replace(target, received=torch.cat([target.received, self.held_out.z])))

    def first_guess(self, count: int) -> Tensor:
        self.mean, self.axes = principal_axes(self.target.images)
        return torch.zeros(count, len(self.axes), device=self.mean.device)

    def image(self, unknowns: Tensor) -> Tensor:
        return (self.mean + unknowns @ self.axes).unflatten(1, self.target.images.shape[1:])

    def prior(self, unknowns: Tensor, x01: Tensor) -> Tensor:
        return unknowns.square().sum(1) / 2

    def reconstructions(self):
        rebuilt = self._everything()[: self.asked] if self.restored is None else self.restored
        yield from rebuilt.split(SCORE_BATCH)

    def start(self, state: dict) -> None:
        """Take over a finished result's `images`, uint8 [N, 3, H, W]."""
        self.restored = unit(state["images"].to(self.target.device))

    def found(self, values: dict[str, float]) -> dict[str, float]:
        return judged(self._everything()[self.asked :], unit(self.held_out.images))

    def _everything(self) -> Tensor:
        """The images under attack, then the held-out ones, [N, 3, H, W]."""
        return torch.cat(list(super().reconstructions()))


def principal_axes(images: Tensor) -> tuple[Tensor, Tensor]:
    """uint8 [N, 3, H, W] -> mean [p] and principal axes [min(N, p), p] of the images in [0, 1], fp32.

    An axis is as long as the standard deviation along it, LEAST included. Computed in float64.
    """
    parts = images.split(SCORE_BATCH)  # all of them as floats at once may be gigabytes
    mean = mean_image(images, torch.float64).flatten()
    if len(images) < len(mean):  # the images' products have the same variances as the pixels' covariance
        away = unit(images).flatten(1).double() - mean
        variances, across = torch.linalg.eigh(away @ away.T / len(images))
        axes = torch.nn.functional.normalize(across.T @ away, dim=1)
    else:
        covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=images.device)
        for part in parts:
            away = unit(part).flatten(1).double() - mean
            covariance.addmm_(away.T, away, alpha=1 / len(images))
        variances, across = torch.linalg.eigh(covariance)
        axes = across.T
    return mean.float(), (axes * (variances.clamp_min(0) + LEAST).sqrt()[:, None]).float().contiguous()
