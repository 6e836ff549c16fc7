"""The standard suite of attackers, against oracles of their own, and the choice among them."""

import json
import shutil

import numpy as np
import pytest
import torch

from benchmark.attacks import ATTACKS, Target
from benchmark.attacks.held_out import MSE, SSIM, set_aside
from benchmark.attacks.network import Average
from benchmark.attacks.ridge import PENALTIES
from benchmark.attacks.whitebox import Descent
from benchmark.attacks.whitebox_standard import LEAST, principal_axes
from benchmark.data import ImageSet
from benchmark.errors import UserError
from benchmark.matrix.load import MatrixFile
from benchmark.metrics.reconstruction import combine, mse_per_image
from benchmark.metrics.ssim import ssim_per_image
from benchmark.models.unet import UNet
from benchmark.training import loop
from tests.attacks.test_attacks import CPU, FP32, add_noise, attack, everything, images, params, shrink  # noqa: F401 (a fixture)
from tests.support.command_line import place  # noqa: F401 (a fixture)

SIGMA = 0.15


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def noisy(sigma):
    return lambda z, draws: z + sigma * torch.randn(z.shape, generator=draws)


def gaussian(sigma):
    return lambda z_clean, z: ((z - z_clean) / sigma).square().flatten(1).sum(1) / 2


SEND, MISFIT = noisy(SIGMA), gaussian(SIGMA)


def target(pictures, features, send=SEND, misfit=MISFIT, kept=everything):
    """pictures: uint8 [N, 3, H, H]; features: clean [N, C, h, w]."""
    return Target(
        features=features,
        images=pictures,
        send=send,
        image_size=pictures.shape[-1],
        device=CPU,
        seed=7,
        autocast=FP32,
        encode=shrink,
        kept=kept,
        misfit=misfit,
    )


def fitted(name, aimed_at, **changes):
    task = ATTACKS.get(name)(params(name, **changes), aimed_at)
    loop.run(task)
    return task


def colours(count, seed=0):
    """Images of one Gaussian colour each, standard deviation 0.12, and their colours [N, 3, 1, 1] as features."""
    mean = torch.tensor([0.5, 0.45, 0.55])
    x = mean + 0.12 * torch.randn(count, 3, generator=generator(seed))
    pictures = (x * 255).round().clamp(0, 255).byte()[:, :, None, None].repeat(1, 1, 8, 8)
    return pictures, pictures[:, :, :1, :1].float() / 255, mean


def structured(count, seed=0):
    """Images [N, 3, 8, 8] of few degrees of freedom and features [N, 2, 2, 2] that are a nonlinear function of them."""
    hidden = torch.randn(count, 4, generator=generator(seed))
    base = 0.12 * torch.randn(4, 3 * 64, generator=generator(99))
    pictures = ((0.5 + hidden @ base).clamp(0, 1) * 255).round().byte().view(count, 3, 8, 8)
    mixing = 0.1 * torch.randn(3 * 64, 8, generator=generator(98))
    features = torch.sigmoid(pictures.float().flatten(1) / 255 @ mixing).view(count, 2, 2, 2)
    return pictures, features


# -- images held out


def test_the_images_held_out_are_a_share_and_the_same_for_all():
    pictures, features = structured(200)
    aimed_at = target(pictures, features)
    others, held = set_aside(aimed_at)
    assert len(held.images) == len(held.z) == 10 and len(others.images) == len(others.features) == 190
    assert not {row.numpy().tobytes() for row in held.images} & {row.numpy().tobytes() for row in others.images}
    again = set_aside(aimed_at)[1]
    assert torch.equal(again.z, held.z) and torch.equal(again.images, held.images)
    order = [int((pictures == image).flatten(1).all(1).nonzero()[0]) for image in held.images]
    residual = (held.z - features[order]) / SIGMA
    assert 0.6 < residual.std().item() < 1.4  # as sent, with noise
    assert len(set_aside(target(pictures[:2], features[:2]))[1].images) == 1
    with pytest.raises(UserError, match="2 of its own"):
        set_aside(target(pictures[:1], features[:1]))


