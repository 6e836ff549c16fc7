"""The probability that a Gaussian lies between two values: the likelihood of an element that was rounded or cut off."""

import torch
from torch import Tensor

OPEN = 1e4  # a half-open interval ends this far from 0, where the density is 0 for any feature


def log_between(low: Tensor, high: Tensor, mean: Tensor, std: float) -> Tensor:
    """log P(low < mean + std N(0, 1) < high), element by element, float32; low < high, and finite (`OPEN`).

    Differentiable in `mean`, and exact in both tails: the interval is mirrored if needed, so that it lies left of the
    mean or around it, and the difference of probabilities is computed from their logarithms.
    """
    with torch.autocast(mean.device.type, enabled=False):
        mean = mean.double()
        low, high = (low.double() - mean) / std, (high.double() - mean) / std
        right = low + high > 0
        low, high = torch.where(right, -high, low), torch.where(right, -low, high)
        upper = torch.special.log_ndtr(high)
        return (upper + torch.log(-torch.expm1(torch.special.log_ndtr(low) - upper))).float()
