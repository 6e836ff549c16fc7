"""Steps stay on their device: on the "meta" device, which computes nothing, no operator may see a tensor of the host.

On a GPU such a tensor is an error, or a copy that waits and that no graph can hold; on a CPU nobody notices.
"""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

import benchmark.training.graph
import benchmark.training.train
from benchmark.attacks import ATTACKS, Target
from benchmark.attacks.base import Selection
from benchmark.attacks.held_out import ClosedForm
from benchmark.data import DataSet
from benchmark.defenses import DEFENSES
from benchmark.training import optimizers
from benchmark.training.train import Training
from tests.attacks.test_attacks import everything, params, shrink
from tests.training.test_training import recipe

META = torch.device("meta")


class Draws(torch.Generator):
    """What draws on the device."""

    device = META

    def __new__(cls, device=None):
        return super().__new__(cls)


class OneDevice(TorchDispatchMode):
    """Refuses operators that read or make a tensor outside the device."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in tree_iter((args, kwargs, result)):
            assert not isinstance(value, torch.Tensor) or value.device == META, f"{function} on {value.device}"
        return result


@pytest.fixture(autouse=True)
def no_values(monkeypatch):
    """What would look at values when a task is made: learning rates are numbers, and optimisers do not step."""
    monkeypatch.setattr(torch, "Generator", Draws)
    for module in (benchmark.training.train, benchmark.training.graph):
        monkeypatch.setattr(module, "scalar", lambda value, device: value)

    autocast = torch.autocast
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: autocast("cpu", enabled=False))

    def step(self):
        for group in self.param_groups:
            gradients = [parameter.grad for parameter in group["params"] if parameter.grad is not None]
            assert gradients and all(gradient.device == META for gradient in gradients)

    for optimizer in (optimizers.SGD, optimizers.Adam):
        monkeypatch.setattr(optimizer, "step", step)


def on_meta(data: DataSet) -> DataSet:
    return replace(data, train=data.train.take(torch.arange(24)), test=data.test.take(torch.arange(4))).to(META)


def run(step, *variant):
    """A first time, which makes what is kept for the device; then again, as it would be captured."""
    step(*variant)
    with OneDevice():
        step(*variant)


@pytest.mark.parametrize(
    ("protocol", "cem"), [("published", "on"), ("published", "full"), ("corrected", "on"), ("corrected", "diagonal")]
)
@pytest.mark.parametrize("defense", DEFENSES.names())
def test_a_training_step(tiny_images, defense, protocol, cem):
    task = Training(recipe(defense, cem, protocol, "train.batch_size=4"), on_meta(tiny_images), META, "fp32")
    run(task._step, task.cem is not None)


STEPLESS = (Selection, ClosedForm)


@pytest.mark.parametrize("name", [name for name in ATTACKS.names() if not issubclass(ATTACKS.get(name), STEPLESS)])
def test_an_attack_step(name, monkeypatch):
    monkeypatch.setattr(torch, "equal", lambda a, b: False)
    monkeypatch.setattr(torch.Tensor, "__bool__", lambda self: True)
    settings, features = params(name), torch.zeros(16, 3, 8, 8, device=META)
    send = ATTACKS.get(name).channel(settings, lambda z, draws: z + torch.randn(z.shape, device=META), everything)
    target = Target(
        features=features,
        images=torch.zeros(16, 3, 32, 32, dtype=torch.uint8, device=META),
        send=send,
        image_size=32,
        device=META,
        seed=7,
        autocast={"device_type": "meta", "dtype": torch.bfloat16, "enabled": False},
        encode=shrink,
        kept=everything,
        misfit=lambda z_clean, z: (z - z_clean).square().flatten(1).sum(1),
        received=send(features, Draws()),
    )
    task = ATTACKS.get(name)(settings, target)
    for variant in {task.variant(step) for step in range(20)}:
        run(task._step, variant)
    with OneDevice():
        next(iter(task.reconstructions()))


def test_the_check_has_teeth():
    x, index = torch.zeros(4, device=META), torch.arange(2)
    for wrong in (lambda: x[index], lambda: x + torch.tensor(1.0), lambda: torch.zeros(2)):
        with pytest.raises(AssertionError, match="on cpu"), OneDevice():
            wrong()
    with pytest.raises(RuntimeError), OneDevice():
        x.sum().item()