@pytest.mark.parametrize("name", ["ridge", "kernel"])
def test_what_is_held_out_says_how_well_others_are_rebuilt(name):
    """Of 4,000 images: the error on those held out, and on others, which the attacker never saw."""
    pictures, features = structured(4000)
    task = fitted(name, target(pictures, features))
    judged = task.found({})
    held = task.reconstruct(task.held_out.z)
    x01 = task.held_out.images.float() / 255
    assert judged[MSE] == pytest.approx(mse_per_image(held, x01).mean().item(), rel=1e-5)
    assert judged[SSIM] == pytest.approx(ssim_per_image(held, x01).mean().item(), rel=1e-5)
    fresh, clean = structured(2000, seed=5)
    rebuilt = task.reconstruct(noisy(SIGMA)(clean, generator(3)))
    assert judged[MSE] == pytest.approx(mse_per_image(rebuilt, fresh.float() / 255).mean().item(), rel=0.15)


# -- ridge


def ridge_oracle(z, x, penalty):
    """Weights and means by numpy's normal equations in float64; the penalty in mean variances."""
    z, x = z.flatten(1).double().numpy(), x.flatten(1).double().numpy()
    a, b = z - z.mean(0), x - x.mean(0)
    covariance = a.T @ a / len(a)
    damped = covariance + penalty * np.diag(covariance).mean() * np.eye(len(covariance))
    return np.linalg.solve(damped, a.T @ b / len(a)), z.mean(0), x.mean(0)


