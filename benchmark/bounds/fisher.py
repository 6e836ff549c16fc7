"""Lower bounds on any attacker's error, from the Fisher information of z = F(x) + N(0, s^2 I) about the image x.

The Fisher information of the channel is J^T J / s^2 with J = dF/dx, x in [0, 1]^d. docs/METHODS.md says under which
assumptions the values are bounds.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from benchmark.data import to_unit

# variance of rounding to 8 bits: images are not known more precisely, and it keeps the prior's covariance invertible
ROUNDING = 1 / (12 * 255**2)

_COPIES = 256  # copies of an image in one pass, each for one element of the feature


def jacobian(encoder: Callable[[Tensor], Tensor], x01: Tensor) -> Tensor:
    """dF/dx of one image [3, H, W] (floating point): [D, d] in its dtype.

    encoder: images in [0, 1] [B, 3, H, W] -> features [B, ...] of D elements, each depending only on its own image
    (BatchNorm in evaluation mode).
    """
    with torch.no_grad():
        dims = encoder(x01.unsqueeze(0)).numel()
    rows = []
    for part in torch.arange(dims, device=x01.device).split(_COPIES):
        copies = x01.expand(len(part), *x01.shape).clone().requires_grad_()
        chosen = encoder(copies).flatten(1).gather(1, part.unsqueeze(1))  # element part[i] of copy i
        rows.append(torch.autograd.grad(chosen.sum(), copies)[0].flatten(1))
    return torch.cat(rows)


def covariance(images: Tensor) -> Tensor:
    """Covariance of uint8 images [N, 3, H, W] as vectors in [0, 1]^d, plus that of rounding: [d, d] float64."""
    dims = images[0].numel()
    total = torch.zeros(dims, device=images.device, dtype=torch.float64)
    square = torch.zeros(dims, dims, device=images.device, dtype=torch.float64)
    for part in images.split(2048):
        rows = to_unit(part).flatten(1).double()  # float32 would lose the smallest eigenvalues
        total += rows.sum(0)
        square += rows.mT @ rows
    mean = total / len(images)
    return square.div_(len(images)).sub_(torch.outer(mean, mean)) + ROUNDING * torch.eye(dims).to(square)


def errors(jacobians: Iterable[Tensor], count: int, prior: Tensor, noise_std: float) -> dict[str, float]:
    """Mean squared errors per pixel value for a Gaussian prior of covariance `prior` [d, d], and the leakage.

    jacobians: of `count` images, [D, d] each. van_trees_mse: tr (mean(J^T J) / s^2 + prior^-1)^-1 / d, the Bayesian
    Cramer-Rao (van Trees) bound; van_trees_mse_half: the same from the first half of the sample (their
    difference says whether the images suffice), NaN for a single image. linearised_mse: mean of
    tr (J^T J / s^2 + prior^-1)^-1 / d, the least error if the encoder is linear. dfil: mean of tr(J^T J) / (s^2 d).
    """
    dims = len(prior)
    factor = _cholesky(prior)
    fisher, half = torch.zeros_like(prior), torch.full((), torch.nan)
    linearised, leakage = [], []
    for index, j in enumerate(jacobians):
        j = j.double() / noise_std
        if index and index == count // 2:
            half = _error(fisher / index, factor)
        fisher += j.mT @ j
        leakage.append(j.square().sum() / dims)
        linearised.append(_linearised(j, prior))
    return {
        "van_trees_mse": float(_error(fisher / count, factor)),
        "van_trees_mse_half": float(half),
        "linearised_mse": float(torch.stack(linearised).mean()),
        "dfil": float(torch.stack(leakage).mean()),
    }


def _error(fisher: Tensor, factor: Tensor) -> Tensor:
    """tr (F + (L L^T)^-1)^-1 / d = |R^-1 L^T|^2 / d with R R^T = I + L^T F L; fisher and factor L [d, d]."""
    inner = factor.mT @ fisher @ factor
    inner.diagonal().add_(1)
    return torch.linalg.solve_triangular(_cholesky(inner), factor.mT, upper=False).square().sum() / len(factor)


def _linearised(j: Tensor, prior: Tensor) -> Tensor:
    """tr (J^T J + C^-1)^-1 / d = tr (C - C J^T (I + J C J^T)^-1 J C) / d, a D x D problem; j [D, d], prior C [d, d]."""
    seen = j @ prior
    inner = seen @ j.mT
    inner.diagonal().add_(1)
    known = torch.linalg.solve_triangular(_cholesky(inner), seen, upper=False)
    return (prior.diagonal().sum() - known.square().sum()) / len(prior)


def _cholesky(matrix: Tensor) -> Tensor:
    return torch.linalg.cholesky((matrix + matrix.mT) / 2)
