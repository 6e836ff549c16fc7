"""The paper's theorems on distributions whose entropies and posteriors are known, in float64."""

import math

import numpy as np
import pytest
import torch

from benchmark.cem import ConditionalEntropy, conditional_entropy_bound
from benchmark.errors import UserError

DRAWS = 200_000


class Mixture:
    """A Gaussian mixture with closed-form density and, after Gaussian noise, closed-form posterior mean."""

    def __init__(self, spread, seed=0, components=3, dims=2):
        self.rng = np.random.default_rng(seed)
        self.weights = self.rng.dirichlet(np.full(components, 4.0))
        self.means = spread * self.rng.standard_normal((components, dims))
        factors = self.rng.standard_normal((components, dims, dims))
        self.covariances = 0.05 * factors @ factors.transpose(0, 2, 1) + 0.01 * np.eye(dims)

    def draw(self, count):
        which = self.rng.choice(len(self.weights), count, p=self.weights)
        factors = np.linalg.cholesky(self.covariances)[which]
        noise = self.rng.standard_normal((count, self.means.shape[1], 1))
        return self.means[which] + (factors @ noise)[..., 0]

    def log_joint(self, points, extra):
        """log pi_j N(point; mu_j, Sigma_j + extra): [N, K]."""
        columns = []
        for weight, mean, covariance in zip(self.weights, self.means, self.covariances, strict=True):
            total = covariance + extra
            offset = points - mean
            square = np.einsum("nd,de,ne->n", offset, np.linalg.inv(total), offset)
            norm = np.linalg.slogdet(2 * np.pi * total)[1]
            columns.append(np.log(weight) - 0.5 * (square + norm))
        return np.stack(columns, 1)

    def entropy(self, points, extra):
        """Monte Carlo differential entropy and its standard error, nats."""
        log_density = np.logaddexp.reduce(self.log_joint(points, extra), axis=1)
        return -log_density.mean(), log_density.std() / math.sqrt(len(points))

    def posterior_mean(self, z, noise):
        """E[x | z] for z = x + N(0, noise)."""
        joint = self.log_joint(z, noise)
        share = np.exp(joint - np.logaddexp.reduce(joint, axis=1, keepdims=True))
        result = np.zeros_like(z)
        for j, (mean, covariance) in enumerate(zip(self.means, self.covariances, strict=True)):
            gain = covariance @ np.linalg.inv(covariance + noise)
            result += share[:, j : j + 1] * (mean + (z - mean) @ gain.T)
        return result


def gaussian_entropy(covariance):
    return 0.5 * np.linalg.slogdet(2 * np.pi * np.e * covariance)[1]


def theorem_1(entropy, dims):
    """Smallest mean squared error per dimension that a conditional entropy H(x|z) allows."""
    return math.exp(2 * entropy / dims) / (2 * math.pi * math.e)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("spread", [0.0, 0.3, 1.0, 20.0])
def test_information_lies_under_the_bound_of_theorem_2(seed, spread):
    mixture = Mixture(spread, seed)
    noise = 0.04 * np.eye(2)
    z = mixture.draw(DRAWS) + 0.2 * mixture.rng.standard_normal((DRAWS, 2))
    entropy, error = mixture.entropy(z, noise)
    information = entropy - gaussian_entropy(noise)
    bound = conditional_entropy_bound(mixture.weights, mixture.covariances, noise)
    assert information <= bound + 4 * error
    if spread == 20.0:  # separated components: the bound is the information itself
        assert information == pytest.approx(bound, abs=0.01)
    if spread == 0.0:  # what it gives away there is at most the entropy of the component's index
        assert bound - information <= -(mixture.weights * np.log(mixture.weights)).sum() + 4 * error
        assert bound - information > 0.1


@pytest.mark.parametrize("estimator", ["diagonal", "full"])
def test_the_fitted_objective_finds_the_bound_of_a_known_mixture(estimator):
    """Clustering clean samples of separated components and adding the noise analytically gives S8 of the
    truth."""
    mixture = Mixture(20.0, seed=1)
    if estimator == "diagonal":
        mixture.covariances *= np.eye(2)
    expected = conditional_entropy_bound(mixture.weights, mixture.covariances, 0.04 * np.eye(2))
    features = torch.from_numpy(mixture.draw(20_000)).float()
    module = ConditionalEntropy(estimator, dims=2, classes=1, noise_std=0.2, components=3, scope="all")
    module.fit(features, torch.zeros(20_000, dtype=torch.long), torch.Generator().manual_seed(0))
    assert module.bound().item() == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("seed", range(4))
def test_theorem_1_for_a_linear_gaussian_encoder(seed):
    """Here every quantity is closed form, and one component makes S8 exact."""
    rng = np.random.default_rng(seed)
    dims, features = 4, 3
    factor, encoder = rng.standard_normal((dims, dims)), rng.standard_normal((features, dims))
    prior, noise = factor @ factor.T + 0.1 * np.eye(dims), 0.09 * np.eye(features)
    posterior = np.linalg.inv(np.linalg.inv(prior) + encoder.T @ np.linalg.inv(noise) @ encoder)
    information = conditional_entropy_bound([1.0], (encoder @ prior @ encoder.T)[None], noise)
    conditional = gaussian_entropy(prior) - information
    assert conditional == pytest.approx(gaussian_entropy(posterior))  # Proposition 2
    assert theorem_1(conditional, dims) <= np.trace(posterior) / dims


def test_theorem_1_is_tight_for_isotropic_gaussians():
    prior, noise = 2.0 * np.eye(3), 0.5 * np.eye(3)
    conditional = gaussian_entropy(prior) - conditional_entropy_bound([1.0], prior[None], noise)
    assert theorem_1(conditional, 3) == pytest.approx(2.0 * 0.5 / 2.5)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("spread", [0.3, 1.0, 20.0])
def test_theorems_1_and_2_under_the_error_of_the_best_reconstruction(seed, spread):
    """The posterior mean reaches the smallest mean squared error; both bounds must stay under it."""
    mixture = Mixture(spread, seed)
    x = mixture.draw(DRAWS)
    noise = 0.09 * np.eye(2)
    z = x + 0.3 * mixture.rng.standard_normal((DRAWS, 2))
    errors = np.square(x - mixture.posterior_mean(z, noise)).mean(1)
    smallest, standard_error = errors.mean(), errors.std() / math.sqrt(DRAWS)
    entropy, _ = mixture.entropy(x, 0.0)
    noisy_entropy, _ = mixture.entropy(z, noise)
    by_theorem_1 = theorem_1(entropy - (noisy_entropy - gaussian_entropy(noise)), 2)
    bound = conditional_entropy_bound(mixture.weights, mixture.covariances, noise)
    by_both = theorem_1(entropy - bound, 2)
    slack = 4 * standard_error + 0.02 * smallest
    assert by_theorem_1 <= smallest + slack
    assert by_both <= by_theorem_1 * 1.02
    assert by_both > 0.1 * smallest  # a bound worth having


def test_an_absent_component_adds_nothing_and_bad_shapes_are_told():
    covariances = np.stack([np.eye(2), 3 * np.eye(2)])
    with_absent = conditional_entropy_bound([1.0, 0.0], covariances, np.eye(2))
    assert with_absent == pytest.approx(math.log(2))
    with pytest.raises(UserError, match="shapes"):
        conditional_entropy_bound([1.0], covariances, np.eye(2))
    with pytest.raises(UserError, match="positive definite"):
        conditional_entropy_bound([0.5, 0.5], -covariances, np.eye(2))