@pytest.mark.parametrize("draws", [1, 3])
def test_ridge_is_the_solution_of_the_normal_equations(draws, monkeypatch):
    monkeypatch.setattr("benchmark.attacks.ridge.BATCH", 64)  # which does not divide the images
    pictures, features = structured(300)
    sent = []
    plain = noisy(SIGMA)

    def send(z, rng):
        sent.append(plain(z, rng))
        return sent[-1]

    task = fitted("ridge", target(pictures, features, send), draws=draws)
    count, x = len(task.target.images), task.target.images.float() / 255
    z = torch.cat(sent[-draws * -(-count // 64) :])  # of each batch all draws
    pairs = z, torch.cat([part.repeat(draws, 1, 1, 1) for part in x.split(64)])
    assert len(z) == draws * count == draws * 285
    weights, mean, mean_image = ridge_oracle(*pairs, task.penalty)
    np.testing.assert_allclose(task.weights.numpy(), weights, rtol=1e-3, atol=1e-5 * np.abs(weights).max())
    new = plain(structured(20, seed=3)[1], generator(4))
    expected = np.clip(mean_image + (new.flatten(1).double().numpy() - mean) @ weights, 0, 1)
    np.testing.assert_allclose(task.reconstruct(new).flatten(1).numpy(), expected, atol=1e-5)
    errors = []
    for share in PENALTIES.tolist():
        weights, mean, mean_image = ridge_oracle(*pairs, share)
        held = mean_image + (task.held_out.z.flatten(1).double().numpy() - mean) @ weights
        errors.append(np.square(np.clip(held, 0, 1) - task.held_out.images.flatten(1).numpy() / 255.0).mean())
    assert PENALTIES[int(np.argmin(errors))].item() == task.penalty


def test_ridge_takes_one_draw_where_nothing_is_random():
    pictures, features = structured(100)
    silent = fitted("ridge", target(pictures, features, lambda z, _: z.round(decimals=1)))
    assert silent._draws() == 1 and fitted("ridge", target(pictures, features))._draws() > 1


def test_ridge_stays_sane_with_fewer_images_than_elements():
    pictures, features = structured(12)
    wide = features.repeat(1, 20, 1, 1) + 0.01 * torch.randn(12, 40, 2, 2, generator=generator(1))
    task = fitted("ridge", target(pictures, wide))
    fresh, clean = structured(50, seed=2)
    rebuilt = task.reconstruct(clean.repeat(1, 20, 1, 1))
    x01 = fresh.float() / 255
    blind = mse_per_image((pictures.float() / 255).mean(0).expand_as(x01), x01).mean()
    assert mse_per_image(rebuilt, x01).mean() < 1.5 * blind


# -- the posterior mean


@pytest.mark.parametrize("distribution", ["gaussian", "laplace", "masked"])
def test_the_kernel_is_the_posterior_mean_over_the_attackers_images(distribution):
    """Every pair by numpy in float64; Gaussian noise goes by matrix products, Laplacian noise pair by pair."""
    pictures, features = structured(80)

    def masked(z, draws):
        return noisy(SIGMA)(z, draws) * (torch.rand(z.shape, generator=draws) < 0.7)

    def misfit(z_clean, z):
        if distribution == "laplace":
            return (z - z_clean).abs().flatten(1).sum(1) / SIGMA
        return ((z - z_clean) * (z != 0) / SIGMA).square().flatten(1).sum(1) / 2

    send = masked if distribution == "masked" else noisy(SIGMA)
    kept = (lambda z: z != 0) if distribution == "masked" else everything
    task = fitted("kernel", target(pictures, features, send, misfit, kept))
    assert (task.factor is None) == (distribution == "laplace")
    new = send(structured(9, seed=3)[1], generator(4))
    z, a = new.flatten(1).double().numpy()[:, None], task.target.features.flatten(1).double().numpy()[None]
    if distribution == "laplace":
        energies = np.abs(z - a).sum(2) / SIGMA
    else:
        energies = (np.square(z - a) * ((z != 0) if distribution == "masked" else 1)).sum(2) / SIGMA**2 / 2
    for temperature in (1.0, 4.0, task.temperature):
        task.temperature = temperature
        weights = np.exp(-(energies - energies.min(1, keepdims=True)) / temperature)
        weights /= weights.sum(1, keepdims=True)
        expected = weights @ (task.target.images.flatten(1).double().numpy() / 255)
        np.testing.assert_allclose(task.reconstruct(new).flatten(1).numpy(), expected, atol=2e-5)


def test_the_chunks_of_the_kernel_do_not_matter(monkeypatch):
    pictures, features = structured(80)
    new = noisy(SIGMA)(structured(9, seed=3)[1], generator(4))
    whole = fitted("kernel", target(pictures, features))
    for name, value in (("QUERIES", 3), ("IMAGES", 7), ("ELEMENTS", 100)):
        monkeypatch.setattr(f"benchmark.attacks.kernel.{name}", value)
    parted = fitted("kernel", target(pictures, features))
    assert parted.temperature == whole.temperature
    torch.testing.assert_close(parted.reconstruct(new), whole.reconstruct(new))
    factor, parted.factor = parted.factor, None
    assert factor == pytest.approx(1 / (2 * SIGMA**2), rel=1e-4)
    torch.testing.assert_close(parted.reconstruct(new), whole.reconstruct(new), rtol=1e-4, atol=1e-5)


def test_the_width_is_the_best_on_the_images_held_out():
    pictures, features = structured(300)
    task = fitted("kernel", target(pictures, features, noisy(0.01), gaussian(0.01)))
    chosen, errors = task.temperature, {}
    for power in range(11):
        task.temperature = 4.0**power
        errors[task.temperature] = task.judged()[MSE]
    assert min(errors, key=errors.get) == chosen
    assert 1 < chosen < 4.0**10 and errors[chosen] < 0.9 * errors[1.0]  # the nearest image alone is not the best answer


@pytest.mark.parametrize("name", ["ridge", "kernel"])
def test_of_a_gaussian_image_and_gaussian_noise_the_posterior_mean_is_known(name):
    """E[x | z] = mean + v / (v + sigma^2) (z - mean), of variance v = 0.12^2; both are near it, and its error."""
    pictures, features, mean = colours(4000)
    task = fitted(name, target(pictures, features))
    fresh, clean, _ = colours(1000, seed=1)
    z = noisy(SIGMA)(clean, generator(2))
    share = 0.12**2 / (0.12**2 + SIGMA**2)
    best = mean[:, None, None] + share * (z - mean[:, None, None])
    rebuilt = task.reconstruct(z)
    assert (rebuilt - best).square().mean().sqrt() < {"ridge": 0.005, "kernel": 0.02}[name]
    found = mse_per_image(rebuilt, fresh.float() / 255).mean().item()
    assert found == pytest.approx(share * SIGMA**2, rel=0.05)  # the variance of x, given z


@pytest.mark.parametrize("name", ["ridge", "kernel"])
def test_a_closed_form_starts_again_from_its_state(name, images):  # noqa: F811
    task = attack(name, images)
    assert loop.run(task) == []
    other = attack(name, images)
    other.start(json.loads(json.dumps(task.fitted())) if name == "kernel" else task.fitted())
    assert all(map(torch.equal, task.reconstructions(), other.reconstructions()))
    blind = (images.images.float() / 255).mean(0).expand(16, -1, -1, -1)
    x01 = images.images.float() / 255
    rebuilt = torch.cat(list(task.reconstructions()))
    assert mse_per_image(rebuilt, x01).mean() < mse_per_image(blind, x01).mean()


# -- networks

NETWORKS = ["converged", "ssim_decoder", "unet", "unrolled"]


def rebuilt(task):
    return torch.cat(list(task.reconstructions()))


def test_the_averaged_weights_are_the_recursion():
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    average = Average(module, decay=0.9)
    expected = {name: value.double() for name, value in module.state_dict().items()}
    for step in range(1, 121):
        for value in module.parameters():
            value.data += torch.randn(value.shape, generator=generator(step))
        module(torch.randn(8, 2, generator=generator(-step)))
        average.take(module)
        share = max(0.1, 9 / (10 + step))
        for name, value in module.state_dict().items():
            expected[name] = expected[name] + share * (value.double() - expected[name])
    for name, value in average.module.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), expected[name], rtol=1e-4, atol=1e-5)
    assert not average.module.training and not any(value.requires_grad for value in average.parameters())


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "ssim_decoder"])
def test_a_network_learns_a_few_images_by_heart(name, images):  # noqa: F811
    """Far better than the mean image, of whose error the pixels' own noise, lost in the feature, is a fifth; and the
    averaged copy is what rebuilds."""
    task = attack(name, images, send=lambda z, _: z, epochs=40, batch_size=8, lr=0.003, weight_decay=0.0, members=1)
    history = loop.run(task)
    x01 = images.images.float() / 255
    blind, found = x01.mean(0).expand(16, -1, -1, -1), rebuilt(task)
    assert history[-1]["loss"] < 0.3 * history[0]["loss"]
    assert mse_per_image(found, x01).mean() < 0.4 * mse_per_image(blind, x01).mean()
    assert history[-1][MSE] == pytest.approx(task.found({})[MSE])
    for value in task.networks.parameters():
        value.data.zero_()
    assert torch.equal(rebuilt(task), found)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_weight_of_a_network_gets_a_gradient(name, images):  # noqa: F811
    task = attack(name, images, members=2)
    task.begin_epoch(0)
    task.step(0, 0)
    task.step(0, 1)  # what starts at 0 has passed no gradient on in the first step
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in task.networks.parameters())


