"""Hard k-means inside every group at once (the mixture of Algorithm 1; per class as released, or over
everything)."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from benchmark.cem.blocks import Blocks, Layout, arrange
from benchmark.errors import Diverged, UserError

# Bytes of rows that take their steps together: on a CPU about the size of the caches of a core or two, so that rows
# stay there from step to step; elsewhere the device memory that a copy may take.
_CACHE_BYTES, _COPY_BYTES = 4 * 2**20, 2**30
# Centres per group up to which the compiled steps are faster on a CPU.
_FEW = 32


@dataclass(frozen=True)
class Clusters:
    """centers [G, k, D] float32; assignment [N] int64 in 0..k-1, the nearest centre of the sample's own
    group; counts [G, k] int64, 0 for an empty cluster, which keeps its last centre (zero in a group without
    samples)."""

    centers: Tensor
    assignment: Tensor
    counts: Tensor


@torch.no_grad()
def kmeans(
    features: Tensor,
    groups: Tensor,
    num_groups: int,
    k: int,
    generator: torch.Generator,
    init: Tensor | None = None,
    iterations: int = 50,
) -> Clusters:
    """Cluster the features [N, D] of each group [N] (0..num_groups-1) into k clusters; num_groups=1: over
    everything.

    Starts from `init` [G, k, D], or from k-means++ drawn with `generator` (of the features' device), then Lloyd steps
    until no assignment changes, at most `iterations`. As released, k-means++ draws in proportion to the distance (not
    its square), and samples count as assigned to centre 0 before the first step: if all are nearest to it, it does not
    move (a single centre moves to the mean, a case that the release leaves open). A group with fewer distinct
    samples than k keeps empty clusters. On a CPU the result depends only on the inputs and the generator's state.
    Memory: a few integers per sample; for the start, and for steps that are not compiled, copies of rows, a whole
    group's or 1 GiB (4 MiB on a CPU) at a time. Raises UserError for shapes or groups that do not fit, Diverged for
    features that are not finite.
    """
    _check(features, groups, num_groups, k, init)
    features = features.detach().float()
    if not _finite(features):
        raise Diverged("the features to be clustered are not finite")
    centers = _plus_plus(features, groups, num_groups, k, generator) if init is None else init.to(features)
    compiled = compiled_steps() if features.device.type == "cpu" and k <= _FEW else None
    return Clusters(*(compiled or batched_steps)(features, groups, centers, iterations))


def _check(features: Tensor, groups: Tensor, num_groups: int, k: int, init: Tensor | None) -> None:
    if features.ndim != 2 or groups.shape != features.shape[:1] or len(features) == 0:
        raise UserError(
            f"kmeans: features {tuple(features.shape)} and groups {tuple(groups.shape)} do not fit; "
            "pass features [N, D] and one group a sample, N >= 1."
        )
    if k < 1 or num_groups < 1:
        raise UserError(f"kmeans: k={k} and num_groups={num_groups} must both be at least 1.")
    labels = groups.cpu().numpy()  # torch's threads would keep spinning beside the compiled steps
    if labels.min() < 0 or labels.max() >= num_groups:
        raise UserError(f"kmeans: every group (label) must lie in 0..{num_groups - 1}; check the labels.")
    if init is not None and init.shape != (num_groups, k, features.shape[1]):
        raise UserError(f"kmeans: init {tuple(init.shape)} must be [num_groups, k, D].")


def _finite(features: Tensor) -> bool:
    """Checks the sum: one pass without a copy, and on a CPU without torch's threads."""
    total = features.numpy().sum() if features.device.type == "cpu" else features.sum().item()
    return bool(np.isfinite(total))


def compiled_steps():
    """Lloyd's steps compiled, or None if numba is missing or does not work."""
    try:
        from benchmark.cem.lloyd import steps
    except ImportError:
        return None
    return steps


def batched_steps(features: Tensor, groups: Tensor, centers: Tensor, iterations: int) -> tuple[Tensor, Tensor, Tensor]:
    """Centres [G, k, D], assignment [N] and counts [G, k] after Lloyd's steps, a portion of the groups at a time."""
    num_groups, k, _ = centers.shape
    layout, centers = arrange(groups, num_groups), centers.clone()
    nearest = torch.empty_like(layout.valid, dtype=torch.int64)
    for part, of in _portions(layout, num_groups, features[0].nbytes):
        blocks = layout.blocks(features, part)
        centers[of], nearest[part] = _lloyd(replace(blocks, owner=blocks.owner - of.start), centers[of], iterations)
    assignment = layout.take(nearest)
    counts = torch.bincount(groups * k + assignment, minlength=num_groups * k)
    return centers, assignment, counts.view(num_groups, k)


def _portions(layout: Layout, num_groups: int, row: int) -> list[tuple[slice, slice]]:
    """(blocks, groups) that take their steps together; row: bytes of one. A group's result does not depend on it."""
    last = torch.bincount(layout.owner, minlength=num_groups).cumsum(0).tolist()  # after each group's last block
    room = _CACHE_BYTES if layout.owner.device.type == "cpu" else _COPY_BYTES
    most = max(1, room // (layout.valid.shape[1] * row))
    portions, group, block = [], 0, 0
    while group < num_groups:
        end = group + 1
        while end < num_groups and last[end] - block <= most:
            end += 1
        portions.append((slice(block, last[end - 1]), slice(group, end)))
        group, block = end, last[end - 1]
    return portions


def _lloyd(blocks: Blocks, centers: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Centres [G, k, D] and nearest [M, S] after Lloyd steps until no assignment changes."""
    nearest = _assign(blocks, centers)
    moving = _moving(blocks, nearest, *centers.shape[:2])
    for _ in range(iterations):
        centers = torch.where(moving, _means(blocks, nearest, centers), centers)
        before, nearest = nearest, _assign(blocks, centers)
        if torch.equal(before, nearest):
            break
    return centers, nearest


def _moving(blocks: Blocks, nearest: Tensor, groups: int, k: int) -> Tensor:
    """[G, 1, 1]: the groups that take a step at all: with k = 1, or with a sample nearest to a centre other than 0."""
    away = ((nearest != 0) & blocks.valid).any(1) | (k == 1)
    found = torch.zeros(groups, device=away.device).index_add_(0, blocks.owner, away.float())
    return (found > 0).view(-1, 1, 1)


def _assign(blocks: Blocks, centers: Tensor) -> Tensor:
    """Nearest centre [M, S] of every place. |x|^2 is the same for all of a sample's candidates, so it is
    left out."""
    own = centers[blocks.owner]
    half = centers.square().sum(2)[blocks.owner] / 2
    scores = torch.baddbmm(half.unsqueeze(2), own, blocks.rows.mT, alpha=-1)
    return scores.min(1).indices  # min, not argmin: on a CPU it is 10 times as fast along this axis


def _means(blocks: Blocks, nearest: Tensor, centers: Tensor) -> Tensor:
    """Mean of each cluster's members [G, k, D]; an empty one keeps its centre. Unused places are zero
    rows."""
    groups, k, dims = centers.shape
    index = (blocks.owner.unsqueeze(1) * k + nearest).flatten()
    sums = centers.new_zeros(groups * k, dims).index_add_(0, index, blocks.rows.flatten(0, 1))
    counts = centers.new_zeros(groups * k).index_add_(0, index, blocks.valid.flatten().to(sums.dtype))
    means = (sums / counts.clamp_min(1).unsqueeze(1)).view_as(centers)
    return torch.where(counts.view(groups, k, 1) > 0, means, centers)


def _plus_plus(features: Tensor, groups: Tensor, num_groups: int, k: int, generator: torch.Generator) -> Tensor:
    """k-means++ start [G, k, D]: picks are drawn with probability proportional to the distance so far (released)."""
    layout = arrange(groups, num_groups)
    portions = _portions(layout, num_groups, features[0].nbytes)
    centers = features.new_zeros(num_groups, k, features.shape[1])
    has_samples = torch.bincount(groups, minlength=num_groups) > 0
    distance = features.new_ones(len(features))
    closest = features.new_full(layout.valid.shape, torch.inf)
    for pick in range(k):
        chosen = features[_draw(distance, groups, num_groups, generator)] * has_samples.unsqueeze(1)
        centers[:, pick] = chosen
        for part, _ in portions:
            blocks = layout.blocks(features, part)
            offsets = blocks.rows.sub_(chosen[blocks.owner].unsqueeze(1))  # the rows are a copy already
            closest[part] = torch.minimum(closest[part], torch.linalg.vector_norm(offsets, dim=2))
        distance = layout.take(closest)
    return centers


def _draw(weight: Tensor, groups: Tensor, num_groups: int, generator: torch.Generator) -> Tensor:
    """One sample index [G] per group, probability proportional to weight [N]; any sample where all weights
    are 0.

    The largest weight/exponential wins, which draws for all groups at once; float64, so that no key is lost or
    tied.
    """
    race = torch.empty(len(weight), dtype=torch.float64, device=weight.device).exponential_(generator=generator)
    key = weight.double() / race.clamp_min(torch.finfo(torch.float64).tiny)
    best = key.new_full((num_groups,), -1).scatter_reduce(0, groups, key, "amax")
    index = torch.where(key == best[groups], torch.arange(len(key), device=key.device), len(key))
    winner = index.new_full((num_groups,), len(key)).scatter_reduce(0, groups, index, "amin")
    return winner.clamp_max(len(key) - 1)
