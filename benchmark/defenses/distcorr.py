"""DistCorr (NoPeek): the distance correlation between images and features is part of the loss.

Sources: Vepakomma et al., ICDMW 2020 (loss alpha1 * dCor + alpha2 * CE); released code of the CEM paper
(CE + 0.1 * alpha * dCor of normalised images and clean features, a further factor 10 on CIFAR-10).
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from benchmark.defenses.base import DEFENSES, Batch, Defense
from benchmark.matrix.schema import Number


@DEFENSES.register("distcorr")
class DistCorr(Defense):
    """CE * task + weight * dCor(x, z_clean)."""

    class Params(Defense.Params):
        weight: Annotated[Number, Field(ge=0)] = Field(description="factor on dCor (released code: 0.1 * alpha)")
        task: Annotated[Number, Field(gt=0)] = Field(
            description="factor on the cross-entropy (alpha2 of the original; 1 as released)"
        )

    def task_weight(self) -> float:
        return self.params.task

    def loss(self, batch: Batch) -> Tensor:
        return self.params.weight * distance_correlation(batch.x, batch.z_clean)


def distance_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Sample distance correlation of a [B, ...] and b [B, ...], in [0, 1], differentiable; a 0-dim fp32 tensor.

    dCov^2(a, b) = mean of the product of the double-centred Euclidean distance matrices (Szekely et al. 2007,
    V-statistic); dCor = dCov(a, b) / sqrt(dCov(a, a) dCov(b, b)).
    """
    with torch.autocast(a.device.type, enabled=False):
        a, b = _centred_distances(a), _centred_distances(b)
        covariance = (a * b).mean().clamp_min(1e-12).sqrt()
        variances = (a.square().mean() * b.square().mean()).clamp_min(1e-24).sqrt().sqrt()
        return covariance / variances


def _centred_distances(a: Tensor) -> Tensor:
    a = a.float().flatten(1)
    a = a - a.mean(0)  # distances are the same, and the differences below lose fewer digits
    squares = a.square().sum(1)
    distance = (squares[:, None] + squares[None, :] - 2 * a @ a.T).clamp_min(0)
    # sqrt has no gradient at 0: the diagonal and coinciding rows are lifted out of it
    zero = (distance <= 1e-8) | torch.eye(len(a), dtype=torch.bool, device=a.device)
    distance = torch.where(zero, torch.zeros_like(distance), torch.where(zero, 1.0, distance).sqrt())
    return distance - distance.mean(0) - distance.mean(1, keepdim=True) + distance.mean()
