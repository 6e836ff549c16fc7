"""The defences that are not the paper's, each against its formula in float64, and all of them from end to end."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import benchmark
from benchmark.bounds.fisher import jacobian
from benchmark.data import normalise
from benchmark.defenses import DEFENSES, Batch
from benchmark.defenses.intervals import log_between
from benchmark.errors import UserError
from benchmark.jobs.run_job import Machine, encoder_of, prepare_attack
from benchmark.store.store import Store
from benchmark.training import checkpoint, loop
from tests.defenses.test_defenses import generator, make
from tests.report.test_bounds_report import bounds
from tests.support.command_line import Place, place  # noqa: F401 (fixture)
from tests.support.tape import Tape
from tests.training.test_graph import Notes, assert_same, states, training

MORE = ("quantise", "topk", "laplace", "vib", "fisher", "shredder", "infoscissors", "disco")
LEARNING = ("vib", "fisher", "shredder", "disco")


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


# -- vib


def trained(name, start, **changes):
    """A defence built for training, whose first learned tensor is filled with `start` plus a little of its own."""
    defense = make(name, **changes)
    defense.build()
    with torch.no_grad():
        learned = getattr(defense, defense.learned[0])
        learned.copy_(start + 0.2 * torch.randn(learned.shape, generator=generator(9)))
    return defense


def batch_of(defense, z_clean, draws=None):
    z = defense.transform(z_clean, draws or generator(), "train")
    x = torch.zeros(len(z_clean), 3, 32, 32)
    return Batch(x01=x, x=x, labels=torch.zeros(len(z_clean), dtype=torch.int64), z_clean=z_clean, z=z)


def test_the_loss_of_vib_is_the_divergence_of_two_normal_distributions():
    defense, z_clean = trained("vib", -1.0, beta=0.3), features().requires_grad_()
    loss = defense.loss(batch_of(defense, z_clean))
    mean, std = z_clean.detach().double(), defense.log_std.detach().double().exp()
    divergence = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, std.expand_as(mean)), torch.distributions.Normal(0.0, 1.0)
    )
    assert loss.item() == pytest.approx(0.3 * divergence.flatten(1).sum(1).mean().item(), rel=1e-5)
    of_mean, of_std = torch.autograd.grad(loss, [z_clean, defense.log_std])
    np.testing.assert_allclose(of_mean.numpy(), 0.3 * mean.numpy() / 6, rtol=1e-5)
    np.testing.assert_allclose(of_std.numpy(), 0.3 * (std**2 - 1).numpy(), rtol=1e-5)


def test_the_noise_of_vib_is_what_it_learned_and_its_gradient_reaches_it():
    defense = trained("vib", -1.5)
    std = defense.log_std.detach().exp()
    for seed, phase in enumerate(("train", "eval", "attack")):
        noise = defense.transform(torch.zeros(4000, 8, 8, 8), generator(seed), phase).detach()
        torch.testing.assert_close(noise.std(0), std, rtol=0.06, atol=0)
        assert stats.kstest((noise / std).flatten()[:20000].numpy(), stats.norm.cdf).pvalue > 0.01
    z_clean = features()
    z = defense.transform(z_clean, generator(), "train")
    (gradient,) = torch.autograd.grad(z.sum(), defense.log_std)
    torch.testing.assert_close(gradient, (z - z_clean).detach().sum(0), rtol=1e-4, atol=1e-5)
    normal = torch.distributions.Normal(z_clean, std.expand_as(z_clean))
    expected = (normal.log_prob(z_clean) - normal.log_prob(z.detach())).flatten(1).sum(1)
    torch.testing.assert_close(defense.misfit(z_clean, z).detach(), expected, rtol=1e-4, atol=1e-3)


def test_vib_can_start_from_no_noise():
    """`--set defenses.*.noise_std=0` has to be possible: it concerns every row at once."""
    assert make("vib", noise_std=0.0).log_std.exp().unique().tolist() == pytest.approx([0.001])


def test_a_step_of_vib_raises_the_noise_where_nothing_speaks_against_it():
    defense = trained("vib", -1.5, noise_lr=0.01)
    before = defense.log_std.detach().clone()
    defense.loss(batch_of(defense, features())).backward()
    defense.after_step()
    torch.testing.assert_close(defense.log_std.detach(), before + 0.01, rtol=0, atol=1e-5)
    assert defense.log_std.grad is None


# -- fisher


class Linear:
    """An encoder z = A x of images [B, 3, 4, 4] in place of `encode`, whose Jacobian is A."""

    def __init__(self, rows=8 * 8 * 8, seed=4):
        self.matrix = torch.randn(rows, 48, generator=generator(seed)) / 10

    def __call__(self, x, gradient=False):
        with torch.set_grad_enabled(gradient):
            return (x.flatten(1) @ self.matrix.T).view(-1, 8, 8, 8)


def test_fisher_meets_the_stated_leakage():
    """The Jacobian of the normalised encoder, in float64, gives the trace; the noise that of the stated dFIL."""
    torch.manual_seed(0)
    defense = make("fisher", noise_std=0.0, leakage=2.0, images=16, window=400)
    defense.setting = replace(defense.setting, image_size=4)
    encoder, std = Linear(), torch.tensor([0.25, 0.2, 0.3]).view(1, 3, 1, 1)
    for step in range(400):
        x01 = torch.rand(16, 3, 4, 4, generator=generator(step))
        defense.before_step(x01, (x01 - 0.5) / std, encoder)
    jacobian = encoder.matrix.double() / std.double().expand(1, 3, 4, 4).flatten()
    trace = (jacobian.T @ jacobian).trace().item()
    assert defense.sensitivity.item() == pytest.approx(trace, rel=0.02)
    noise = defense.transform(torch.zeros(200, 8, 8, 8), generator(), "eval")
    assert trace / (noise.double().var().item() * 48) == pytest.approx(2.0, rel=0.03)
    assert defense.noise_level() == pytest.approx((trace / 96) ** 0.5, rel=0.01)


def test_the_noise_of_fisher_follows_the_encoder_and_is_never_below_the_least():
    defense = make("fisher", noise_std=0.03, leakage=2.0, images=4, window=10)
    assert defense.noise_level() == pytest.approx(0.03)
    x01 = torch.rand(4, 3, 4, 4, generator=generator())
    first, second = Linear(), Linear()
    second.matrix *= 3
    for _ in range(100):
        defense.before_step(x01, x01, first)
    before = defense.sensitivity.item()
    for _ in range(100):
        defense.before_step(x01, x01, second)
    assert defense.sensitivity.item() == pytest.approx(9 * before, rel=0.3)
    assert defense.noise_level() == pytest.approx((defense.sensitivity.item() / (2 * 3 * 32**2)) ** 0.5, rel=1e-4)


def test_the_encoder_of_a_training_gives_fisher_its_jacobian(tiny_images):
    """|J^T v|^2 of the real network, where E over v is the trace by `bounds`; its weights get no gradient from it."""
    task = training(tiny_images, "fisher", "off")
    x01 = tiny_images.train.images[:4].float() / 255
    task.model.zero_grad()
    for _ in range(200):
        task.defense.before_step(x01, normalise(x01, tiny_images.mean, tiny_images.std), task.encode)
    assert all(parameter.grad is None for parameter in task.model.parameters())
    task.model.eval()
    encoder = lambda images: task.model.encoder(normalise(images, tiny_images.mean, tiny_images.std))  # noqa: E731
    exact = np.mean([jacobian(encoder, image).double().square().sum().item() for image in x01])
    assert task.defense.sensitivity.item() == pytest.approx(exact, rel=0.1)


def test_what_fisher_learned_is_its_noise():
    defense = trained("fisher", 400.0, noise_std=0.001, leakage=0.5)
    assert defense.channel() == "gaussian"
    assert defense.noise_level() == pytest.approx((defense.sensitivity.item() / 1536) ** 0.5, rel=1e-5)
    z_clean = features()
    z = defense.transform(z_clean, generator(), "attack")
    assert (z - z_clean).std().item() == pytest.approx(defense.noise_level(), rel=0.05)
    expected = ((z - z_clean).double() / defense.noise_level()).square().flatten(1).sum(1) / 2
    np.testing.assert_allclose(defense.misfit(z_clean, z).numpy(), expected.numpy(), rtol=1e-5)


def test_the_bounds_of_fisher_are_those_of_its_noise_and_learned_noise_has_none(tiny_images, monkeypatch):
    monkeypatch.setattr(DEFENSES.get("fisher"), "std", lambda self: torch.tensor(0.3))
    found, reason = bounds("fisher", tiny_images, noise_std=0.001)
    expected = bounds("bottleneck", tiny_images, noise_std=0.3)[0]
    assert found == pytest.approx(expected, rel=1e-4) and "dfil" in found and reason == ""
    for name in ("laplace", "vib", "shredder"):
        values, reason = bounds(name, tiny_images)
        assert values == {} and f"what the attacker is sent by {name} is not the feature" in reason


# -- shredder


def test_the_tensors_of_shredder_start_as_laplacian_noise():
    torch.manual_seed(0)
    defense = make("shredder", tensors=16, start_scale=0.3)
    defense.build()
    values = defense.tensors.detach().double().flatten().numpy()
    assert stats.kstest(values, stats.laplace(scale=0.3).cdf).pvalue > 0.01


def test_shredder_draws_one_of_its_tensors_for_each_image():
    defense = trained("shredder", 0.0, noise_std=0.0, tensors=5)
    z = defense.transform(torch.zeros(2000, 8, 8, 8), generator(), "attack").detach()
    which = (z[:, None] == defense.tensors.detach()).flatten(2).all(2)
    assert (which.sum(1) == 1).all()
    assert stats.chisquare(which.sum(0).numpy()).pvalue > 0.01
    (gradient,) = torch.autograd.grad(defense.transform(z, generator(), "train").sum(), defense.tensors)
    torch.testing.assert_close(gradient, which.sum(0).float().view(-1, 1, 1, 1).expand_as(gradient))


def test_shredder_enlarges_its_tensors_up_to_the_target():
    defense, z_clean = trained("shredder", 0.1, tensors=4, weight=0.7, noise_lr=0.01, target=0.5), features()
    values = defense.tensors.detach().double()
    ratio = (values.var(correction=0) / z_clean.double().square().mean()).item()
    assert defense.ratio(z_clean).item() == pytest.approx(ratio, rel=1e-5) and ratio < 0.5
    loss = defense.loss(batch_of(defense, z_clean))
    assert loss.item() == pytest.approx(-0.7 * values.abs().mean().item(), rel=1e-5)
    loss.backward()
    defense.after_step()
    moved = defense.tensors.detach().double() - values
    assert (moved * values.sign()).min().item() == pytest.approx(0.01, rel=1e-2) and defense.tensors.grad is None
    with torch.no_grad():
        defense.tensors *= 100
    assert defense.loss(batch_of(defense, z_clean)).item() == 0


def test_the_misfit_of_shredder_is_the_density_of_the_mixture():
    defense, z_clean = trained("shredder", 0.0, noise_std=0.5, tensors=3), features()
    a, b = (defense.transform(z_clean, generator(seed), "attack").detach() for seed in (1, 2))

    def log_density(z):
        means = z_clean.double().flatten(1)[:, None] + defense.tensors.detach().double().flatten(1)
        each = stats.norm.logpdf(z.double().flatten(1)[:, None].numpy(), means.numpy(), 0.5).sum(2)
        return np.log(np.exp(each - each.max(1, keepdims=True)).mean(1)) + each.max(1)

    found = (defense.misfit(z_clean, b) - defense.misfit(z_clean, a)).detach().numpy()
    np.testing.assert_allclose(found, log_density(a) - log_density(b), rtol=1e-4, atol=1e-3)


# -- infoscissors


def test_the_decoder_of_infoscissors_steps_and_then_judges():
    """Its own step lowers the MSE on what `encode` gives; then the encoder is charged by it, in evaluation mode."""
    torch.manual_seed(0)
    defense = make("infoscissors", weight=0.7, adversary_steps=2)
    defense.build()
    x01, encoded = torch.rand(4, 3, 32, 32), torch.rand(4, 8, 8, 8)
    start = copy.deepcopy(defense.adversary)
    (gradient,) = torch.autograd.grad((start(encoded) - x01).square().mean(), next(start.parameters()))
    defense.before_step(x01, x01, lambda x: encoded)
    moved = next(defense.adversary.parameters()).detach() - next(start.parameters()).detach()
    assert (moved * gradient).sum() < 0 and defense.adversary.training

    before = [parameter.grad.clone() for parameter in defense.adversary.parameters()]
    judge = copy.deepcopy(defense.adversary).eval()
    charged = {}
    for at, order in enumerate(([0, 1, 2, 3], [1, 2, 3, 0])):  # of images, so that one of the two is not 0
        clean = encoded.clone().requires_grad_()
        batch = replace(batch_of(defense, clean), x01=x01[order])
        loss = defense.loss(batch)
        errors = [
            (judge(clean).double() - images.double()).square().mean()
            for images in (x01[order], x01[[order[-1], *order[:-1]]])
        ]
        expected = 0.7 * (errors[1] - errors[0]).clamp_min(0)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-3, abs=1e-8)
        (got,), (wanted,) = torch.autograd.grad(loss, clean), torch.autograd.grad(expected, clean)
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-8)
        charged[at] = loss.item()
    assert max(charged.values()) > 0
    assert all(map(torch.equal, before, (parameter.grad for parameter in defense.adversary.parameters())))
    told = defense.end_epoch(0, None, None)
    assert told["bound"] == pytest.approx(sum(charged.values()) / 0.7, rel=1e-5) and told["adversary_mse"] > 0
    assert defense.seen.sum() == 0


# -- disco


def test_disco_zeroes_the_channels_of_the_lowest_scores():
    """The same network in float64 numpy, channel by channel; of each image, 3 of 8."""
    torch.manual_seed(1)
    defense = make("disco", share=0.44, noise_std=0.1)
    defense.build()
    z_clean = features() * torch.rand(6, 8, 1, 1)
    sent = defense.transform(z_clean, generator(), "attack").detach()
    noisy = (z_clean + 0.1 * torch.randn(z_clean.shape, generator=generator())).double().numpy()
    hidden, hidden_bias, out, out_bias = (getattr(defense, name).detach().double().numpy() for name in defense.learned)
    for image, seen in zip(noisy, sent, strict=True):
        facts = np.concatenate([image.mean((1, 2)), image.std((1, 2))])
        scores = out @ np.maximum(hidden @ facts + hidden_bias, 0) + out_bias
        expected = image * ~np.isin(np.arange(8), np.argsort(scores)[:3])[:, None, None]
        np.testing.assert_allclose(seen.double().numpy(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(defense.kept(sent), sent != 0) and len({str(one.any((1, 2)).tolist()) for one in sent != 0}) > 1


@pytest.mark.parametrize("share, pruned", [(0, 0), (0.124, 0), (0.125, 1), (0.99, 7)])
def test_disco_prunes_a_share_and_sends_at_least_one_channel(share, pruned):
    defense = make("disco", share=share, noise_std=0)
    sent = defense.transform(features(), generator(), "eval")
    assert ((sent == 0).all(3).all(2).sum(1) == pruned).all()


def test_the_pruning_network_of_disco_raises_the_error_of_its_decoder():
    """The encoder gets no gradient of it; the mask's is that of the sigmoid about the score at the threshold."""
    torch.manual_seed(2)
    defense = make("disco", weight=2.0, adversary_steps=2)
    defense.build()
    x01, encoded = torch.rand(4, 3, 32, 32), features(4).requires_grad_()
    defense.before_step(x01, x01, lambda x: encoded.detach())
    start = copy.deepcopy(defense.adversary)
    loss = defense.loss(replace(batch_of(defense, encoded), x01=x01))
    expected = -2 * (start.eval()(encoded * defense.mask(encoded)) - x01).square().mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    assert encoded.grad is None and all(getattr(defense, name).grad.abs().sum() > 0 for name in defense.learned)
    before = defense.learned_state()
    slope = sum((getattr(defense, name).grad ** 2).sum() for name in defense.learned)
    defense.after_step()
    assert slope > 0 and all(not torch.equal(before[name], getattr(defense, name)) for name in defense.learned)
    assert all(getattr(defense, name).grad is None for name in defense.learned)

    scores = torch.tensor([[0.10, 0.12, 0.15, 0.30]], requires_grad=True)  # the second is the lowest that is kept
    soft = 1 / (1 + torch.exp(-(scores - 0.12) * 30))
    (wanted,) = torch.autograd.grad(soft.sum(), scores)
    small = make("disco", share=0.25)
    small.pruned, small.hidden, small.hidden_bias = 1, *(nn.Parameter(torch.zeros(*size)) for size in ((1, 8), (1,)))
    small.out, small.out_bias = nn.Parameter(torch.zeros(4, 1)), nn.Parameter(scores.detach()[0].clone())
    mask = small.mask(torch.rand(1, 4, 2, 2))
    assert mask.flatten().tolist() == [0, 1, 1, 1]
    (got,) = torch.autograd.grad(mask.sum(), small.out_bias)
    torch.testing.assert_close(got, wanted[0])