def test_the_mean_of_the_members_is_answered_and_they_differ(images):  # noqa: F811
    task = attack("converged", images, members=3, epochs=4)
    loop.run(task)
    z, x01 = task.target.received, images.images.float() / 255
    with torch.no_grad():
        members = torch.stack([network(z) for network in task.averages.module])
    torch.testing.assert_close(task.reconstruct(z), members.mean(0))
    spread = members.var(0, correction=0).mean()
    assert spread > 0
    errors = torch.stack([mse_per_image(member, x01).mean() for member in members])
    assert mse_per_image(members.mean(0), x01).mean() == pytest.approx((errors.mean() - spread).item(), rel=1e-3)


def test_one_optimiser_for_all_members_is_one_for_each(images):  # noqa: F811
    """The first member of two ends as it would alone."""
    both = attack("converged", images, members=2)
    alone = attack("converged", images, members=1)
    alone.networks[0].load_state_dict(both.networks[0].state_dict())
    for task in (both, alone):
        loop.run(task)
    for own, other in zip(both.networks[0].parameters(), alone.networks[0].parameters(), strict=True):
        assert torch.equal(own, other)


@pytest.mark.parametrize(("shape", "size"), [((8, 8, 8), 32), ((8, 12, 12), 48), ((8, 16, 16), 64), ((4, 7, 7), 28)])
def test_the_unet_fits_every_data_set(shape, size):
    network = UNet(shape, size, channels=4)
    x01 = network(torch.rand(2, *shape))
    assert x01.shape == (2, 3, size, size) and x01.min() >= 0 and x01.max() <= 1
    with pytest.raises(UserError, match="whole number of doublings"):
        UNet((8, 7, 7), 32, channels=4)


