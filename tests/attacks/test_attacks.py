"""The attackers: what they are fitted and scored on, their steps, their schedules, and stopping and going on."""

import copy

import pytest
import torch
from torch.nn.functional import avg_pool2d

from benchmark.attacks import ATTACKS, Target
from benchmark.attacks.splits import split
from benchmark.config import Quirks
from benchmark.data import DataSet, ImageSet
from benchmark.defenses import DEFENSES, Setting
from benchmark.errors import UserError
from benchmark.jobs.run_job import score_images
from benchmark.matrix.load import MatrixFile
from benchmark.metrics.ssim import ssim_per_image
from benchmark.models.critic import Critic
from benchmark.training import loop
from benchmark.training.loop import Silent, seeded
from benchmark.training.train import VERSION

CPU = torch.device("cpu")
FP32 = dict(device_type="cpu", dtype=torch.bfloat16, enabled=False)
SMALL = {"epochs": 2, "batch_size": 4, "blocks": 1, "width": 16, "iterations": 2, "members": 2, "channels": 8}


def params(name, **changes):
    values = MatrixFile().matrix.attacks[name]
    small = {key: value for key, value in SMALL.items() if key in values}
    return ATTACKS.get(name).Params(**(values | small | changes))


def add_noise(z, generator):
    return z + 0.01 * torch.randn(z.shape, generator=generator)


def shrink(x01):
    return avg_pool2d(x01, 4)


def everything(z):
    return torch.ones_like(z, dtype=torch.bool)


def attack(name, images, send=add_noise, kept=everything, quirks=(), split="train", **changes):
    """An attack on an encoder that only shrinks the image to 8 px: a linear feature [N, 3, 8, 8]."""
    settings, features = params(name, **changes), shrink(images.images.float() / 255)
    send = ATTACKS.get(name).channel(settings, send, kept)
    target = Target(
        features=features,
        images=images.images,
        send=send,
        image_size=32,
        device=CPU,
        seed=7,
        autocast=FP32,
        encode=shrink,
        kept=kept,
        misfit=lambda z_clean, z: ((z - z_clean) / 0.01).square().flatten(1).sum(1) / 2,
        received=send(features, seeded(CPU, "score", 7)),
        split=split,
        quirks=Quirks(**{name: name.split("_")[0] in quirks for name in Quirks.model_fields}),
        tested=(features, images.images),
    )
    return ATTACKS.get(name)(settings, target)


@pytest.fixture(scope="module")
def images(tiny_images) -> ImageSet:
    """16 images: 4 steps an epoch."""
    return tiny_images.train.take(torch.arange(16))


def labelled(labels) -> DataSet:
    """A data set whose test image i is filled with the value i, so that an image tells its place."""
    count = len(labels)
    images = torch.arange(count, dtype=torch.uint8)[:, None, None, None].repeat(1, 3, 2, 2)
    test = ImageSet(images, torch.tensor(labels))
    return DataSet("x", 3, (0.5,) * 3, (0.5,) * 3, False, test.take(torch.arange(1)), test, list("abc"), "0", True)


def places(part):
    return part.images[:, 0, 0, 0].tolist()


# -- splits


def test_the_train_split_is_the_data_sets_own():
    data = labelled([0, 1, 2] * 10)
    fit, score = split("train", data, True, 1)
    assert fit is data.train and score is data.test


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("count", [2, 9, 10, 11, 99, 200])
def test_the_infer_split_is_disjoint_and_complete(ordered, count):
    data = labelled([i % 3 for i in range(count)])
    fit, score = split("infer", data, ordered, 1)
    assert sorted(places(fit) + places(score)) == list(range(count))
    assert len(score) == count - max(1, int(0.9 * count + 1e-9)) and len(score) >= 1
    for part in (fit, score):
        assert [data.test.labels[i] for i in places(part)] == part.labels.tolist()


def test_the_ordered_split_scores_on_the_last_tenth():
    """Quirk q5: with the images in folders, only the last class is left for scoring."""
    fit, score = split("infer", labelled([0] * 60 + [1] * 60 + [2] * 60), True, 1)
    assert places(score) == list(range(162, 180)) and places(fit) == list(range(162))
    assert set(score.labels.tolist()) == {2}


