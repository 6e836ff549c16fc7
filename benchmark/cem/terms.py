"""A batch's contribution to the objective, for each estimator: fixed shapes, no wait for the device.

There is no loop over components. Every quantity of a component is held once per member of the batch; comparing
indices [B, B] finds the members of the same component. Each of a component's n members then carries 1/n of its
term.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def same(index: Tensor) -> Tensor:
    """index [B] -> [B, B] float32, 1 where two members share their index."""
    return (index.unsqueeze(1) == index.unsqueeze(0)).float()


def lookup_class(labels: Tensor, classes: int) -> Tensor:
    """Quirk Q1: the row of the epoch's tables that each member's class reads in the released code, [B].

    The c-th class present, in ascending order, reads the row of the c-th SAMPLE of the batch sorted by label.
    """
    present = labels.new_zeros(classes).scatter(0, labels, 1)
    rank = present.cumsum(0) - 1
    return labels.sort().values[rank[labels]]


def diagonal_change(offset: Tensor, component: Tensor, noisy_variance: Tensor, blend: Tensor) -> Tensor:
    """Change of 1/2 log|A| by Eq 6, as 1/n of it per member [B], for diagonal A.

    offset [B, D]: noisy z - own centre; noisy_variance [B, D]: A before; blend [B]: b, the weight of the
    batch.
    """
    together = same(component)
    members = together.sum(1)
    batch = (together @ offset.square()) / members.unsqueeze(1)
    blend = blend.unsqueeze(1)
    updated = torch.log((1 - blend) + blend * batch / noisy_variance)
    return updated.sum(1) / (2 * members)


def full_change(offset: Tensor, component: Tensor, inverse: Tensor, blend: Tensor) -> Tensor:
    """Change of 1/2 log|A| by Eq 6, as a share per member [B] that sums to it over a component's members.

    A' = a A + b U U^T with a = 1 - b, U [D, n] = the component's offsets / sqrt(n), hence log|A'| - log|A| =
    D log a + log|I_n + (b/a) U^T A^-1 U|. All components' small determinants come from ONE Cholesky factor of
    a [B, B] matrix that is block diagonal up to the order of its rows: rows of different components never
    meet in the elimination, so a component's log-determinant is 2 * the sum of its rows' log L_ii. offset [B,
    D]: noisy z - own centre; inverse [K, D, D]: A^-1; blend [B]: b.
    """
    together = same(component)
    members = together.sum(1)
    u = offset / members.sqrt().unsqueeze(1)
    w = _times_inverse(u.detach(), component, inverse)
    # float64: products of nearly equal members stay positive definite, whatever the settings of the float32
    # kernels.
    scale = (blend.double() / (1 - blend.double())).sqrt()
    u, w, together = u.double() * scale.unsqueeze(1), w.double() * scale.unsqueeze(1), together.double()
    cross = u @ w.mT
    # Value U^T A^-1 U; the two terms carry the gradients of the left and the right factor, so that A^-1 is read
    # only once.
    quadratic = cross + cross.mT - cross.detach()
    matrix = torch.eye(len(u), dtype=u.dtype, device=u.device) + together * quadratic
    factor = torch.linalg.cholesky_ex(matrix).L
    logs = factor.diagonal().log() + offset.shape[1] / 2 * torch.log1p(-blend.double()) / members
    return logs.float()


@torch.no_grad()
def _times_inverse(u: Tensor, component: Tensor, inverse: Tensor) -> Tensor:
    """inverse[component[i]] @ u[i] for all i: [B, D].

    A weighted sum of rows of a table, i.e. an embedding bag: it reads each row in place, where gathering [B,
    D, D] first takes 25 times as long on a CPU (and gigabytes on any device).
    """
    dims = u.shape[1]
    rows = component.unsqueeze(1) * dims + torch.arange(dims, device=u.device)
    return F.embedding_bag(rows, inverse.view(-1, dims), per_sample_weights=u, mode="sum")
