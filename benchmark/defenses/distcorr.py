"""DistCorr (NoPeek): the distance correlation between images and features is part of the loss.

Sources: Vepakomma et al., ICDMW 2020 (loss alpha1 * dCor + alpha2 * CE); released code of the CEM paper
(CE + 0.1 * alpha * dCor of normalised images and clean features, a further factor 10 on CIFAR-10).
"""

import torch
from pydantic import Field
from torch import Tensor

from benchmark.config import NotNegative, Positive
from benchmark.defenses import DEFENSES, Batch, Defense

EPSILON = 1e-7  # floor of squared distances, and added in roots and denominators to keep them from 0 (released code)


@DEFENSES.register("distcorr")
class DistCorr(Defense):
    """CE * task + weight * dCor(x, z_clean)."""

    title = "DistCorr"

    class Params(Defense.Params):
        weight: NotNegative = Field(description="factor on dCor (released code: 0.1 * alpha)")
        task: Positive = Field(description="factor on the cross-entropy (alpha2 of the original; 1 as released)")

    def task_weight(self) -> float:
        return self.params.task

    def loss(self, batch: Batch) -> Tensor:
        return self.params.weight * distance_correlation(batch.x, batch.z_clean)


def distance_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Sample distance correlation of a [B, ...] and b [B, ...], about 0 to 1, differentiable; a 0-dim fp32 tensor.

    dCov^2(a, b) = mean of the product of the double-centred Euclidean distance matrices (Szekely et al. 2007,
    V-statistic); dCor = dCov(a, b) / sqrt(dCov(a, a) dCov(b, b)), with 1e-7 added in every root and to the denominator
    (released code).
    """
    with torch.autocast(a.device.type, enabled=False):
        a, b = _centred_distances(a), _centred_distances(b)
        variances = _covariance(a, a) * _covariance(b, b)
        return _covariance(a, b) / ((variances + EPSILON).sqrt() + EPSILON)


def _covariance(a: Tensor, b: Tensor) -> Tensor:
    """dCov of two centred distance matrices; its square is negative only by rounding."""
    return ((a * b).mean().clamp_min(0) + EPSILON).sqrt()


def _centred_distances(a: Tensor) -> Tensor:
    """[B, B]; squared distances are at least 1e-7, those of a sample from itself too (released code)."""
    a = a.float().flatten(1)
    a = a - a.mean(0)  # distances are the same, and the differences below lose fewer digits
    squares = a.square().sum(1)
    squared = (squares[:, None] + squares[None, :] - 2 * a @ a.T).clamp_min(EPSILON)
    # the rounding error in a sample's distance from itself would be the largest error of all
    own = torch.eye(len(a), dtype=torch.bool, device=a.device)
    distance = torch.where(own, EPSILON, squared).sqrt()
    return distance - distance.mean(0) - distance.mean(1, keepdim=True) + distance.mean()
