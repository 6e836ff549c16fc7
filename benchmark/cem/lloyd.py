"""Lloyd's steps on a CPU, compiled by numba: a step reads a row once, for its nearest centre and for the new mean.

Used with few centres per group: there, torch needs a matrix product too narrow to be fast, and two more passes. With
many centres the product is faster (`batched_steps` in mixture.py).
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from benchmark.compiled import compiled


def steps(features: Tensor, groups: Tensor, centers: Tensor, iterations: int) -> tuple[Tensor, Tensor, Tensor]:
    """From the centres [G, k, D], until no assignment changes: centres, assignment [N] and counts [G, k] of the float32
    features [N, D] in groups [N] (0..G-1). Before the first step all count as assigned to centre 0 (as in
    `mixture.kmeans`). Depends only on the inputs, not on the threads: one thread handles a group."""
    rows, found = features.contiguous().numpy(), np.array(centers.numpy(), order="C")
    # order [N]: the samples group by group; first [G + 1]: where each group begins in it
    order = np.argsort(groups.numpy(), kind="stable")
    first = np.append(0, np.bincount(groups.numpy(), minlength=len(centers)).cumsum())
    nearest, counts = np.zeros(len(rows), np.int64), np.zeros(found.shape[:2], np.int64)

    def share(groups: tuple[int, int]) -> None:
        _groups(rows, order, first, found, nearest, counts, iterations, *groups)

    threads = torch.get_num_threads()
    # more shares than threads, so that no thread waits long
    cuts = np.searchsorted(first, np.linspace(0, len(rows), 8 * threads + 1)[1:-1]).tolist()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(share, zip([0, *cuts], [*cuts, len(centers)], strict=True)))
    return torch.from_numpy(found), torch.from_numpy(nearest), torch.from_numpy(counts)


@compiled
def _groups(rows, order, first, centers, nearest, counts, iterations, begin, end):
    """The steps of the groups begin..end-1, one group after the other so that its rows stay in the cache."""
    sums, single = np.empty(centers.shape[1:], np.float32), centers.shape[1] == 1
    for group in range(begin, end):
        members = order[first[group] : first[group + 1]]
        changed = _assign(rows, members, centers[group], nearest, sums, counts[group]) or single
        for _ in range(iterations):
            if not changed:
                break
            _move(centers[group], sums, counts[group])
            changed = _assign(rows, members, centers[group], nearest, sums, counts[group])


@compiled
def _assign(rows, members, centers, nearest, sums, counts):
    """Whether the nearest centre of any member changed; sums [k, D] and counts [k] of the members of each centre."""
    half, products = np.empty(len(centers), np.float32), np.empty((len(centers), 4), np.float32)
    for j in range(len(centers)):
        half[j] = _dot(centers[j], centers[j]) / np.float32(2)
    sums[:], counts[:], changed, last = 0, 0, False, len(members) - 1
    for start in range(0, len(members), 4):
        a, b, c, d = start, min(start + 1, last), min(start + 2, last), min(start + 3, last)
        _multiply(rows[members[a]], rows[members[b]], rows[members[c]], rows[members[d]], centers, products)
        for i in range(d - a + 1):
            member = members[a + i]
            best = 0
            for j in range(1, len(centers)):  # |x|^2 is the same for all, so it is left out
                if half[j] - products[j, i] < half[best] - products[best, i]:
                    best = j
            changed |= nearest[member] != best
            nearest[member] = best
            counts[best] += 1
            _add(sums[best], rows[member])
    return changed


@compiled
def _multiply(a, b, c, d, centers, products):
    """products [k, 4] of four rows with each centre."""
    for j in range(len(centers)):
        center = centers[j]
        with_a = with_b = with_c = with_d = np.float32(0)
        for i in range(len(center)):
            with_a += a[i] * center[i]
            with_b += b[i] * center[i]
            with_c += c[i] * center[i]
            with_d += d[i] * center[i]
        products[j, 0], products[j, 1], products[j, 2], products[j, 3] = with_a, with_b, with_c, with_d


@compiled
def _move(centers, sums, counts):
    """Move each centre to the mean of its members; one without members stays."""
    for j in range(len(centers)):
        if counts[j] > 0:
            for i in range(centers.shape[1]):
                centers[j, i] = sums[j, i] / np.float32(counts[j])


@compiled
def _dot(a, b):
    total = np.float32(0)
    for i in range(len(a)):
        total += a[i] * b[i]
    return total


@compiled
def _add(total, row):
    for i in range(len(total)):
        total[i] += row[i]