def test_the_ssim_decoder_minimises_our_metric_and_by_it_beats_the_same_decoder_on_mse(images):  # noqa: F811
    values = {"send": lambda z, _: z, "epochs": 40, "batch_size": 8, "lr": 0.003, "weight_decay": 0.0, "members": 1}
    tasks = {name: attack(name, images, **values) for name in ("ssim_decoder", "converged")}
    x01 = images.images.float() / 255
    other = x01.roll(1, 0)
    assert tasks["ssim_decoder"].loss(other, x01).item() == pytest.approx(1 - ssim_per_image(other, x01).mean().item())
    for task in tasks.values():
        loop.run(task)
    reached = {name: ssim_per_image(task.reconstruct(task.target.received), x01).mean() for name, task in tasks.items()}
    assert reached["ssim_decoder"] > reached["converged"] + 0.02


def test_a_stage_sees_the_residual_and_the_gradient_of_the_likelihood(images):  # noqa: F811
    def masked(z, draws):
        return add_noise(z, draws) * (torch.rand(z.shape, generator=draws) < 0.5)

    task = attack("unrolled", images, send=masked, kept=lambda z: z != 0)
    x01, z = torch.rand(16, 3, 32, 32, generator=generator()), task.target.received
    residual, gradient = task.look(x01, z)
    torch.testing.assert_close(residual, (z - shrink(x01)) * (z != 0))
    # of ||z - A x||^2 / 2 sigma^2, A the mean over 4x4 pixels: A^T (A x - z) / sigma^2
    expected = (shrink(x01) - z).repeat_interleave(4, 2).repeat_interleave(4, 3)
    expected = expected / expected.square().mean((1, 2, 3), keepdim=True).sqrt()
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-4)
    assert not residual.requires_grad and not gradient.requires_grad


def test_the_stages_mend_the_first_guess(images):  # noqa: F811
    """At first they add nothing; after a fit the last guess is better than the decoder's."""
    task = attack("unrolled", images, send=lambda z, _: z, epochs=30, batch_size=8, lr=0.003, members=1)
    z, x01 = task.target.received, images.images.float() / 255

    def errors():
        with torch.no_grad():
            return [mse_per_image(guess, x01).mean().item() for guess in task.rebuild(task.averages.module[0], z)]

    start = errors()
    assert len(start) == 1 + task.params.stages and start == pytest.approx([start[0]] * len(start))
    loop.run(task)
    assert errors()[-1] < errors()[0]


# -- the white-box attack, judged


