"""The strongest reconstruction of each image that any other attacker of the row made: an upper bound, not an attack.

Which attacker did best on an image is chosen with the image itself at hand, which nobody who attacks has, and for each
metric on its own. So no single attacker that knew which of them to believe could do better.
"""

import torch
from torch import Tensor

from benchmark.attacks.base import ATTACKS, Selection


@ATTACKS.register("ensemble")
class Ensemble(Selection):
    """For each image, the lowest MSE and the highest SSIM; a member's NaN does not count."""

    title = "best of all (oracle)"
    one_feature = False

    def select(self, members: dict[str, dict[str, Tensor]], chosen: dict[str, str]) -> dict[str, Tensor]:
        def stacked(metric: str, worst: float) -> Tensor:
            values = torch.stack([values[metric] for values in members.values()])
            return torch.where(values.isnan(), worst, values)

        return {"mse": stacked("mse", torch.inf).amin(0), "ssim": stacked("ssim", -1.0).amax(0)}