# -- what a defence learned


@pytest.mark.parametrize("name", LEARNING)
def test_what_was_learned_is_taken_over(name):
    """A fresh defence with the state behaves as the one that learned it."""
    old, new = trained(name, {"vib": -1.0, "fisher": 400.0, "shredder": 0.0, "disco": 0.0}[name]), make(name)
    new.load_learned(old.learned_state())
    z_clean = features()
    sent = [defense.transform(z_clean, generator(), "attack").detach() for defense in (old, new, make(name))]
    assert torch.equal(sent[0], sent[1]) and not torch.equal(sent[0], sent[2])
    assert torch.equal(old.misfit(z_clean, sent[0]), new.misfit(z_clean, sent[0]))
    kept = old.learned_state()
    with torch.no_grad():
        getattr(old, name_of(old)).zero_()
    assert torch.equal(kept[name_of(old)], getattr(new, name_of(new)))


def name_of(defense):
    return defense.learned[0]


def test_what_another_defence_learned_is_refused():
    with pytest.raises(UserError, match="what the defence 'vib' learns; train again"):
        make("vib").load_learned({})
    with pytest.raises(UserError, match="what the defence 'bottleneck' learns; train again"):
        make("bottleneck").load_learned(make("vib").learned_state())


@pytest.mark.parametrize("name", LEARNING)
def test_the_chosen_checkpoint_holds_what_was_learned_by_then(tiny_images, monkeypatch, name):
    """Of the best epoch, not of the last; and a defence that learns nothing leaves the file as it was."""
    task = training(tiny_images, name, "off", torch.device("cpu"), "train.select_after=0")
    learned, accuracies = [], iter([50.0, 80.0, 60.0])

    def accuracy(*images):
        learned.append(task.defense.learned_state())
        return next(accuracies)

    monkeypatch.setattr(task, "accuracy", accuracy)
    loop.run(task)
    assert_same(task.best["defense"], learned[1])
    assert not torch.equal(learned[1][name_of(task.defense)], learned[2][name_of(task.defense)])
    assert list(encoder_of(task.best)) == ["weights", "widths", "defense"]
    plain = training(tiny_images, "quantise", "off")
    assert list(plain.best) == ["weights", "widths"] == list(encoder_of(plain.best))


