"""The standard suite's answer: the strongest of the row's attackers, chosen without looking at the images under attack.

Each attacker says how well it rebuilds its held-out images (held_out.py), the same for all. For MSE and PSNR the one
with the lowest MSE there is taken, for SSIM the one with the highest SSIM there. The tables show its score on the
images under attack. So this is an attack that somebody can carry out, not a bound.
"""

import math

from benchmark.attacks.base import ATTACKS, Selection
from benchmark.attacks.held_out import MSE, SSIM
from benchmark.errors import UserError


@ATTACKS.register("standard")
class Standard(Selection):
    """One attacker for each metric; those without held-out images cannot be chosen."""

    title = "standard (chosen)"

    def choose(self, found: dict[str, dict[str, float]]) -> dict[str, str]:
        """UserError if no attacker of the row has metrics on held-out images."""
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
