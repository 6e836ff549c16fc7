"""The information of the sent feature z = z_hat + N(0, s^2 I) about the image: I(z; z_hat) in nats.

All arithmetic in float64. z_hat is a function of the image x, so I(z; z_hat) = I(z; x) (Prop 2 of the paper).
docs/METHODS.md says what each estimate bounds.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.cem import kmeans
from benchmark.cem.statistics import scalar_variance

_ROWS = 1024  # rows of a block of a distance matrix


@dataclass(frozen=True)
class Mixture:
    """The components of Algorithm 1: hard clusters within the classes, without empty ones.

    weights [K], sum 1; centers [K, D]; member [N]: component of each feature it was fitted on; all float64 but member.
    """

    weights: Tensor
    centers: Tensor
    member: Tensor


def mixture(features: Tensor, labels: Tensor, classes: int, components: int, generator: torch.Generator) -> Mixture:
    """`components` k-means clusters in each class of the features [N, D] with labels [N].

    Diverged for features that are not finite.
    """
    clusters = kmeans(features, labels, classes, components, generator)
    present, member = torch.unique(labels * components + clusters.assignment, return_inverse=True)
    counts = clusters.counts.flatten()[present].double()
    return Mixture(counts / counts.sum(), clusters.centers.flatten(0, 1)[present].double(), member)


def log_determinants(features: Tensor, found: Mixture, noise_std: float) -> Tensor:
    """1/2 log(|Sigma_j + s^2 I| / |s^2 I|) of every component, [K], with its members' exact covariance."""
    centred = features.double() - found.centers[found.member]
    values = []
    for index in range(len(found.weights)):
        rows = centred[found.member == index] / (noise_std * math.sqrt(int((found.member == index).sum())))
        # |I + U^T U| = |I + U U^T|: the smaller of the two, D x D or members x members
        gram = rows @ rows.mT if len(rows) < rows.shape[1] else rows.mT @ rows
        gram.diagonal().add_(1)
        values.append(torch.linalg.cholesky(gram).diagonal().log().sum())
    return torch.stack(values)


def equation_7(features: Tensor, found: Mixture, noise_std: float) -> dict[str, float]:
    """L_C of Eq 7 with full covariances, and its two parts: sum pi (-log pi), and sum pi 1/2 log-determinant ratio.

    features [N, D]: those the mixture was fitted on.
    """
    entropy = float(torch.special.entr(found.weights).sum())
    logdet = float((found.weights * log_determinants(features, found, noise_std)).sum())
    return {"eq7_nats": entropy + logdet, "logdet_nats": logdet, "component_entropy_nats": entropy}


def released_objective(
    features: Tensor,
    labels: Tensor,
    classes: int,
    components: int,
    noise_std: float,
    threshold: float,
    generator: torch.Generator,
    epsilon: float = 0.01,
) -> float:
    """The released term on all features: per class, sum over clusters of share * relu(log(v + 0.01) -
    log(t s^2 + 0.01)), averaged over the classes that have features."""
    found = mixture(features, labels, classes, components, generator)
    counts = torch.bincount(found.member).to(features)
    variance = scalar_variance(features.float(), found.member, found.centers.float(), counts.float()).double()
    excess = torch.relu(torch.log((variance + epsilon) / (threshold * noise_std**2 + epsilon)))
    # shares within a class times 1 / classes: differs from `weights` if class sizes are unequal
    label_of = torch.zeros_like(counts, dtype=torch.int64).index_copy_(0, found.member, labels)
    in_class = torch.bincount(label_of, weights=counts.double(), minlength=classes)
    return float((counts.double() / in_class[label_of] * excess).sum() / (in_class > 0).sum())


def lower_estimate(features: Tensor, noise_std: float, generator: torch.Generator) -> float:
    """Lower bound of I(z; z_hat) in expectation over the features [M, D], each sent once; at most log M.

    mean_i log( p(z_i | z_hat_i) / (1/M sum_j p(z_i | z_hat_j)) ), the densities known. Source: Poole et al., ICML 2019,
    section 2.4 (InfoNCE with the exact conditional density); van den Oord et al. 2018.
    """
    clean = features.double()
    total = 0.0
    for rows in torch.arange(len(clean), device=clean.device).split(_ROWS):
        noise = torch.randn(len(rows), clean.shape[1], generator=generator, device=clean.device, dtype=torch.float64)
        sent = clean[rows] + noise_std * noise
        log_density = -_squared_distances(sent, clean) / (2 * noise_std**2)
        own = -noise.square().sum(1) / 2
        total += float((own - log_density.logsumexp(1)).sum())
    return total / len(clean) + math.log(len(clean))


def upper_estimate(
    features: Tensor, found: Mixture, held_out: Tensor, noise_std: float, generator: torch.Generator
) -> tuple[float, float]:
    """(unbiased estimate of an upper bound of I(z; z_hat), half of its 95 % interval), from features not fitted on.

    mean of log( p(z | z_hat) / q(z) ) over held_out [M, D], each sent once, for one fixed density q: the mixture with
    its weights and centres and, for every component, the covariance within components over all of `features` [N, D],
    plus s^2 I. For any q this is I(z; z_hat) + KL(p(z) || q). Source: Barber & Agakov 2003; Poole et al., ICML 2019.
    """
    dims = features.shape[1]
    centred = features.double() - found.centers[found.member]
    covariance = centred.mT @ centred / len(centred)
    covariance.diagonal().add_(noise_std**2)
    factor = torch.linalg.cholesky(covariance)
    held_out = held_out.double()
    noise = torch.randn(held_out.shape, generator=generator, device=held_out.device, dtype=torch.float64)

    def whiten(rows: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(factor, rows.mT, upper=False).mT

    distances = _squared_distances(whiten(held_out + noise_std * noise), whiten(found.centers))
    log_q = (found.weights.log() - distances / 2).logsumexp(1) - factor.diagonal().log().sum()
    log_p = -noise.square().sum(1) / 2 - dims * math.log(noise_std)  # without the 2 pi, which cancels
    ratios = log_p - log_q
    half_width = 1.96 * float(ratios.std()) / math.sqrt(len(ratios)) if len(ratios) > 1 else math.nan
    return float(ratios.mean()), half_width


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """[A, D], [B, D] -> [A, B]."""
    return (a.square().sum(1, keepdim=True) + b.square().sum(1) - 2 * a @ b.mT).clamp_min(0)