# -- all of them, from training to attack


@pytest.mark.parametrize("name", MORE)
def test_what_an_attacker_is_sent(name):
    assert make(name).channel() == {
        "quantise": "processed",
        "topk": "processed",
        "disco": "processed",
        "fisher": "gaussian",
        "infoscissors": "gaussian",
    }.get(name, "other")


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


# -- through the command line


def small(place, defenses, **changes):  # noqa: F811
    """Rows without and with CEM, of two tiny epochs, attacked by the decoder and through the likelihood."""

    def change(matrix, smoke):
        smoke |= {"defense": list(defenses), "attacker": ["decoder", "whitebox"], "split": ["infer"], "efficiency": []}
        smoke["set"] |= {"attacks.whitebox.iterations": 2}
        smoke |= changes

    return place.edit(change)


@pytest.mark.slow
def test_every_one_runs_from_training_to_table(place):  # noqa: F811
    small(place, MORE)
    outcome = place.call("run")
    assert outcome.code == 0, outcome.err
    assert place.call("report").code == 0
    rows = (place.written() / "results.csv").read_text()
    for name in MORE:
        for cem in ("off", "on"):
            for attacker in ("decoder", "whitebox"):
                assert f"smoke,photos,{name},{cem},published,attack,{attacker},infer,mse,125,0." in rows
    for folder in place.results.glob("photos/*/*"):
        record = json.loads((folder / "provenance.json").read_text())
        config = json.loads((folder / "job.json").read_text())["config"]
        assert record["precision"] == "fp32" and record["fingerprint"]
        if folder.name.startswith("train"):
            assert config["defense"]["name"] == folder.parent.name.removesuffix("+cem")
            learned = checkpoint.load(folder / "encoder.safetensors").get("defense", {})
            assert bool(learned) == (config["defense"]["name"] in LEARNING)
    machine = Machine(Store(place.results), place.data, torch.device("cpu"))
    attacks = [cell.job for cell in place.cells("attacker=decoder,cem=on") if cell.kind == "attack"]
    for job in attacks:  # the attacker is sent what the chosen encoder's defence sends, and may not train it
        defense = prepare_attack(job, machine).task.target.kept.__self__
        folder = place.results / job.parents["train"].folder
        assert_same(defense.learned_state(), checkpoint.load(folder / "encoder.safetensors").get("defense", {}))
        assert not any(parameter.requires_grad for parameter in defense.parameters())
    stored = benchmark.load_encoder("photos/vib+cem", results=place.results, data=place.data, matrix=place.matrix)
    wanted = checkpoint.load(place.results / stored.name / "encoder.safetensors")["defense"]
    assert_same(stored.channel.learned_state(), wanted)


