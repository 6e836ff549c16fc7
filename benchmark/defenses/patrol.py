"""PATROL: a deeper encoder, pruned to the size of the others', trained against an adversary.

Sources: Ding et al., WACV 2024; released code of the CEM paper: one more conv of 16 channels in front, structured
Taylor pruning by 5 % at epochs 180 to 191 of 240, layers of at most 32 channels spared. The original's Lipschitz
term is in neither code nor formula and is not included.
"""

import math

from pydantic import Field

from benchmark.defenses.base import DEFENSES
from benchmark.defenses.ressfl import ResSFL
from benchmark.matrix.schema import Count, Fraction
from benchmark.models import prune


@DEFENSES.register("patrol")
class Patrol(ResSFL):
    """ResSFL's game on a pruned encoder: 64 and 128 channels become 60 and 120, 83,108 parameters (printed 0.083M)."""

    class Params(ResSFL.Params):
        front: Count = Field(description="channels of the conv in front")
        prune_ratio: Fraction = Field(description="share of a layer's channels that is pruned in all")
        prune_from: Fraction = Field(description="fraction of the epochs after which pruning starts")
        prune_until: Fraction = Field(description="fraction of the epochs after which pruning is complete")

    @classmethod
    def model_options(cls, params):
        return {"front": params.front}

    @classmethod
    def final_widths(cls, params, widths):
        return list(prune.target_widths(widths, params.prune_ratio))

    def end_epoch(self, epoch, model, optimizer) -> None:
        """Removes each layer's least important channels so that the widths fall evenly to the target."""
        first = math.floor(self.params.prune_from * self.setting.epochs)
        last = max(math.ceil(self.params.prune_until * self.setting.epochs) - 1, first)
        if not first <= epoch <= last:
            return
        scores = prune.taylor_scores(model.encoder)
        done = (epoch - first + 1) / (last - first + 1)
        full = self.setting.widths
        target = self.final_widths(self.params, full)
        keep = []
        for width, goal, score in zip(full, target, scores, strict=True):
            count = width - round((width - goal) * done)
            best = None if score is None else score.topk(min(count, len(score))).indices.sort().values
            keep.append(best)
        prune.shrink(model, keep, optimizer)
