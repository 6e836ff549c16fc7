"""PATROL: a deeper encoder, pruned to the size of the others', trained against an adversary.

Sources: Ding et al., WACV 2024; released code of the CEM paper: one more conv of 16 channels, structured Taylor
pruning by 5 % in one shot at the start of an epoch (180 of 240 in its README), layers of at most 32 channels spared,
three steps of the adversary for each of the encoder's (its script's option for the number is not recognised, so the
default holds). The original's Lipschitz term is in neither code nor formula and is not included.
"""

import math

from pydantic import Field

from benchmark.config import Count, Fraction
from benchmark.defenses import DEFENSES
from benchmark.defenses.ressfl import ResSFL
from benchmark.models import prune


@DEFENSES.register("patrol")
class Patrol(ResSFL):
    """ResSFL's training on a pruned encoder: 64 and 128 channels become 60 and 121, 83,723 parameters (printed 0.083M).

    With quirk q9 the replaced parameters are not trained any more: the released code does not tell its optimiser.
    """

    title = "PATROL"
    version = 3
    train_quirks = ("q8", "q9")

    class Params(ResSFL.Params):
        front: Count = Field(description="channels of the additional conv")
        prune_ratio: Fraction = Field(description="share of a layer's channels that is pruned")
        prune_at: Fraction = Field(
            description="pruned at the start of this fraction of the epochs (counted from 1), never before epoch 2"
        )

    @classmethod
    def model_options(cls, params):
        return {"front": params.front}

    @classmethod
    def final_widths(cls, params, widths):
        return list(prune.target_widths(widths, params.prune_ratio))

    def end_epoch(self, epoch, model, optimizer):
        """At the end of the epoch before `prune_at`, removes the channels with the lowest scores.

        As released, the gradients of the epoch's last batch and of a probe are scored together.
        """
        if epoch + 2 == max(2, math.ceil(self.params.prune_at * self.setting.epochs)):
            goals = self.final_widths(self.params, model.encoder.widths)
            prune.probe(model.encoder)
            keep = [
                None if score is None else score.topk(goal).indices.sort().values
                for goal, score in zip(goals, prune.taylor_scores(model.encoder), strict=True)
            ]
            prune.shrink(model, keep, None if self.setting.quirks.q9_frozen_after_pruning else optimizer)
        return super().end_epoch(epoch, model, optimizer)