@pytest.mark.parametrize("protocol", ["published", "corrected"])
def test_a_run_that_was_stopped_ends_with_the_same_numbers(place, tmp_path, monkeypatch, protocol):  # noqa: F811
    """Every training and attack stopped once after a step. Without quirk q6 the chosen checkpoint is judged again."""
    overrides = [{"where": {"protocol": protocol}, "set": {"model.arch": "resnet20"}}]
    small(place, LEARNING, attacker=["decoder"], protocol=[protocol], overrides=overrides)
    other = Place(tmp_path / "stopped", place.data)
    small(other, LEARNING, attacker=["decoder"], protocol=[protocol], overrides=overrides)
    one = ("--where", "cem=on")
    assert place.call("run", *one).code == 0
    real, seen = loop.run, set()

    def stopped(task, path, monitor):
        job = path.parent.name.partition(".")[0]  # a folder that was given up has a number after a dot
        if job not in seen:
            seen.add(job)
            monitor.stopping = lambda: True
        return real(task, path, monitor)

    monkeypatch.setattr(loop, "run", stopped)
    jobs = 2 * len(LEARNING)  # a training and an attack each
    codes = [other.call("run", *one).code for _ in range(jobs + 1)]
    assert codes == [130] * jobs + [0] and len(seen) == jobs
    assert other.finished() == place.finished() and len(place.finished()) == jobs
