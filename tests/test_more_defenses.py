"""The defences that are not the paper's, each against its formula in float64, and all of them from end to end."""

import numpy as np
import pytest
import torch
from scipy import stats
from tape import Tape
from test_defenses import generator, make
from test_graph import Notes, assert_same, states, training

from benchmark.defenses.intervals import log_between
from benchmark.training import loop

MORE = ("quantise", "topk", "laplace")


def features(count=6, seed=1):
    """Like those of a Sigmoid: in (0, 1), from one image to the next of different sizes."""
    z = torch.randn(count, 8, 8, 8, generator=generator(seed))
    return (z - torch.linspace(-1, 1, count).view(-1, 1, 1, 1)).sigmoid()


def gradient_of_misfit(defense, z_clean, z):
    """By autograd, in float64."""
    z_clean = z_clean.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(defense.misfit(z_clean, z).sum(), z_clean)
    return gradient.double().numpy()


# -- what is known of rounded and cut elements


@pytest.mark.parametrize("mean", [0.0, 0.3, 1.0, -4.0, 9.0])
def test_the_probability_of_an_interval_and_its_gradient(mean):
    low = np.array([-0.3, 0.1, 0.29, -1e4, 0.9, 2.0])
    high = np.array([0.3, 0.2, 0.31, 0.05, 1e4, 2.01])
    std = 0.4

    def exact(at):
        """log of a difference of tails, from the side on which scipy's tails are small."""
        a, b = (low - at) / std, (high - at) / std
        a, b = np.where(a + b > 0, -b, a), np.where(a + b > 0, -a, b)
        return stats.norm.logcdf(b) + np.log(-np.expm1(stats.norm.logcdf(a) - stats.norm.logcdf(b)))

    at = torch.full((6,), mean, requires_grad=True)
    found = log_between(torch.tensor(low), torch.tensor(high), at, std)
    np.testing.assert_allclose(found.detach().numpy(), exact(mean), rtol=1e-6, atol=1e-6)
    (gradient,) = torch.autograd.grad(found.sum(), at)
    slope = (exact(mean + 1e-5) - exact(mean - 1e-5)) / 2e-5
    np.testing.assert_allclose(gradient.numpy(), slope, rtol=1e-4, atol=1e-4)


# -- quantise


@pytest.mark.parametrize("bits", [1, 2, 5, 8])
def test_quantise_is_its_formula(bits):
    """numpy's rounding of the same noisy feature; exactly 2^b levels are sent, and the gradient passes unchanged."""
    defense, z_clean = make("quantise", noise_std=0.2, bits=bits), features().requires_grad_()
    sent = defense.transform(z_clean, generator(), "train")
    noise = torch.randn(z_clean.shape, generator=generator()).double().numpy()
    noisy = z_clean.detach().double().numpy() + 0.2 * noise
    steps = 2**bits - 1
    expected = np.round(np.clip(noisy, 0, 1) * steps) / steps
    away = np.abs(sent.detach().double().numpy() - expected)
    assert (away > 1e-6).mean() < 1e-3  # float32 rounds a few on the edge to the other side
    levels = sent.detach().unique()
    assert len(levels) <= 2**bits and torch.equal(levels, (levels * steps).round() / steps)
    if bits < 5:
        assert len(levels) == 2**bits
    weights = torch.randn(sent.shape, generator=generator(2))
    (gradient,) = torch.autograd.grad((sent * weights).sum(), z_clean)
    assert torch.equal(gradient, weights)


def test_quantise_without_noise_draws_nothing_and_is_the_same_in_every_phase():
    defense, z_clean = make("quantise", noise_std=0.0, bits=3), features()
    draws = generator()
    sent = [defense.transform(z_clean, draws, phase) for phase in ("train", "eval", "attack")]
    assert torch.equal(sent[0], sent[1]) and torch.equal(sent[0], sent[2])
    assert torch.equal(draws.get_state(), generator().get_state())
    assert (sent[0] - z_clean).abs().max() <= 0.5 / 7 + 1e-6


