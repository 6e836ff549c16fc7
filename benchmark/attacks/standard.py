"""The standard suite's answer: the strongest of the row's attackers, chosen without a look at the images under attack.

Each attacker says how well it rebuilds images that it held out of its own (held_out.py), the same for all. The one with
the lowest MSE there is taken for MSE and PSNR, the one with the highest SSIM there for SSIM, and what stands in the
tables is its score on the images under attack. So this is an attack that somebody can make, and no optimum.
"""

import math

from torch import Tensor

from benchmark.attacks.base import ATTACKS, Selection
from benchmark.attacks.held_out import MSE, SSIM
from benchmark.errors import UserError


@ATTACKS.register("standard")
class Standard(Selection):
    """One attacker for each metric; those that hold no images out cannot be chosen."""

    title = "standard (chosen)"

    def choose(self, found: dict[str, dict[str, float]]) -> dict[str, str]:
        """UserError where no attacker of the row says how it does on images held out."""
        judged = {name: values for name, values in found.items() if math.isfinite(values.get(MSE) or math.nan)}
        if not judged:
            raise UserError(
                "the attacker 'standard' chooses among those that hold images out, and the row has none; add some, for "
                "example ridge and converged, to the suite's `attacker`"
            )
        return {
            "mse": min(judged, key=lambda name: judged[name][MSE]),
            "ssim": max(judged, key=lambda name: judged[name][SSIM]),
        }

    def select(self, members: dict[str, dict[str, Tensor]], chosen: dict[str, str]) -> dict[str, Tensor]:
        return {metric: members[name][metric] for metric, name in chosen.items()}
