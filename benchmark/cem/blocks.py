"""Rows grouped by an integer key and laid out in equal blocks, so that one batched product serves every
group."""

from dataclasses import dataclass

import torch
from torch import Tensor

# A layout may hold at most this many times the rows it was given; beyond it, large groups are cut into
# blocks.
_PADDING_LIMIT = 1.5


@dataclass(frozen=True)
class Blocks:
    """rows [M, S, D] (zero where unused), owner [M] = group of a block, valid [M, S], slot [N] = place of
    sample i in the flattened [M*S] layout. A group owns consecutive blocks; an empty group owns none."""

    rows: Tensor
    owner: Tensor
    valid: Tensor
    slot: Tensor

    def take(self, values: Tensor) -> Tensor:
        """values [M, S] per place -> [N] in sample order."""
        return values.flatten()[self.slot]

    def portion(self, part: slice, of: slice) -> "Blocks":
        """The blocks `part`, which are those of the groups `of` (then numbered from 0); it has no slots."""
        owner = self.owner[part] - (of.start or 0)
        return Blocks(self.rows[part], owner, self.valid[part], self.slot[:0])


def arrange(features: Tensor, groups: Tensor, num_groups: int) -> Blocks:
    """Lay features [N, D] out by groups [N] in 0..num_groups-1 (N >= 1).

    Memory: at most 1.5 N D elements however unequal the groups are. Waits for the device; not for a captured
    graph.
    """
    samples, device = len(features), features.device
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
    valid = torch.zeros(len(owner) * size, dtype=torch.bool, device=device)
    valid[slot] = True
    rows = features.new_empty(len(owner) * size, features.shape[1])
    rows[slot] = features
    rows[~valid] = 0  # few: zeros everywhere first would be one more pass over everything
    return Blocks(rows.view(len(owner), size, -1), owner, valid.view(len(owner), size), slot)


def _block_size(counts: Tensor, samples: int) -> int:
    """One block a group where the groups are about equal, else blocks of half the mean group."""
    largest, num_groups = int(counts.max()), len(counts)
    if largest * num_groups <= _PADDING_LIMIT * samples:
        return largest
    return max(1, int((_PADDING_LIMIT - 1) * samples / num_groups))