def test_the_misfit_of_quantise_is_what_is_counted():
    """exp(-misfit) of a single element is how often its level is drawn."""
    defense = make("quantise", noise_std=0.15, bits=2)
    for value in (0.02, 0.4, 0.95):
        clean = torch.full((200_000, 1, 1, 1), value)
        sent = defense.transform(clean, generator(), "attack")
        told = 0.0
        for level in (0, 1 / 3, 2 / 3, 1):
            share = ((sent - level).abs() < 1e-3).double().mean().item()
            chance = defense.misfit(clean[:1], torch.full((1, 1, 1, 1), level)).neg().exp().item()
            assert chance == pytest.approx(share, abs=0.004)
            told += chance
        assert told == pytest.approx(1, abs=1e-5)


# -- topk


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_topk_is_its_formula(share):
    defense, z_clean = make("topk", noise_std=0.3, share=share), features().requires_grad_()
    sent = defense.transform(z_clean, generator(), "train")
    noisy = z_clean.detach() + 0.3 * torch.randn(z_clean.shape, generator=generator())
    expected = np.zeros((6, 512))
    for row, image in enumerate(noisy.flatten(1).numpy()):
        keep = np.argsort(-np.abs(image))[: round(share * 512)]
        expected[row, keep] = image[keep]
    np.testing.assert_array_equal(sent.detach().flatten(1).numpy(), expected.astype(np.float32))
    assert (defense.kept(sent).flatten(1).sum(1) == round(share * 512)).all()
    (gradient,) = torch.autograd.grad(sent.sum(), z_clean)
    assert torch.equal(gradient, defense.kept(sent).float())


def test_topk_sends_at_least_one_element():
    sent = make("topk", noise_std=0.0, share=1e-6).transform(features(), generator(), "eval")
    assert (sent != 0).flatten(1).sum(1).tolist() == [1] * 6


def test_the_misfit_of_topk_is_the_density_of_what_is_sent():
    """In float64: the normal density of what was kept, the normal probability of less than the least for the rest."""
    defense, z_clean = make("topk", noise_std=0.3, share=0.4), features()
    z = defense.transform(z_clean, generator(), "attack")
    expected = []
    for clean, image in zip(z_clean.flatten(1).double().numpy(), z.flatten(1).double().numpy(), strict=True):
        kept = image != 0
        least = np.abs(image[kept]).min()
        density = -np.square((image - clean)[kept] / 0.3).sum() / 2
        below = stats.norm.cdf((least - clean[~kept]) / 0.3) - stats.norm.cdf((-least - clean[~kept]) / 0.3)
        expected.append(-density - np.log(below).sum())
    np.testing.assert_allclose(defense.misfit(z_clean, z).numpy(), expected, rtol=1e-5)
    gradient = gradient_of_misfit(defense, z_clean, z)
    kept = (z != 0).numpy()
    pull = ((z_clean - z) / 0.09).double().numpy()
    np.testing.assert_allclose(gradient[kept], pull[kept], rtol=1e-4, atol=1e-5)
    assert (gradient[~kept] > -1e-6).all()  # the others are pulled down, towards 0


# -- laplace


def clipped(z, bound):
    norm = np.abs(z).sum((1, 2, 3), keepdims=True)
    return z * np.minimum(1, bound / norm)


@pytest.mark.parametrize("bound", [60.0, 250.0, 1000.0])
def test_laplace_clips_the_l1_norm(bound):
    defense, z_clean = make("laplace", bound=bound, epsilon=1e9), features()
    found = defense.clipped(z_clean)
    np.testing.assert_allclose(found.numpy(), clipped(z_clean.double().numpy(), bound), rtol=1e-5)
    norms = found.flatten(1).abs().sum(1)
    assert (norms <= bound * 1.0001).all()
    assert torch.equal(found, z_clean) == (bound == 1000.0)


