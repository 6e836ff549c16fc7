"""One step of the GAN attack's critic and one of its generator against the released code's, at 32, 48 and 64 px."""

import pytest
import torch

from benchmark.attacks import Target
from benchmark.attacks.gan import GANAttack
from benchmark.matrix.load import MatrixFile
from tests.support.formula import fill, oracle, relative

CPU = torch.device("cpu")
ORACLE = oracle("gan_step")
SIGMA = 0.025


class Step:
    """The attack after the oracle's two steps: our real step, in which the generator takes one as well."""

    def __init__(self, size: int, monkeypatch):
        self.prefix = f"px{size}_"
        features, images = (torch.from_numpy(self[name]) for name in ("features", "images"))
        draws = [torch.from_numpy(self[f"noise_{who}_int16"]).float() / 256 for who in ("critic", "generator")]
        target = Target(
            features=features,
            images=images,
            send=lambda z, generator: z + SIGMA * draws.pop(0),
            image_size=size,
            device=CPU,
            seed=0,
            autocast=dict(device_type="cpu", dtype=torch.bfloat16, enabled=False, cache_enabled=False),
            quirks=MatrixFile().matrix.protocols["published"],
            received=features,
        )
        params = MatrixFile().settings("cifar10", "bottleneck", "off", []).attacks["gan"]
        self.task = task = GANAttack(params, target)
        fill(task.generator, "generator")
        fill(task.critic, "critic")
        self.norms = [layer for layer in task.generator.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
        self.moved = {}
        self.before = {
            name: [parameter.detach().clone() for parameter in network.parameters()]
            for name, network in self.networks.items()
        }
        alpha = torch.from_numpy(self["alpha"]).float()
        monkeypatch.setattr(torch, "rand", lambda *shape, **options: alpha.view(shape))
        self.losses = {}
        for name in ("_critic_step", "_generator_step"):
            monkeypatch.setattr(task, name, self._noting(name, getattr(task, name)))
        task.order.begin(torch.arange(4))
        task.step(params.generator_every - 1, 0)  # the tenth step, an epoch each, is the generator's, too
        assert not draws
        self.mse = task.losses.item()

    @property
    def networks(self):
        return {"critic": self.task.critic, "generator": self.task.generator}

    def _noting(self, name, step):
        def noted(*given):
            self.losses[name] = step(*given).item()
            self.moved[name] = [bool(norm.running_mean.any()) for norm in self.norms]

        return noted

    def __getitem__(self, name: str):
        return ORACLE[self.prefix + name]


@pytest.fixture(scope="module", params=[32, 48, 64])
def step(request):
    with pytest.MonkeyPatch.context() as patch:
        yield Step(request.param, patch)


def test_losses(step):
    for ending in ("", "_64"):
        assert step.losses["_critic_step"] == pytest.approx(float(step[f"critic_loss{ending}"]), rel=2e-5)
        assert step.losses["_generator_step"] == pytest.approx(float(step[f"generator_loss{ending}"]), rel=2e-5)
        assert step.mse == pytest.approx(float(step[f"mse_critic_step{ending}"]), rel=2e-5)
    assert step.task.critic.places(step.task.target.image_size) == int(step["critic_outputs_per_image"])


@pytest.mark.parametrize("network, norm_tolerance, first_tolerance, tensors", [
    ("critic", 1e-4, 1e-3, 9), ("generator", 5e-3, 5e-2, 82),
])  # fmt: skip
def test_gradients_and_changes(step, network, norm_tolerance, first_tolerance, tensors):
    checked = 0
    parameters = zip(step.networks[network].parameters(), step.before[network], strict=True)
    for index, (parameter, before) in enumerate(parameters):
        if step[f"{network}_grad_norm_64"][index] <= 1e-8:  # a bias before a norm: its true gradient is 0
            continue
        checked += 1
        gradient = parameter.grad.contiguous().flatten()
        size = min(8, gradient.numel())
        norm, first = (step[f"{network}_grad_{name}"][index] for name in ("norm", "first8"))
        assert gradient.double().norm().item() == pytest.approx(norm, rel=norm_tolerance), index
        assert relative(gradient[:size], first[:size]) < first_tolerance, index
        change = (parameter.detach() - before).contiguous().flatten()
        stored = step[f"{network}_change_norm"][index]
        assert change.double().norm().item() == pytest.approx(stored, rel=1e-3), index
    assert checked == tensors


def test_batchnorm_moves_in_the_generators_step_alone(step):
    """In a critic's step the generator is in evaluation mode."""
    assert step.norms and not any(step.moved["_critic_step"]) and all(step.moved["_generator_step"])
