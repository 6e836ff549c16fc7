"""The training loop: schedules, resuming, pruning, selection, divergence."""

import pytest
import torch

from benchmark.cem import ConditionalEntropy
from benchmark.defenses import DEFENSES
from benchmark.errors import Diverged
from benchmark.matrix.load import MatrixFile, parse_set
from benchmark.training import loop
from benchmark.training.loop import Silent, epoch_order
from benchmark.training.train import Recipe, Training

CPU = torch.device("cpu")


def recipe(defense="bottleneck", cem="off", protocol="published", *changes):
    file = MatrixFile()
    base = ["train.epochs=2", "train.batch_size=16", "defenses.*.pretrain_epochs=1", *changes]
    settings = file.settings("photos", defense, cem, parse_set(base))
    return Recipe(
        model=settings.model,
        train=settings.train,
        defense=defense,
        params=settings.params,
        cem=settings.cem,
        quirks=file.matrix.protocols[protocol],
        seed=3,
    )


def task(data, *args):
    return Training(recipe(*args), data, CPU, "fp32")


class StopAt(Silent):
    """Asks the loop to stop after a number of steps."""

    def __init__(self, steps):
        self.left = steps

    def stopping(self):
        self.left -= 1
        return self.left == 0


@pytest.mark.parametrize(
    ("defense", "cem", "stop"),
    [("patrol", "on", 7), ("dropout", "full", 2), ("noise_arl", "diagonal", 8), ("distcorr", "off", 3)],
)
def test_a_stopped_run_ends_as_an_undisturbed_one(tiny_images, tmp_path, defense, cem, stop):
    """Bit for bit: weights, accuracy and history; `stop` counts pre-training batches, then steps."""
    whole = task(tiny_images, defense, cem)
    history = loop.run(whole)
    path = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        loop.run(task(tiny_images, defense, cem), path, StopAt(stop))
    torch.manual_seed(999)  # whatever else the process did in between
    resumed = task(tiny_images, defense, cem)
    assert loop.run(resumed, path) == history
    assert resumed.best["widths"] == whole.best["widths"]
    for name, tensor in whole.best["weights"].items():
        assert torch.equal(tensor, resumed.best["weights"][name]), name


def test_a_damaged_state_is_set_aside(tiny_images, tmp_path):
    path = tmp_path / "state.safetensors"
    path.write_bytes(b"half a file")
    history = loop.run(task(tiny_images), path)
    assert len(history) == 2 and (tmp_path / "state.safetensors.damaged").exists()


def test_same_seed_same_result(tiny_images):
    first, second = task(tiny_images, "ressfl"), task(tiny_images, "ressfl")
    assert loop.run(first) == loop.run(second)


def test_learning_rate_follows_the_published_schedule(tiny_images):
    training = task(tiny_images, "bottleneck", "off", "published", "train.epochs=240")
    rates = []
    for epoch in range(240):
        training._set_strengths(epoch)
        rates.append(training.optimizer.param_groups[0]["lr"].item())
        assert training.lr == rates[-1]
    expected = [0.05 * 0.2 ** sum(e >= m for m in (60, 120, 180, 210, 260)) for e in range(240)]
    assert rates[1:] == pytest.approx(expected[1:])
    assert rates[0] == pytest.approx(0.05 / training.steps)  # the first step of the warm-up epoch


def test_cem_weight_follows_the_released_scaling(tiny_images):
    def weight(cem, lr):
        training = task(tiny_images, "bottleneck", cem, "published", f"train.lr={lr}", "train.warmup_epochs=0")
        training._set_strengths(0)
        return training.cem_weight.item()

    for lr, expected in ((0.05, 16 * 0.02), (0.002, 8.0), (0.0004, 16.0)):
        assert weight("on", lr) == pytest.approx(expected)
    assert weight("full", 0.05) == 16


def test_cem_starts_at_epoch_two_and_reaches_the_encoder_alone(tiny_images):
    training = task(tiny_images, "bottleneck", "on")
    history = loop.run(training)
    assert history[0]["cem"] == 0 and history[1]["cem"] > 0
    assert isinstance(training.cem, ConditionalEntropy)
    z = training.model.encoder(torch.rand(8, 3, 32, 32)).flatten(1)
    training.optimizer.zero_grad()
    training.cem(z, z, torch.arange(8) % 3).backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in training.model.encoder.parameters())
    assert all(p.grad is None for p in training.model.server.parameters())


def test_no_noise_no_cem(tiny_images):
    assert task(tiny_images, "bottleneck", "on", "published", "defenses.*.noise_std=0").cem is None


def test_patrol_ends_at_the_printed_size(tiny_images):
    training = task(tiny_images, "patrol")
    assert training.model.encoder.widths == (16, 64, 128, 8)
    loop.run(training)
    assert tuple(training.best["widths"]) == (16, 60, 120, 8)
    assert sum(p.numel() for p in training.model.encoder.parameters()) == 83_108


def test_patrol_prunes_step_by_step(tiny_images):
    training = task(tiny_images, "patrol", "off", "published", "train.epochs=10", "defenses.patrol.prune_from=0.2",
                    "defenses.patrol.prune_until=0.6")  # fmt: skip
    widths = []
    training.monitor = Silent()
    training.prepare()
    for epoch in range(10):
        training.begin_epoch(epoch)
        training.step(epoch, 0)
        training.defense.end_epoch(epoch, training.model, training.optimizer)
        widths.append(training.model.encoder.widths[1:3])
    assert widths[1] == (64, 128) and widths[5:] == [(60, 120)] * 5
    assert widths[2:6] == [(63, 126), (62, 124), (61, 122), (60, 120)]


def test_selection_looks_at_the_test_images_only_with_quirk_q6(tiny_images):
    published, corrected = task(tiny_images), task(tiny_images, "bottleneck", "off", "corrected")
    assert published.select_set[0] is tiny_images.test.images
    assert len(published.fit_index) == 48
    held = corrected.select_set[0]
    assert len(held) == 5 and len(corrected.fit_index) == 43
    kept = tiny_images.train.images[corrected.fit_index]
    assert not any(torch.equal(image, other) for image in held for other in kept)


def test_the_best_late_epoch_is_kept(tiny_images, monkeypatch):
    training = task(tiny_images, "bottleneck", "off", "published", "train.epochs=6", "train.select_after=0.5")
    scores = iter([90.0, 80.0, 70.0, 50.0, 60.0, 55.0])
    monkeypatch.setattr(training, "accuracy", lambda *_: next(scores))
    loop.run(training)
    assert training.best_accuracy.tolist() == [60.0, 5.0]


def test_divergence_is_told(tiny_images):
    with pytest.raises(Diverged, match="epoch 1 of 2"):
        loop.run(task(tiny_images, "bottleneck", "off", "published", "train.lr=1e30", "train.warmup_epochs=0"))


def test_orders_are_permutations_that_differ():
    first, second = epoch_order(50, 0, 1, CPU), epoch_order(50, 1, 1, CPU)
    assert sorted(first.tolist()) == list(range(50)) and not torch.equal(first, second)
    assert torch.equal(first, epoch_order(50, 0, 1, CPU))


@pytest.mark.parametrize("name", DEFENSES.names())
def test_every_parameter_of_every_defense_is_in_the_matrix(name):
    """The matrix is the one home of the values: no field may hide a default."""
    fields = DEFENSES.get(name).Params.model_fields
    assert set(fields) == set(MatrixFile().matrix.defenses[name])
    assert all(field.is_required() and field.description for field in fields.values())