def test_the_noise_of_laplace_is_the_stated_one():
    """Scale 2 bound / epsilon, by mean, standard deviation and the whole distribution."""
    defense = make("laplace", bound=30.0, epsilon=150.0)
    assert defense.params.scale == pytest.approx(0.4) and defense.params.noise_std == pytest.approx(0.4 * 2**0.5)
    for seed, phase in enumerate(("train", "eval", "attack")):
        noise = defense.transform(torch.zeros(50, 8, 8, 8), generator(seed), phase).double().flatten().numpy()
        assert np.abs(noise).mean() == pytest.approx(0.4, rel=0.02)
        assert noise.std() == pytest.approx(defense.params.noise_std, rel=0.02)
        assert stats.kstest(noise, stats.laplace(scale=0.4).cdf).pvalue > 0.01


def test_the_epsilon_of_laplace_holds_for_any_two_images():
    """The privacy loss log p(z | a) / p(z | b) of each release, and the worst: disjoint features at the bound."""
    defense = make("laplace", bound=5.0, epsilon=3.0)
    a, b = torch.zeros(1, 8, 8, 8), torch.zeros(1, 8, 8, 8)
    a[:, :4], b[:, 4:] = 1.0, 1.0  # far beyond the bound before they are clipped
    losses = []
    for seed in range(50):
        z = defense.transform(a, generator(seed), "attack")
        losses.append((defense.misfit(b, z) - defense.misfit(a, z)).item())
    assert max(losses) <= 3.0 + 1e-3
    worst = defense.clipped(a)  # noise 0: the most telling release
    assert (defense.misfit(b, worst) - defense.misfit(a, worst)).item() == pytest.approx(3.0, rel=1e-4)


def test_the_gradient_of_laplace_is_that_of_the_clipping():
    defense = make("laplace", bound=100.0, epsilon=50.0)
    z_clean = features(2).requires_grad_()
    weights = torch.randn(2, 8, 8, 8, generator=generator(3))
    (gradient,) = torch.autograd.grad((defense.transform(z_clean, generator(), "train") * weights).sum(), z_clean)
    for row in range(2):
        a, w = z_clean[row].detach().double().numpy(), weights[row].double().numpy()
        norm = np.abs(a).sum()
        assert norm > 100
        expected = 100 * (w / norm - (a * w).sum() * np.sign(a) / norm**2)
        np.testing.assert_allclose(gradient[row].numpy(), expected, rtol=1e-4, atol=1e-6)


# -- all of them, from training to attack


@pytest.mark.parametrize("name", MORE)
def test_what_an_attacker_is_sent(name):
    assert make(name).channel() == {"quantise": "processed", "topk": "processed"}.get(name, "other")


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("cem", ["on", "full"])
@pytest.mark.parametrize("name", MORE)
def test_a_step_can_be_captured(tiny_images, name, cem):
    """Replayed on the tape it is the eager step, bit for bit, the defence's own state included."""
    eager, taped = (training(tiny_images, name, cem) for _ in range(2))
    history = loop.run(eager)
    taped.captured.backend = tape = Tape()
    assert loop.run(taped, None, notes := Notes()) == history
    assert_same(states(taped), states(eager))
    assert notes.texts == [] and taped.captured.used and tape.played >= 9
    assert eager.cem is not None and all(record["cem"] != 0 for record in history[1:])


@pytest.mark.parametrize("name", MORE)
def test_a_stopped_training_ends_as_an_undisturbed_one(tiny_images, tmp_path, name):
    whole = training(tiny_images, name, "diagonal")
    history = loop.run(whole)
    path = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        loop.run(training(tiny_images, name, "diagonal"), path, Notes(stop=9))
    torch.manual_seed(999)
    resumed = training(tiny_images, name, "diagonal")
    assert loop.run(resumed, path) == history
    assert_same(states(resumed), states(whole))