@pytest.mark.parametrize("sizes", [(60, 60, 60), (100, 60, 20)])
def test_the_mixed_split_keeps_the_shares_of_the_classes(sizes):
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    _, score = split("infer", labelled(labels), False, 1)
    found = torch.bincount(score.labels, minlength=3)
    assert all(abs(found[label] - size / 10) <= 1 for label, size in enumerate(sizes)), found
    again, other = (split("infer", labelled(labels), False, seed)[1] for seed in (1, 2))
    assert places(score) == places(again) and places(score) != places(other)


def test_one_test_image_cannot_be_parted():
    with pytest.raises(UserError, match="at least 2 test images"):
        split("infer", labelled([0]), True, 1)


# -- the decoder


def test_the_decoder_learns_a_linear_feature(images):
    task = attack("decoder", images, epochs=6, batch_size=8, lr=0.002)
    losses = [record["loss"] for record in loop.run(task)]
    assert losses[0] > losses[1] > losses[2] > max(losses[3:]), losses
    mean = images.images.float().div(255).mean((0, 2, 3), keepdim=True)
    blind = (images.images.float() / 255 - mean).square().mean()  # the best that knows no feature
    assert losses[-1] < 0.8 * blind
    per_image, _ = score_images([task.reconstruct(task.target.features)], images)
    rebuilt = task.decoder.eval()(task.target.features)  # scored in evaluation mode
    expected = (rebuilt - images.images.float() / 255).square().mean((1, 2, 3))
    torch.testing.assert_close(per_image["mse"], expected.detach())


def test_the_loss_of_an_epoch_is_the_mean_mse(images):
    """With a learning rate of next to nothing, the epoch's loss is that of the untouched network."""
    task = attack("decoder", images, send=lambda z, _: z, lr=1e-12, final_lr=0, epochs=1, batch_size=16)
    untouched = copy.deepcopy(task.decoder)
    with torch.no_grad():
        rebuilt = untouched(task.target.features)  # in training mode, like the step
    expected = (rebuilt - images.images.float() / 255).square().mean().item()
    assert loop.run(task)[0]["loss"] == pytest.approx(expected, rel=1e-4)


def test_the_decoders_rate_follows_the_cosine_of_torch(images):
    task = attack("decoder", images, epochs=50)
    oracle = torch.optim.SGD([torch.zeros(1)], lr=0.005)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(oracle, T_max=50, eta_min=1e-5)
    rates = []
    for epoch in range(51):
        task.begin_epoch(epoch)
        rates.append(task.optimizer.param_groups[0]["lr"].item())
        assert rates[-1] == pytest.approx(schedule.get_last_lr()[0], rel=1e-9)
        oracle.step()
        schedule.step()
    assert rates[0] == pytest.approx(0.005) and rates[50] == pytest.approx(1e-5)


