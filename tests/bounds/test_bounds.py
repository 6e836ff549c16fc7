"""The bounds against closed forms: linear encoders of Gaussian inputs, exact mixtures, and numerical integration."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from benchmark.bounds import fisher, information
from benchmark.cem import conditional_entropy_bound

SIGMA = 0.4


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Linear:
    """x ~ N(0, C) in d = 6 dimensions, z = A x + N(0, s^2 I) in 3: information and least error are known."""

    def __init__(self, sigma=SIGMA, seed=0):
        rng = np.random.default_rng(seed)
        self.sigma, self.rng = sigma, rng
        self.a = rng.standard_normal((3, 6))
        root = 0.5 * rng.standard_normal((6, 6))
        self.prior = root @ root.T + 0.05 * np.eye(6)
        total = self.a @ self.prior @ self.a.T + sigma**2 * np.eye(3)
        self.information = 0.5 * np.linalg.slogdet(total / sigma**2)[1]
        self.gain = self.prior @ self.a.T @ np.linalg.inv(total)
        self.error = np.trace(self.prior - self.gain @ self.a @ self.prior) / 6

    def draw(self, count):
        x = self.rng.multivariate_normal(np.zeros(6), self.prior, count)
        return x, torch.tensor(x @ self.a.T)

    def errors(self, count=4):
        jacobian = torch.tensor(self.a)
        return fisher.errors([jacobian] * count, count, torch.tensor(self.prior), self.sigma)


def test_lower_and_upper_enclose_the_information_of_a_linear_encoder():
    toy = Linear()
    _, features = toy.draw(20_000)
    labels = torch.zeros(len(features), dtype=torch.int64)
    found = information.mixture(features, labels, 1, 1, generator())
    lower = information.lower_estimate(features[:4000], SIGMA, generator())
    upper, half = information.upper_estimate(features, found, toy.draw(20_000)[1], SIGMA, generator())
    assert toy.information < math.log(4000) - 2  # far from the lower estimate's ceiling
    assert lower < toy.information + 0.05 and upper + half > toy.information
    # one Gaussian is the true density here, so that the upper one is tight; the lower one is far below its ceiling
    assert upper == pytest.approx(toy.information, abs=0.05)
    assert lower == pytest.approx(toy.information, abs=0.1)


def test_the_lower_estimate_is_a_bound_on_average_and_never_beyond_its_ceiling():
    toy = Linear()
    few = [information.lower_estimate(toy.draw(8)[1], SIGMA, generator(seed)) for seed in range(200)]
    assert np.mean(few) < toy.information and max(few) <= math.log(8)
    clear = information.lower_estimate(toy.draw(50)[1], 1e-4, generator())
    assert clear == pytest.approx(math.log(50))  # without noise to speak of, it says no more than log M


def test_the_upper_estimate_of_a_wrong_density_is_higher_and_its_interval_covers():
    """Uniform features on two points: I = log 2 - (a little); a single Gaussian is the wrong density."""
    features = torch.tensor([[-1.0], [1.0]]).repeat(2000, 1).double()
    truth = _two_points(SIGMA)
    one = information.mixture(features, torch.zeros(len(features), dtype=torch.int64), 1, 1, generator())
    two = information.mixture(features, torch.zeros(len(features), dtype=torch.int64), 1, 2, generator())
    wrong, _ = information.upper_estimate(features, one, features, SIGMA, generator())
    right, half = information.upper_estimate(features, two, features, SIGMA, generator())
    assert wrong > truth + 0.1
    assert abs(right - truth) < 2 * half < 0.1


def _two_points(sigma):
    """I(z; +-1) in nats by numerical integration."""
    z = np.linspace(-8, 8, 40_001)
    density = [np.exp(-((z - mean) ** 2) / (2 * sigma**2)) / np.sqrt(2 * np.pi * sigma**2) for mean in (-1, 1)]
    mixed = (density[0] + density[1]) / 2
    entropy = -np.sum(np.where(mixed > 0, mixed * np.log(np.maximum(mixed, 1e-300)), 0)) * (z[1] - z[0])
    return entropy - 0.5 * math.log(2 * math.pi * math.e * sigma**2)


def test_equation_7_encloses_the_information_of_a_mixture_and_agrees_with_the_plain_formula():
    """Two classes far apart and one cluster each: z_hat is the mixture that Theorem 2 assumes."""
    toy = Linear()
    features = torch.cat([toy.draw(3000)[1] - 30, toy.draw(1000)[1] + 30])
    labels = torch.tensor([0] * 3000 + [1] * 1000)
    found = information.mixture(features, labels, 2, 1, generator())
    values = information.equation_7(features, found, SIGMA)
    truth = toy.information + values["component_entropy_nats"]  # the components do not overlap
    assert values["component_entropy_nats"] == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert values["eq7_nats"] == pytest.approx(truth, abs=0.05)
    assert values["logdet_nats"] < truth
    covariances = [np.cov(features[labels == c].T, bias=True) for c in (0, 1)]
    plain = conditional_entropy_bound([0.75, 0.25], covariances, SIGMA**2 * np.eye(3))
    assert values["eq7_nats"] == pytest.approx(plain, rel=1e-6)


def test_equation_7_is_no_less_than_the_information_of_the_images_at_hand():
    """For the images at hand, each as likely as any, it is a bound whatever the shape of the clusters."""
    features = torch.randn(60, 20, generator=generator()).double() ** 3
    labels = torch.arange(60) % 3
    for sigma in (0.1, 1.0, 5.0):
        found = information.mixture(features, labels, 3, 2, generator())
        bound = information.equation_7(features, found, sigma)["eq7_nats"]
        draws = [information.lower_estimate(features, sigma, generator(seed)) for seed in range(30)]
        assert bound > np.mean(draws) - 3 * np.std(draws) / math.sqrt(30)


def test_log_determinants_of_clusters_smaller_than_the_dimension():
    features = torch.randn(7, 12, generator=generator()).double()
    found = information.mixture(features, torch.tensor([0, 0, 0, 0, 0, 1, 1]), 3, 1, generator())
    assert len(found.weights) == 2  # a class without images has no component
    for value, rows in zip(
        information.log_determinants(features, found, 0.3), (features[:5], features[5:]), strict=True
    ):
        whole = np.cov(rows.T.numpy(), bias=True) / 0.09 + np.eye(12)
        assert float(value) == pytest.approx(0.5 * np.linalg.slogdet(whole)[1])


def test_the_released_objective_by_hand():
    # class 0: one spread cluster and one point; class 1: two equal images, no variance, so nothing above the floor
    features = torch.tensor([[0.0, 0.0], [0.4, 0.0], [9.0, 9.0], [3.0, 3.0], [3.0, 3.0]])
    labels = torch.tensor([0, 0, 0, 1, 1])
    value = information.released_objective(features, labels, 2, 2, 0.1, 0.125, generator())
    spread = 2 / 3 * math.log((0.02 + 0.01) / (0.125 * 0.01 + 0.01))
    assert value == pytest.approx(spread / 2, rel=1e-5)


def test_the_fisher_bound_is_the_least_error_of_a_linear_gaussian_encoder():
    toy = Linear()
    found = toy.errors()
    assert found["van_trees_mse"] == pytest.approx(toy.error, rel=1e-9)
    assert found["van_trees_mse_half"] == pytest.approx(toy.error, rel=1e-9)
    assert found["linearised_mse"] == pytest.approx(toy.error, rel=1e-9)
    assert found["dfil"] == pytest.approx(np.square(toy.a).sum() / SIGMA**2 / 6)


def test_no_attacker_gets_below_the_fisher_bound():
    """The best attacker meets it; the pseudo-inverse, a shrunken one and a guess at the mean stay above."""
    toy = Linear()
    x, features = toy.draw(100_000)
    z = features.numpy() + SIGMA * toy.rng.standard_normal(features.shape)
    attackers = {
        "best": toy.gain,
        "pseudo-inverse": np.linalg.pinv(toy.a),
        "shrunken": 0.8 * toy.gain,
        "mean": np.zeros((6, 3)),
    }
    bound = toy.errors()["van_trees_mse"]
    measured = {name: np.square(x - z @ gain.T).mean() for name, gain in attackers.items()}
    assert measured.pop("best") == pytest.approx(bound, rel=0.02)
    assert all(error > 1.05 * bound for error in measured.values()), measured


def test_the_fisher_bound_of_a_curved_encoder_is_below_its_least_error():
    """x ~ N(0, 1), z = tanh(2 x) + noise: the least error by numerical integration."""
    sigma, x = 0.3, np.linspace(-7, 7, 2001)
    z = np.linspace(-3, 3, 1201)
    joint = np.exp(-(x**2) / 2)[:, None] * np.exp(-((z[None] - np.tanh(2 * x)[:, None]) ** 2) / (2 * sigma**2))
    joint /= joint.sum()
    marginal = joint.sum(0)
    least = (joint * x[:, None] ** 2).sum() - np.sum(np.square((joint * x[:, None]).sum(0)) / marginal)
    draws = stats.norm.ppf((np.arange(500) + 0.5) / 500)
    slopes = 2 / np.cosh(2 * draws) ** 2
    jacobians = [torch.tensor([[slope]]) for slope in slopes]
    found = fisher.errors(jacobians, len(jacobians), torch.eye(1, dtype=torch.float64), sigma)
    expected = 1 / (np.mean(slopes**2) / sigma**2 + 1)
    assert found["van_trees_mse"] == pytest.approx(expected)
    assert found["van_trees_mse"] < least
    assert found["van_trees_mse"] < found["linearised_mse"]  # Jensen


def test_jacobian_agrees_with_finite_differences():
    torch.manual_seed(0)
    encoder = torch.nn.Sequential(
        torch.nn.Conv2d(3, 5, 3, padding=1), torch.nn.ReLU(inplace=True), torch.nn.MaxPool2d(2), torch.nn.Sigmoid()
    ).double()
    x01 = torch.rand(3, 16, 16, generator=generator(), dtype=torch.float64)
    found = fisher.jacobian(encoder, x01)  # 320 elements: more than one pass
    assert found.shape == (320, 768)
    direction = torch.randn(3, 16, 16, generator=generator(1), dtype=torch.float64)
    with torch.no_grad():
        ahead, behind = (encoder((x01 + step * direction).unsqueeze(0)).flatten() for step in (1e-6, -1e-6))
    torch.testing.assert_close(found @ direction.flatten(), (ahead - behind) / 2e-6, rtol=1e-6, atol=1e-8)


def test_covariance_of_images():
    images = torch.randint(0, 256, (300, 3, 2, 2), generator=generator(), dtype=torch.uint8)
    reference = np.cov(images.flatten(1).numpy().T / 255, bias=True) + np.eye(12) / (12 * 255**2)
    np.testing.assert_allclose(fisher.covariance(images).numpy(), reference, rtol=1e-4, atol=1e-7)


def test_a_vanishing_prior_direction_is_no_error():
    """Fewer images than dimensions: the prior is floored at the rounding of 8 bits, and the bound is tiny there."""
    images = torch.randint(0, 256, (3, 3, 2, 2), generator=generator(), dtype=torch.uint8)
    found = fisher.errors([torch.zeros(2, 12)], 1, fisher.covariance(images), 0.1)
    # an encoder that tells nothing: the error is the prior's variance
    assert found["van_trees_mse"] == pytest.approx(float(fisher.covariance(images).diagonal().mean()))
    assert math.isnan(found["van_trees_mse_half"])
