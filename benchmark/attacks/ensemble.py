"""For each image, the best reconstruction by any other attacker of the row: an upper bound, not an attack.

The best attacker is chosen for each image and metric by looking at the original, which a real attacker does not have.
So no rule that chooses among these attackers can do better.
"""

import torch
from torch import Tensor

from benchmark.attacks.base import ATTACKS, Selection


@ATTACKS.register("ensemble")
class Ensemble(Selection):
    """For each image, the lowest MSE and the highest SSIM; a member's NaN does not count."""

    title = "best of all (oracle)"
    one_feature = False
    by_image = True

    def select(self, members: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
        def stacked(metric: str, worst: float) -> Tensor:
            values = torch.stack([values[metric] for values in members.values()])
            return torch.where(values.isnan(), worst, values)

        return {"mse": stacked("mse", torch.inf).amin(0), "ssim": stacked("ssim", -1.0).amax(0)}