def test_the_decoders_norms_absorb_the_test_images_with_quirk_q11_alone(images):
    """After an epoch of one step BatchNorm has seen that batch, and with the quirk the batch of test images too."""
    for quirks, batches in ((("q11",), 2), (("q15",), 1), ((), 1)):
        task = attack("decoder", images, quirks=quirks, epochs=1, batch_size=16)
        weights = [parameter.detach().clone() for parameter in task.decoder.parameters()]
        norms = [layer for layer in task.decoder.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
        for norm in norms:
            norm.running_mean.fill_(1e6)  # of which each batch leaves nine tenths
        loop.run(task)
        left = [norm.running_mean.mean().item() / 1e6 for norm in norms]
        assert left and left == pytest.approx([0.9**batches] * len(norms), abs=1e-3), quirks
        assert task.decoder.training and any(map(torch.ne, weights[0].flatten(), task.decoder[0].body[0].weight))


def test_the_snapshot_is_of_the_best_batch_of_test_images(images, monkeypatch):
    """Quirk q15: one batch in three passes, each after an epoch; the second is made the best."""
    task = attack("decoder", images, quirks=("q11", "q15"), epochs=3, batch_size=16)
    kept, errors = [], iter([0.3, 0.1, 0.2])
    test = task._test

    def noted():
        with monkeypatch.context() as patch:
            patch.setattr("benchmark.attacks.decoder.mse_loss", lambda *_: torch.tensor(next(errors)))
            test()
        kept.append(copy.deepcopy(task.decoder.state_dict()))

    monkeypatch.setattr(task, "_test", noted)
    loop.run(task)
    best = task.fitted()["best"]
    assert all(torch.equal(best[key], kept[1][key]) for key in best)
    assert not all(torch.equal(best[key], task.fitted()["decoder"][key]) for key in best)
    gan = attack("gan", images)
    gan.warm_up(task.fitted())
    assert all(map(torch.equal, gan.generator.state_dict().values(), best.values()))


def test_stored_order_with_quirk_q12(images):
    """And the last batch is filled from the front."""
    task = attack("decoder", images, quirks=("q12",), batch_size=6)
    task.begin_epoch(1)
    assert task.order.images.tolist() == [*range(16), 0, 1]
    shuffled = attack("decoder", images, batch_size=6)
    shuffled.begin_epoch(1)
    assert sorted(shuffled.order.images[:16].tolist()) == list(range(16))
    assert shuffled.order.images.tolist() != task.order.images.tolist()


# -- the GAN


def test_one_fit_gives_both_columns_with_quirk_q14(images):
    """`train`: means over the last epoch's batches. `infer`: of the generator at the last logged epoch, with its own
    batches averaged into PSNR and SSIM."""
    task = attack("gan", images, quirks=("q14",), epochs=12, generator_every=3)
    seen, logged = {}, {}
    step, end = task._critic_step, task.end_epoch

    def noting(fake, real):
        seen.setdefault(epoch[0], []).append((fake, real))
        return step(fake, real)

    def ending(number):
        logged[number] = copy.deepcopy(task.generator.state_dict())
        epoch[0] += 1
        return end(number)

    epoch = [0]
    task._critic_step, task.end_epoch = noting, ending
    loop.run(task)

    def means(number):
        mse = torch.tensor([(fake - real).square().mean() for fake, real in seen[number]])
        ssim = torch.tensor([ssim_per_image(fake, real).mean() for fake, real in seen[number]])
        return {"mse": mse.mean().item(), "psnr_db": (-10 * mse.log10()).mean().item(), "ssim": ssim.mean().item()}

    scored = {"mse": 0.5, "psnr_db": 10.0, "ssim": 0.25, "mse_worst_1_percent": 0.1}
    assert task.found(scored) == pytest.approx(means(11) | {"mse_of_test_images": 0.5}, rel=1e-4)
    other = attack("gan", images, quirks=("q14",), split="infer", epochs=12)
    other.start(task.fitted())
    ours = other.generator.state_dict()
    assert all(torch.equal(ours[key], logged[10][key]) for key in ours)
    own = means(10)
    expected = {name: (own[name] + scored[name]) / 2 for name in ("psnr_db", "ssim")}  # 16 images each
    assert other.found(scored) == pytest.approx(expected, rel=1e-4)
    again = attack("gan", images, quirks=("q14",), split="infer", epochs=12)
    again.start(other.fitted())  # as it is rebuilt later
    assert all(torch.equal(again.generator.state_dict()[key], ours[key]) for key in ours)
    assert attack("gan", images).found(scored) == {}


def test_the_gans_rates_stop_half_way_down_the_cosine(images):
    """Published: 150 epochs of a cosine over 300, so the last epochs run at about half the rate."""
    task = attack("gan", images, epochs=150)
    rates = {}
    for epoch in (0, 150, 300, 400):
        task.begin_epoch(epoch)
        rates[epoch] = [task.optimizers[net].param_groups[0]["lr"].item() for net in (task.generator, task.critic)]
    assert rates[0] == [0.0005, 0.005]
    assert rates[150] == pytest.approx([0.00025, 0.0025])
    assert rates[300] == rates[400] == pytest.approx([0, 0], abs=1e-12)


@pytest.mark.parametrize(("bf16", "setting", "expected"), [(1, True, True), (1, False, False), (0, True, False)])
def test_tf32_is_the_penaltys_alone(images, monkeypatch, bf16, setting, expected):
    """In its forward and backward passes, and off again after a step that fails; never in the rest or in fp32."""
    task = attack("gan", images, penalty_tf32=setting)
    task.target.__dict__["autocast"] = FP32 | {"enabled": bool(bf16)}
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    seen = {"penalty": set(), "rest": set()}
    allowed = lambda: torch.backends.cudnn.allow_tf32  # noqa: E731

    def watch(module, given, result):
        part = "rest" if torch.is_autocast_enabled("cpu") else "penalty"
        seen[part].add(allowed())
        if part == "penalty" and result.requires_grad:
            result.register_hook(lambda gradient: seen["penalty"].add(allowed()))

    for network in (task.generator, task.critic):
        for layer in network.modules():
            if isinstance(layer, torch.nn.Conv2d):
                layer.register_forward_hook(watch)
    real = images.images[:4] / 255
    task._critic_step(task.reconstruct(task.target.features[:4]), real)
    task._generator_step(task.target.features[:4], real)
    assert seen["penalty"] == {expected} and seen["rest"] <= {False} and not allowed()
    task.critic.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        task._critic_step(real, real)
    assert not allowed()


def test_the_critics_loss_with_its_gradient_penalty(images):
    """Against the same loss written out image by image, with the gradient taken from the input's side."""
    task = attack("gan", images)
    oracle = copy.deepcopy(task.critic)
    real = images.images[:4].float() / 255
    fake = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    mix = torch.rand(4, 1, 1, 1, generator=seeded(CPU, "gan-mixing", 7))
    loss = torch.zeros(())
    for f, r, m in zip(fake, real, mix, strict=True):
        between = (m * f + (1 - m) * r)[None].requires_grad_()
        gradient = torch.autograd.grad(oracle(between).squeeze(), between, create_graph=True)[0]
        penalty = (torch.linalg.norm(gradient) - 1) ** 2
        loss = loss + oracle(f[None]).squeeze() - oracle(r[None]).squeeze() + 10 * penalty
    (loss / 4).backward()
    task._critic_step(fake, real)
    for ours, theirs in zip(task.critic.parameters(), oracle.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-5)


def test_the_generator_moves_on_every_kth_step_only(images):
    task = attack("gan", images, generator_every=3)
    task.begin_epoch(0)
    moved = []
    for index in range(7):
        before = [p.detach().clone() for p in task.generator.parameters()]
        critic = [p.detach().clone() for p in task.critic.parameters()]
        task.step(0, index % task.steps) if index < task.steps else task.step(1, index - task.steps)
        moved.append(any(not torch.equal(a, b) for a, b in zip(before, task.generator.parameters(), strict=True)))
        assert any(not torch.equal(a, b) for a, b in zip(critic, task.critic.parameters(), strict=True))
    assert moved == [False, False, True, False, False, True, False]


def test_the_generators_gradient_is_that_of_its_loss(images):
    """-critic(G(z)) + 1500 MSE, in training mode; and no trace of it in the critic."""
    task = attack("gan", images, send=lambda z, _: z)
    generator = copy.deepcopy(task.generator)
    x01 = images.images[:4].float() / 255
    z = task.target.features[:4]
    task._generator_step(z, x01)
    critic = copy.deepcopy(task.critic)
    fake = generator(z)
    (1500 * (fake - x01).square().mean() - critic(fake).mean()).backward()
    for ours, theirs in zip(task.generator.parameters(), generator.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-4)
    assert all(parameter.grad is None for parameter in task.critic.parameters())


def test_a_warm_start_begins_as_the_decoder(images):
    decoder = attack("decoder", images)
    loop.run(decoder)
    cold, gan = attack("gan", images), attack("gan", images)
    gan.warm_up(decoder.fitted())
    z = decoder.target.features[:5]
    assert torch.equal(gan.reconstruct(z), decoder.reconstruct(z))
    assert not torch.equal(cold.reconstruct(z), decoder.reconstruct(z))
    assert isinstance(gan.critic, Critic)
    first_warm, first_cold = loop.run(gan)[0]["loss"], loop.run(cold)[0]["loss"]
    assert first_warm < first_cold


# -- noise, seeds, stopping


def dropout(attack_without_mask):
    defense = DEFENSES.get("dropout")
    quirks = Quirks(**{name: False for name in Quirks.model_fields} | {"q3_attack_without_mask": attack_without_mask})
    setting = Setting(3, 32, (3, 8, 8), (64,), 1, quirks, CPU, {})
    return defense(defense.Params(noise_std=0.05, rate=0.5, when="always"), setting)


@pytest.mark.parametrize("without_mask", [True, False])
def test_the_attack_sees_the_defences_noise_and_mask(images, without_mask):
    """Fresh noise at every look; zeros only where quirk q3 does not take the mask away."""
    defense, seen = dropout(without_mask), []
    task = attack("decoder", images, send=lambda z, generator: defense.transform(z, generator, "attack"))
    task.fit_batch = lambda z, x01, variant: seen.append(z) or torch.zeros(())
    loop.run(task)
    sent = torch.cat(seen)
    assert sent.shape == (2 * 16, 3, 8, 8)
    zeros = (sent == 0).float().mean().item()
    assert zeros == 0 if without_mask else zeros == pytest.approx(0.5, abs=0.03)
    order = torch.cat([loop.epoch_order(16, 16, CPU, 7, "attack", epoch) for epoch in range(2)])
    noise = (sent - task.target.features[order])[sent != 0]
    assert noise.std().item() == pytest.approx(0.05, rel=0.05) and abs(noise.mean().item()) < 0.003
    first, second = (sent[16 * epoch :][:16][order[16 * epoch :][:16].argsort()] for epoch in range(2))
    assert not torch.equal(first, second)


def test_an_attack_does_not_depend_on_the_global_generator(images):
    def result(name, seed):
        torch.manual_seed(seed)
        task = attack(name, images, epochs=1)
        torch.manual_seed(seed + 1)  # whatever is drawn between building and fitting
        return loop.run(task), task.reconstruct(task.target.features[:3])

    for name in ("decoder", "gan"):
        (history, pictures), (other, others) = result(name, 1), result(name, 100)
        assert history == other and torch.equal(pictures, others)


class StopAt(Silent):
    def __init__(self, steps):
        self.left = steps

    def stopping(self):
        self.left -= 1
        return self.left == 0


STOPS = [("decoder", 2), ("decoder", 4), ("gan", 3), ("gan", 4), ("gan", 6)]
STOPS += [
    ("queries4", 3),
    ("informed", 3),
    ("large", 5),
    ("whitebox", 3),
    ("whitebox", 4),
    ("converged", 3),
    ("whitebox_standard", 3),
]


@pytest.mark.parametrize(("name", "stop"), STOPS)
def test_a_stopped_attack_ends_as_an_undisturbed_one(images, tmp_path, name, stop):
    """Bit for bit; 4 steps are an epoch, and with a generator step every 3rd the stop falls on both kinds."""
    extra = {"generator_every": 3} if name == "gan" else {}
    whole = attack(name, images, **extra)
    history = loop.run(whole)
    path = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        loop.run(attack(name, images, **extra), path, StopAt(stop))
    torch.manual_seed(999)
    resumed = attack(name, images, **extra)
    assert loop.run(resumed, path) == history
    assert all(map(torch.equal, resumed.reconstructions(), whole.reconstructions()))
    parts, others = whole.parts(), resumed.parts()
    for part in set(parts) - {"losses"}:
        if isinstance(parts[part], torch.Tensor):
            assert torch.equal(parts[part], others[part]), part
        elif isinstance(parts[part], torch.Generator):
            assert torch.equal(parts[part].get_state(), others[part].get_state()), part
        elif hasattr(parts[part], "parameters"):
            ours, theirs = parts[part].state_dict(), others[part].state_dict()
            assert all(torch.equal(ours[key], theirs[key]) for key in ours), part


@pytest.mark.parametrize("name", ATTACKS.names())
def test_every_parameter_of_every_attacker_is_in_the_matrix(name):
    fields = ATTACKS.get(name).Params.model_fields
    assert set(fields) == set(MatrixFile().matrix.attacks[name])
    assert all(field.is_required() and field.description for field in fields.values())
    assert VERSION >= 1 and ATTACKS.get(name).version >= 1
