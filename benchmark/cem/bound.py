"""The mutual-information bound of Theorem 2 as a plain float64 formula: the reference for tests and
reports."""

import numpy as np
from numpy.typing import ArrayLike

from benchmark.errors import UserError


def conditional_entropy_bound(weights: ArrayLike, covariances: ArrayLike, noise_cov: ArrayLike) -> float:
    """Upper bound of I(z; z_hat) in nats: Eq 7, supplement S8; the smaller it is, the larger H(x|z) must be.

    weights [K], non-negative, sum 1; covariances [K, D, D] of the clean feature's components; noise_cov [D,
    D] of the Gaussian noise, positive definite. Components of weight 0 add nothing. Raises UserError for
    shapes that do not fit or for a sum of covariances that is not positive definite.
    """
    pi, sigma, noise = (np.asarray(value, dtype=np.float64) for value in (weights, covariances, noise_cov))
    if pi.ndim != 1 or noise.ndim != 2 or sigma.shape != (len(pi), *noise.shape):
        raise UserError(
            f"conditional_entropy_bound: weights {pi.shape}, covariances {sigma.shape} and noise_cov "
            f"{noise.shape} do not fit together; pass shapes [K], [K, D, D] and [D, D]."
        )
    present = pi > 0
    pi, sigma = pi[present], sigma[present]
    sign_noise, logdet_noise = np.linalg.slogdet(noise)
    signs, logdets = np.linalg.slogdet(sigma + noise)
    if sign_noise <= 0 or (signs <= 0).any():
        raise UserError(
            "conditional_entropy_bound: noise_cov and each covariance + noise_cov must be positive definite."
        )
    return float(np.sum(pi * (-np.log(pi) + 0.5 * (logdets - logdet_noise))))