@pytest.mark.parametrize("batch_size", [5, 256])
def test_images_held_out_do_not_disturb_the_descent(images, batch_size):  # noqa: F811
    """Each image is descended to by itself: those under attack end the same, whatever the held-out features are."""
    task = attack("whitebox_standard", images, iterations=6, batch_size=batch_size)
    other = attack("whitebox_standard", images, iterations=6, batch_size=256)
    other.target.received[16:] = 0.5
    loop.run(task)
    loop.run(other)
    ours, theirs = (torch.cat(list(one.reconstructions())) for one in (task, other))
    assert ours.shape == theirs.shape == (16, 3, 32, 32)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    assert task.found({})[MSE] != other.found({})[MSE]
    first = attack("whitebox_standard", images, iterations=60).found({})[MSE]
    long = attack("whitebox_standard", images, iterations=60)
    loop.run(long)
    assert long.found({})[MSE] < 0.5 * first
    kept = attack("whitebox_standard", images)
    kept.start(long.fitted())
    ours, theirs = (torch.cat(list(one.reconstructions())) for one in (kept, long))
    assert ours.shape == (16, 3, 32, 32)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.003)  # kept in bytes


@pytest.mark.parametrize("count", [40, 400])
def test_the_axes_are_those_of_the_covariance(count):
    """numpy's covariance in float64, with fewer and with more images than pixels."""
    drawn = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    mean, axes = principal_axes(drawn)
    x = drawn.flatten(1).numpy().astype(np.float64) / 255
    np.testing.assert_allclose(mean.numpy(), x.mean(0), atol=1e-6)
    assert axes.shape == (min(count, 192), 192)
    a = axes.double().numpy()
    lengths = (a**2).sum(1)
    unit_axes = a / np.sqrt(lengths)[:, None]
    covariance = np.cov(x.T, bias=True)
    spread = unit_axes.T @ np.diag(lengths - LEAST) @ unit_axes  # what the axes say, without what was added
    np.testing.assert_allclose(spread, covariance, atol=2e-4)


def test_for_a_linear_encoder_it_is_the_best_linear_estimate():
    """The mode under the Gaussian prior in float64, by the formula of Bayes' linear regression."""
    draws = torch.Generator().manual_seed(5)
    low = torch.rand(100, 3, 4, 4, generator=draws)  # smooth images
    drawn = (torch.nn.functional.interpolate(low, scale_factor=8, mode="bilinear") * 255).to(torch.uint8)
    data = ImageSet(drawn, torch.zeros(100, dtype=torch.int64))
    task = attack("whitebox_standard", data, iterations=200, lr=0.3, batch_size=512)
    loop.run(task)
    found = torch.cat(list(Descent.reconstructions(task)))[:5]
    mean, axes = (part.double().numpy() for part in (task.mean, task.axes))
    encode = lambda rows: shrink(torch.tensor(rows).view(-1, 3, 32, 32)).flatten(1).numpy()  # noqa: E731
    base, columns = encode(mean[None])[0], encode(axes) / 0.01  # the noise of these tests
    received = task.target.received[:5].flatten(1).double().numpy()
    u = np.linalg.solve(columns @ columns.T + np.eye(len(axes)), columns @ ((received - base) / 0.01).T).T
    np.testing.assert_allclose(found.flatten(1).numpy(), (mean + u @ axes).clip(0, 1), atol=0.02)


# -- the choice


def test_the_strongest_is_chosen_by_the_images_held_out_alone():
    found = {
        "decoder": {"mse": 0.001, "ssim": 0.99},  # holds none out
        "ridge": {"mse": 0.01, "ssim": 0.8, MSE: 0.03, SSIM: 0.6},
        "kernel": {"mse": 0.05, "ssim": 0.5, MSE: 0.02, SSIM: 0.5},
        "converged": {"mse": 0.02, "ssim": 0.7, MSE: float("nan"), SSIM: 0.9},
        "old": {"mse": 0.02, "ssim": 0.7, MSE: None, SSIM: None},
    }
    standard = ATTACKS.get("standard")()
    chosen = standard.choose(found)
    assert chosen == {"mse": "kernel", "ssim": "ridge"}
    numbers = combine(found[chosen["mse"]], found[chosen["ssim"]])
    assert numbers == {"mse": 0.05, "ssim": 0.8}  # not the best that there is
    with pytest.raises(UserError, match="the row has none"):
        standard.choose({"decoder": found["decoder"]})


