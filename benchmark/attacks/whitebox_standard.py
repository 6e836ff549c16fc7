"""White-box inversion that is also measured on held-out images, so that it can be chosen among others.

It optimises the held-out images together with those under attack, each image by itself, so the results of the latter do
not change. All start from the mean of the attacker's other images.
"""

from dataclasses import replace

import torch
from torch import Tensor

from benchmark.attacks.base import ATTACKS, Target, unit
from benchmark.attacks.held_out import judged, set_aside
from benchmark.attacks.whitebox import WhiteBoxAttack


@ATTACKS.register("whitebox_standard")
class StandardWhiteBox(WhiteBoxAttack):
    """`whitebox`, also run on 5 % of the attacker's images."""

    title = "white-box, judged"

    def __init__(self, params, target: Target):
        target, self.held_out = set_aside(target)
        self.asked = len(target.received)
        super().__init__(params, replace(target, received=torch.cat([target.received, self.held_out.z])))

    def reconstructions(self):
        left = self.asked
        for batch in super().reconstructions():
            if left > 0:
                yield batch[:left]
            left -= len(batch)

    def found(self, values: dict[str, float]) -> dict[str, float]:
        everything: Tensor = torch.cat(list(super().reconstructions()))
        return judged(everything[self.asked :], unit(self.held_out.images))
