"""Weights that are cast all at once: autocast's numbers and gradients to the bit, with fewer operators."""

import copy
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmark.models import build
from benchmark.models.critic import Critic
from benchmark.models.decoder import Decoder
from benchmark.training import casts, loop
from benchmark.training.casts import cast_once
from benchmark.training.train import Training
from tests.attacks.test_attacks import attack
from tests.support.tape import Tape
from tests.training.test_graph import assert_same, states
from tests.training.test_training import recipe

BF16 = dict(device_type="cpu", dtype=torch.bfloat16, enabled=True, cache_enabled=False)
NETWORKS = {
    "vgg11": (lambda: build("vgg11", 10, 32), (3, 32, 32)),
    "resnet20": (lambda: build("resnet20", 10, 32), (3, 32, 32)),
    "decoder": (lambda: Decoder((8, 8, 8), 32), (8, 8, 8)),
    "critic": (lambda: Critic(32), (3, 32, 32)),
    "layer": (lambda: nn.Conv2d(3, 4, 3), (3, 8, 8)),
    "nothing to cast": (nn.Sigmoid, (3, 8, 8)),
}


class Operators(TorchDispatchMode):
    """Counts operators by name."""

    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen[function._overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))


def off_the_cpu(module):
    """With the convolutions and norms that the module has on CUDA: torch's own."""
    for layer in module.modules():
        for kind in (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d):
            if isinstance(layer, kind):
                layer.__class__ = kind
    return module


def passed(network, x):
    """What comes out, the gradients of the input and of the parameters, how many casts there were."""
    x = x.clone().requires_grad_()
    torch.manual_seed(1)  # for Dropout
    with Operators() as operators:
        with torch.autocast(**BF16):
            y = cast_once(network, x)
        y.float().square().sum().backward()
    return [y, x.grad, *(parameter.grad for parameter in network.parameters())], operators.seen["_to_copy"]


@pytest.mark.parametrize("name", NETWORKS)
def test_values_and_gradients_are_autocasts(monkeypatch, name):
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    network = off_the_cpu(make()).to(memory_format=torch.channels_last)
    for layer in list(network.modules())[-3:]:  # frozen ones have no gradient
        layer.requires_grad_(False)
    x = torch.rand(4, *shape).contiguous(memory_format=torch.channels_last)
    expected, before = passed(copy.deepcopy(network), x)
    monkeypatch.setattr(casts, "DEVICES", ("cpu",))
    found, after = passed(network, x)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert torch.equal(ours, theirs) and ours.dtype == theirs.dtype and ours.stride() == theirs.stride()
    layers = sum(isinstance(layer, casts.CAST) for layer in network.modules())
    assert after < 0.4 * before if layers > 3 else after <= before


def test_without_autocast_nothing_is_cast(monkeypatch):
    monkeypatch.setattr(casts, "DEVICES", ("cpu",))
    layer = nn.Conv2d(3, 4, 3)
    assert cast_once(layer, torch.rand(1, 3, 8, 8)).dtype == torch.float32


def run(task, tape=None):
    for part in task.parts().values():
        if isinstance(part, nn.Module):
            off_the_cpu(part)
    if tape:
        task.captured.backend = tape
    return loop.run(task), states(task)


@pytest.mark.parametrize(("defense", "cem"), [("bottleneck", "on"), ("noise_arl", "off"), ("patrol", "on")])
def test_a_training_is_the_same(tiny_images, monkeypatch, defense, cem):
    """Pruned as well, and on the tape that stands for a graph."""
    settings = ("train.epochs=3", "train.batch_size=4", "defenses.patrol.prune_at=0.5")
    data = replace(
        tiny_images, train=tiny_images.train.take(torch.arange(24)), test=tiny_images.test.take(torch.arange(4))
    )
    make = lambda: Training(recipe(defense, cem, "published", *settings), data, torch.device("cpu"), "bf16")  # noqa: E731
    expected = run(make())
    monkeypatch.setattr(casts, "DEVICES", ("cpu",))
    found = run(make(), tape := Tape())
    assert found[0] == expected[0] and tape.played
    assert_same(found[1], expected[1])


@pytest.mark.parametrize("name", ["decoder", "gan"])
def test_an_attack_is_the_same(tiny_images, monkeypatch, name):
    images = tiny_images.train.take(torch.arange(16))
    extra = {"generator_every": 3} if name == "gan" else {}

    def make():
        task = attack(name, images, epochs=5, **extra)
        task.target.__dict__["autocast"] = BF16
        return task

    expected = run(make())
    monkeypatch.setattr(casts, "DEVICES", ("cpu",))
    found = run(make(), tape := Tape())
    assert found[0] == expected[0] and tape.played
    assert_same(found[1], expected[1])
