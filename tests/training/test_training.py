"""The training loop: schedules, resuming, pruning, selection, divergence."""

import pytest
import torch

from benchmark.cem import ConditionalEntropy
from benchmark.data import normalise
from benchmark.defenses import DEFENSES
from benchmark.errors import Diverged
from benchmark.matrix.load import MatrixFile, parse_set
from benchmark.training import loop
from benchmark.training.loop import Silent, epoch_order
from benchmark.training.train import Recipe, Training

CPU = torch.device("cpu")


def recipe(defense="bottleneck", cem="off", protocol="published", *changes):
    """A short training of small networks, whose steps take a third of the time of the published ones."""
    file, small = MatrixFile(), ("model.arch=resnet20", "defenses.*.adversary_blocks=1")
    base = ["train.epochs=2", "train.batch_size=16", "defenses.*.pretrain_epochs=1", *small, *changes]
    settings = file.settings("photos", defense, cem, parse_set(base))
    return Recipe(
        model=settings.model,
        train=settings.train,
        defense=DEFENSES.get(defense),
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
    [("patrol", "on", 7), ("dropout", "full", 2), ("noise_arl", "diagonal", 5), ("distcorr", "off", 3)],
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
    assert loop.run(resumed, path) == history and resumed.earlier > 0
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


def rates(data, protocol, *changes) -> dict[tuple[int, int], float]:
    """(epoch from 1, step from 0) -> the learning rate."""
    training = task(data, "bottleneck", "off", protocol, *changes)
    found = {}
    for epoch in range(training.epochs):
        for step in (0, training.steps - 1):
            training._set_strengths(epoch, step)
            found[epoch + 1, step] = training.optimizer.param_groups[0]["lr"].item()
            assert training.lr == found[epoch + 1, step]
    return found


def test_without_quirk_q7_the_warm_up_goes_by_steps(tiny_images):
    """The published schedule is held to the released one in training/test_oracle_schedule.py."""
    found = rates(tiny_images, "corrected", "train.epochs=240")
    last = max(step for _, step in found)
    assert found[1, 0] == 0 and found[1, last] == pytest.approx(0.05 * last / (last + 1))
    for epoch in range(2, 241):
        expected = 0.05 * 0.2 ** sum(epoch >= milestone for milestone in (60, 120, 180, 210))
        assert found[epoch, 0] == found[epoch, last] == pytest.approx(expected)


def test_the_linear_schedule_falls_to_0_at_the_end(tiny_images):
    found = rates(tiny_images, "published", "train.epochs=11", "train.schedule=linear")
    last = max(step for _, step in found)
    assert found[1, last] == 0 and found[2, 0] == pytest.approx(0.05) and found[7, 0] == pytest.approx(0.025)
    assert found[11, last] == pytest.approx(0.05 / 10 / (last + 1))


def test_cem_weight_follows_the_released_scaling(tiny_images):
    def weight(cem, lr):
        training = task(tiny_images, "bottleneck", cem, "published", f"train.lr={lr}", "train.epochs=240")
        training._set_strengths(1, 0)
        return training.cem_weight.item()

    for lr, expected in ((0.05, 16 * 0.02), (0.002, 8.0), (0.0004, 16.0)):
        assert weight("on", lr) == pytest.approx(expected)
    assert weight("full", 0.05) == 16


def test_the_first_epoch_moves_no_weight_with_quirk_q7(tiny_images):
    """BatchNorm's statistics and the adversary do move."""
    training = task(tiny_images, "ressfl", "off", "published", "train.warmup_epochs=1")
    before = {name: value.clone() for name, value in training.model.state_dict().items()}
    adversary = [parameter.detach().clone() for parameter in training.defense.adversary.parameters()]
    training.begin_epoch(0)
    for step in range(training.steps):
        training.step(0, step)
    for name, value in training.model.state_dict().items():
        assert torch.equal(before[name], value) == ("running" not in name), name
    assert any(map(lambda a, b: not torch.equal(a, b), adversary, training.defense.adversary.parameters()))


def test_clusters_are_of_a_second_pass_by_the_encoder_in_evaluation_mode(tiny_images, monkeypatch):
    """Augmented anew, with the epoch's final weights, over full batches: 48 images in batches of 20 are 60 features."""
    training = task(tiny_images, "bottleneck", "on", "published", "train.batch_size=20")
    training.begin_epoch(0)
    for step in range(training.steps):
        training.step(0, step)
    given, seen = [], []
    monkeypatch.setattr(training.cem, "fit", lambda features, labels, generator: given.append((features, labels)))
    augmented = training.augmented
    monkeypatch.setattr(training, "augmented", lambda images: seen.append(augmented(images)) or seen[-1])
    training.refit(0)
    ((features, labels),) = given
    assert features.shape == (60, 512) and training.steps == 3
    assert torch.bincount(labels).sum() == 60 and torch.bincount(labels).min() >= 16  # each image once, 12 twice
    x = normalise(torch.cat(seen), tiny_images.mean, tiny_images.std)
    training.model.encoder.eval()
    with torch.no_grad():
        torch.testing.assert_close(features, training.model.encoder(x).flatten(1))


@pytest.mark.parametrize("protocol", ["published", "corrected"])
def test_the_adversary_is_pretrained_on_test_images_with_quirk_q8_alone(tiny_images, protocol):
    training = task(tiny_images, "ressfl", "off", protocol)
    images = training._pretraining_images()
    assert len(images) == 21  # 90 % of the 24 test images
    test, train = (
        [any(torch.equal(image, other) for other in part.images) for image in images]
        for part in (tiny_images.test, tiny_images.train)
    )
    assert all(test if protocol == "published" else train)
    if protocol == "corrected":  # nor any image that the checkpoint is chosen by
        held = training.select_set[0]
        assert not any(torch.equal(image, other) for image in images for other in held)


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


@pytest.mark.parametrize("protocol", ["published", "corrected"])
def test_patrol_is_pruned_in_one_shot(tiny_images, protocol):
    """At the start of epoch 3 of 4 here; with quirk q9 what was replaced is frozen from then on."""
    changes = ("train.epochs=4", "defenses.patrol.prune_at=0.75", "model.arch=vgg11")
    training = task(tiny_images, "patrol", "off", protocol, *changes)
    training.prepare()
    widths = {}
    for epoch in range(4):
        training.begin_epoch(epoch)
        widths[epoch + 1] = training.model.encoder.widths
        if epoch == 3:
            before = [parameter.detach().clone() for parameter in training.model.encoder.parameters()]
        for step in range(training.steps):
            training.step(epoch, step)
        training.end_epoch(epoch)
    assert widths == {1: (16, 64, 128, 8), 2: (16, 64, 128, 8), 3: (16, 60, 121, 8), 4: (16, 60, 121, 8)}
    assert sum(p.numel() for p in training.model.encoder.parameters()) == 83_723
    moved = [not torch.equal(a, b) for a, b in zip(before, training.model.encoder.parameters(), strict=True)]
    frozen = [False] * 4 + [True] * 9 + [False]  # all but the front conv, its BatchNorm, and the bottleneck's bias
    assert moved == ([not item for item in frozen] if protocol == "published" else [True] * 14)


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
    first, second = epoch_order(50, 50, CPU, "fit", 0), epoch_order(50, 50, CPU, "fit", 1)
    assert sorted(first.tolist()) == list(range(50)) and not torch.equal(first, second)
    assert torch.equal(first, epoch_order(50, 50, CPU, "fit", 0))


def test_the_last_batch_is_filled_from_a_fresh_shuffle():
    order = epoch_order(50, 64, CPU, "fit", 0)
    assert sorted(order[:50].tolist()) == list(range(50)) and len(set(order[50:].tolist())) == 14
    assert order[50:].tolist() != order[:14].tolist()
    assert sorted(epoch_order(3, 7, CPU, "fit", 0)[3:6].tolist()) == [0, 1, 2]


@pytest.mark.parametrize("name", DEFENSES.names())
def test_every_parameter_of_every_defense_is_in_the_matrix(name):
    """The matrix is the one home of the values: no field may hide a default."""
    fields = DEFENSES.get(name).Params.model_fields
    assert set(fields) == set(MatrixFile().matrix.defenses[name])
    assert all(field.is_required() and field.description for field in fields.values())
