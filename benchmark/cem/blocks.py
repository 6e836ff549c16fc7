"""Rows grouped by an integer key and laid out in equal blocks, so that one batched product serves every group."""

from dataclasses import dataclass

import torch
from torch import Tensor

# A layout may hold at most this many times the rows it was given; beyond it, large groups are cut into blocks.
_PADDING_LIMIT = 1.5


@dataclass(frozen=True)
class Blocks:
    """Some blocks with their rows: rows [m, S, D] (zero if unused), owner [m] = group of a block, valid [m, S]."""

    rows: Tensor
    owner: Tensor
    valid: Tensor


@dataclass(frozen=True)
class Layout:
    """Positions of the samples: owner [M] = group of a block, valid [M, S], source [M, S] = the sample at a position (0
    if unused), slot [N] = position of sample i in the flattened [M*S] layout. A group owns consecutive blocks; an empty
    group owns none."""

    owner: Tensor
    valid: Tensor
    source: Tensor
    slot: Tensor

    def take(self, values: Tensor) -> Tensor:
        """values [M, S] per place -> [N] in sample order."""
        return values.flatten()[self.slot]

    def blocks(self, features: Tensor, part: slice) -> Blocks:
        """The blocks `part` with their rows of the features [N, D]; only these rows are copied."""
        source, valid = self.source[part], self.valid[part]
        rows = features.index_select(0, source.flatten())
        rows[(~valid).flatten().nonzero().squeeze(1)] = 0
        return Blocks(rows.view(*source.shape, features.shape[1]), self.owner[part], valid)


def arrange(groups: Tensor, num_groups: int) -> Layout:
    """Lay samples out by their groups [N] in 0..num_groups-1 (N >= 1).

    At most 1.5 N positions however unequal the groups are. Waits for the device; cannot be used in a captured graph.
    """
    samples, device = len(groups), groups.device
    counts = torch.bincount(groups, minlength=num_groups)
    size = _block_size(counts, samples)
    per_group = (counts + size - 1) // size
    first_block = per_group.cumsum(0) - per_group
    first_row = counts.cumsum(0) - counts
    order = torch.argsort(groups, stable=True)
    owners = groups[order]
    place = first_block[owners] * size + torch.arange(samples, device=device) - first_row[owners]

    owner = torch.repeat_interleave(torch.arange(num_groups, device=device), per_group)
    slot = torch.empty_like(place)
    slot[order] = place
    source = place.new_zeros(len(owner) * size)
    source[place] = order
    valid = torch.zeros(len(owner) * size, dtype=torch.bool, device=device)
    valid[place] = True
    return Layout(owner, valid.view(len(owner), size), source.view(len(owner), size), slot)


def _block_size(counts: Tensor, samples: int) -> int:
    """One block per group if the groups are about equal, else blocks of half the mean group."""
    largest, num_groups = int(counts.max()), len(counts)
    if largest * num_groups <= _PADDING_LIMIT * samples:
        return largest
    return max(1, int((_PADDING_LIMIT - 1) * samples / num_groups))
