"""Each defence against its formula."""

import copy

import numpy as np
import pytest
import torch
from torch.nn.functional import relu

from benchmark.config import Quirks
from benchmark.defenses import DEFENSES, Batch, Setting
from benchmark.defenses.distcorr import distance_correlation
from benchmark.matrix.load import MatrixFile
from benchmark.metrics.ssim import ssim_per_image

PUBLISHED = MatrixFile().matrix.protocols["published"]


def make(name, quirks=PUBLISHED, **changes):
    defense = DEFENSES.get(name)
    params = defense.Params(**(MatrixFile().matrix.defenses[name] | changes))
    setting = Setting(
        classes=3,
        image_size=32,
        feature_shape=(8, 8, 8),
        widths=(64, 128, 8),
        epochs=240,
        quirks=quirks,
        device=torch.device("cpu"),
        autocast=dict(device_type="cpu", enabled=False),
    )
    return defense(params, setting)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def distance_correlation_numpy(a, b):
    """The definition, in float64 with explicit loops over pairs."""

    def centred(x):
        d = np.array([[np.linalg.norm(p - q) for q in x] for p in x])
        return d - d.mean(0) - d.mean(1)[:, None] + d.mean()

    a, b = centred(a), centred(b)
    return np.sqrt((a * b).mean()) / np.sqrt(np.sqrt((a * a).mean()) * np.sqrt((b * b).mean()))


def test_distance_correlation_is_its_definition():
    a, b = torch.randn(12, 3, 4, generator=generator(1)), torch.randn(12, 5, generator=generator(2))
    b[:, 0] += a[:, 0, 0]
    expected = distance_correlation_numpy(a.flatten(1).double().numpy(), b.double().numpy())
    assert distance_correlation(a, b).item() == pytest.approx(expected, rel=1e-4)
    assert distance_correlation(a, 2 * a + 1).item() == pytest.approx(1, abs=1e-4)


def test_distance_correlation_has_a_finite_gradient_with_repeated_rows():
    b = torch.ones(6, 4, requires_grad=True)
    distance_correlation(torch.randn(6, 4, generator=generator()), b * torch.tensor([1.0, 2, 3, 4])).backward()
    assert b.grad.isfinite().all()


# what keeps everything; quantise rounds the noise and laplace states it otherwise (defenses/test_more_defenses.py)
NOTHING_ELSE = {"dropout": {"rate": 0.0}, "topk": {"share": 1.0}, "disco": {"share": 0.0}}


@pytest.mark.parametrize("name", [name for name in DEFENSES.names() if name not in ("none", "quantise", "laplace")])
def test_noise_has_the_stated_standard_deviation(name):
    defense = make(name, noise_std=0.04, **NOTHING_ELSE.get(name, {}))
    z = torch.zeros(64, 8, 8, 8)
    for phase in ("train", "eval", "attack"):
        assert defense.transform(z, generator(), phase).std().item() == pytest.approx(0.04, rel=0.02)


def test_no_defense_sends_the_feature_as_it_is():
    z = torch.randn(2, 8, 8, 8)
    assert make("none").transform(z, generator(), "attack") is z


def test_laplace_noise():
    defense = make("noise_nopeek", distribution="laplace", noise_std=0.5, when="after_training")
    z = torch.zeros(200, 8, 8, 8)
    assert defense.transform(z, generator(), "train") is z
    noise = defense.transform(z, generator(), "eval").double()
    assert noise.abs().mean().item() == pytest.approx(0.5, rel=0.02)  # the mean of |Laplace(b)| is b
    assert noise.std().item() == pytest.approx(0.5 * 2**0.5, rel=0.02)


def test_dropout_masks_without_rescaling_and_quirk_q3():
    z = torch.ones(64, 8, 8, 8)
    defense = make("dropout", noise_std=0.0, rate=0.3)
    for phase in ("train", "eval"):
        sent = defense.transform(z, generator(), phase)
        assert set(sent.unique().tolist()) == {0.0, 1.0}
        assert (sent == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)
    assert defense.transform(z, generator(), "attack").min() == 1
    honest = Quirks(**(PUBLISHED.model_dump() | {"q3_attack_without_mask": False}))
    assert make("dropout", honest, noise_std=0.0).transform(z, generator(), "attack").min() == 0
    late = make("dropout", honest, noise_std=0.0, when="after_training")
    assert late.transform(z, generator(), "train").min() == 1 and late.transform(z, generator(), "eval").min() == 0


@pytest.mark.parametrize("target", [0.0, 0.999])
@pytest.mark.parametrize("name", ["ressfl", "noise_arl", "patrol"])
def test_the_adversary_steps_and_then_judges(name, target):
    """Its own step is in training mode on what `encode` gives; the encoder is judged in evaluation mode, on z_clean."""
    torch.manual_seed(0)
    defense = make(name, ssim_target=target, weight=0.7, adversary_steps=2)
    defense.build()
    x01, encoded = torch.rand(4, 3, 32, 32), torch.rand(4, 8, 8, 8)
    start = copy.deepcopy(defense.adversary)
    defense.before_step(x01, x01, lambda x: encoded)
    first = -ssim_per_image(start(encoded), x01).mean()
    (gradient,) = torch.autograd.grad(first, next(start.parameters()))
    moved = next(defense.adversary.parameters()).detach() - next(start.parameters()).detach()
    assert (moved * gradient).sum() < 0 and defense.adversary.training

    clean = torch.rand(4, 8, 8, 8).requires_grad_()
    before = [parameter.grad.clone() for parameter in defense.adversary.parameters()]
    batch = Batch(x01=x01, x=x01, labels=torch.zeros(4, dtype=torch.int64), z_clean=clean, z=clean + 0.1)
    loss = defense.loss(batch)
    loss.backward()
    assert all(map(torch.equal, before, (parameter.grad for parameter in defense.adversary.parameters())))
    judge = copy.deepcopy(defense.adversary).eval()
    expected = 0.7 * relu(ssim_per_image(judge(clean), x01).mean() - target)
    (wanted,) = torch.autograd.grad(expected, clean)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(clean.grad, wanted)
    assert (wanted.abs().max() > 0) == (target < 0.5)
    told = defense.end_epoch(0, None, None)
    assert told["encoder_ssim"] == pytest.approx(expected.item() / 0.7 + target, rel=1e-4) or target > 0.5
    assert defense.seen.sum() == 0


def test_adversary_schedule():
    defense = make("ressfl")
    defense.build()
    rates = {}
    for epoch in range(240):
        defense.begin_epoch(epoch)
        rates[epoch] = defense.optimizer.param_groups[0]["lr"].item()
    changes = [epoch for epoch in range(1, 240) if rates[epoch] != rates[epoch - 1]]
    assert changes == [59, 149, 239] and rates[239] == pytest.approx(1e-3 * 0.008)