# -- from the command line to the store


SUITE = MatrixFile().matrix.suites["standard"].attacker


def test_the_standard_suite_runs_end_to_end(place):  # noqa: F811
    def change(value, smoke):
        smoke["attacker"] = SUITE
        smoke |= {"defense": ["noise_nopeek", "dropout"], "cem": ["off"], "protocol": ["corrected"], "split": ["infer"]}
        smoke["efficiency"] = []
        smoke["set"] |= {"attacks.whitebox_standard.iterations": 2, "attacks.*.channels": 4}
        value["defenses"]["noise_nopeek"] |= {"distribution": "laplace", "when": "after_training"}

    place.edit(change)
    outcome = place.call("run")
    assert outcome.code == 0, outcome.err
    for defense in ("noise_nopeek", "dropout"):
        folders = {
            cell.attacker: place.results / cell.job.folder
            for cell in place.cells(f"defense={defense}")
            if cell.kind == "attack"
        }
        assert list(folders) == SUITE
        values = {name: json.loads((path / "metrics.json").read_text())["values"] for name, path in folders.items()}
        judged = {name: one[MSE] for name, one in values.items() if MSE in one}
        assert set(judged) == set(SUITE) - {"decoder", "standard"} and all(0 < mse < 1 for mse in judged.values())
        chosen = json.loads((folders["standard"] / "provenance.json").read_text())["chosen"]
        assert chosen["mse"] == min(judged, key=judged.get)
        for metric in ("mse", "ssim"):
            assert values["standard"][metric] == pytest.approx(values[chosen[metric]][metric])
        for name in ("ridge", "kernel"):  # nothing is fitted step by step
            assert "final_loss" not in values[name] and not (folders[name] / "history.csv").exists()
    assert place.call("report").code == 0
    table = (place.tables / "smoke" / "photos-attackers-mse-corrected.md").read_text()
    assert all(title in table for title in ("ridge", "kernel", "standard (chosen)"))
    told = place.call("measure recognise")
    assert told.code == 0, told.err


def test_the_choice_needs_no_per_image_values_but_the_best_of_all_does(place):  # noqa: F811
    """Results that come with the project are without them: `standard` made a decoder of 20 minutes run again."""

    def change(value, smoke):
        smoke["attacker"] = ["ridge", "kernel", "standard", "ensemble"]
        smoke |= {"defense": ["bottleneck"], "cem": ["off"], "protocol": ["corrected"], "split": ["infer"]}
        smoke["efficiency"] = []

    place.edit(change)
    assert place.call("run").code == 0
    folders = {cell.attacker: place.results / cell.job.folder for cell in place.cells() if cell.kind == "attack"}
    numbers = json.loads((folders["standard"] / "metrics.json").read_text())
    for name, again in (("standard", 0), ("ensemble", 2)):
        for folder in folders.values():
            (folder / "per_image.safetensors").unlink(missing_ok=True)
        shutil.rmtree(folders[name])
        outcome = place.call("run")
        assert outcome.code == 0 and outcome.err.count("has no per_image.safetensors") == again, outcome.err
    assert json.loads((folders["standard"] / "metrics.json").read_text()) == numbers
    assert not (folders["standard"] / "per_image.safetensors").exists()


def test_a_standard_attacker_with_nobody_to_choose_says_so(place):  # noqa: F811
    def change(value, smoke):
        smoke["attacker"] = ["decoder", "standard"]
        smoke |= {"defense": ["bottleneck"], "cem": ["off"], "protocol": ["corrected"], "split": ["infer"]}
        smoke["efficiency"] = []

    place.edit(change)
    outcome = place.call("run")
    assert outcome.code == 1 and "hold images out, and the row has none" in outcome.out + outcome.err
