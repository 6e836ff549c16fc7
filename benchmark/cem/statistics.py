"""Second moments of the clusters for the three estimators, once an epoch, without gradient."""

from collections.abc import Callable

import torch
from torch import Tensor

from benchmark.cem.blocks import arrange

# Temporary memory of one chunk of a batched operation, bytes.
_CHUNK_BYTES = 256 * 2**20


def scalar_variance(features: Tensor, component: Tensor, centers: Tensor, counts: Tensor) -> Tensor:
    """Mean over members and dimensions of (x - centre)^2: [K]; 0 for an empty component."""
    sums = features.new_zeros(len(centers))
    _accumulate(sums, features, component, centers, lambda x: x.square().sum((1, 2)))
    return sums / (counts.clamp_min(1) * features.shape[1])


def own(variance: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """(variances, weights) of each cluster, [G, k] twice, from those variances and counts [G, k]; a weight is the share
    of the group's samples, 0 for an empty cluster."""
    return variance, counts / counts.sum(1, keepdim=True).clamp_min(1)


def shifted(variance: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """The same as released: variances of only the non-empty clusters, in order, padded with the last of them;
    weights of only the clusters with two or more members, padded with 0.01. After an empty or one-member cluster
    both belong to other clusters. A group without samples keeps zeros."""
    share = own(variance, counts)[1]
    filled = counts > 0
    last = filled.sum(1, keepdim=True).sub(1).clamp_min(0)
    variance = _packed(variance, filled)
    place = torch.arange(counts.shape[1], device=counts.device).expand_as(counts)
    variance = variance.gather(1, torch.minimum(place, last))
    several = counts > 1
    share = torch.where(place < several.sum(1, keepdim=True), _packed(share, several), 0.01)
    return variance, share * filled.any(1, keepdim=True)


def _packed(values: Tensor, chosen: Tensor) -> Tensor:
    """values [G, k] with the chosen ones of each row first, otherwise in the same order."""
    return values.gather(1, (~chosen).to(torch.uint8).sort(dim=1, stable=True).indices)


def diagonal_variance(features: Tensor, component: Tensor, centers: Tensor, counts: Tensor) -> Tensor:
    """Mean over members of (x - centre)^2: [K, D]; 0 for an empty component."""
    sums = torch.zeros_like(centers)
    _accumulate(sums, features, component, centers, lambda x: x.square().sum(1))
    return sums / counts.clamp_min(1).unsqueeze(1)


def covariance_(out: Tensor, features: Tensor, component: Tensor, centers: Tensor, counts: Tensor) -> None:
    """Write the mean over members of (x - centre)(x - centre)^T into out [K, D, D]; 0 for an empty
    component."""
    out.zero_()
    _accumulate(out, features, component, centers, lambda x: x.mT @ x)
    out.div_(counts.clamp_min(1).view(-1, 1, 1))


def _accumulate(
    out: Tensor, features: Tensor, component: Tensor, centers: Tensor, reduce: Callable[[Tensor], Tensor]
) -> None:
    """Add reduce([m, S, D] centred members, zero rows where unused) of every block to its component's
    entry of out."""
    layout = arrange(component, len(centers))
    length = chunk_length(max(out[0].numel(), layout.valid.shape[1] * features.shape[1]))
    for start in range(0, len(layout.owner), length):
        blocks = layout.blocks(features, slice(start, start + length))
        centred = (blocks.rows - centers[blocks.owner].unsqueeze(1)) * blocks.valid.unsqueeze(2)
        out.index_add_(0, blocks.owner, reduce(centred))


def noisy_information(variance: Tensor, noise_variance: float, dims: int) -> Tensor:
    """1/2 log(|Sigma + s^2 I| / |s^2 I|) in nats, [K] float32, of isotropic [K] or diagonal [K, D]
    variances."""
    ratios = torch.log1p(variance.double() / noise_variance)
    total = ratios * dims if variance.ndim == 1 else ratios.sum(1)
    return (total / 2).float()


def invert_(covariance: Tensor, noise_variance: float) -> Tensor:
    """Replace covariance [K, D, D] by (covariance + s^2 I)^-1, exactly symmetric; return 1/2 log(|.|/|s^2 I|)
    [K].

    Batched Cholesky factors, a chunk at a time; in float64, since the smallest eigenvalue is some 1e-4 of the
    largest.
    """
    dims = covariance.shape[1]
    information = covariance.new_empty(len(covariance))
    for part in torch.arange(len(covariance), device=covariance.device).split(chunk_length(8 * dims * dims)):
        chunk = slice(int(part[0]), int(part[-1]) + 1)
        # In units of the noise variance, so that the ratio of determinants is computed without cancellation.
        scaled = covariance[chunk].double().div_(noise_variance)
        scaled.diagonal(dim1=1, dim2=2).add_(1)
        factor = torch.linalg.cholesky(scaled)
        information[chunk] = factor.diagonal(dim1=1, dim2=2).log().sum(1).float()
        inverse = torch.cholesky_inverse(factor.float())
        torch.add(inverse, inverse.mT, out=covariance[chunk]).mul_(0.5 / noise_variance)
    return information


def chunk_length(elements: int) -> int:
    """How many float32 items with that many elements fit into one chunk."""
    return max(1, _CHUNK_BYTES // (4 * elements))
