"""The tensors of the networks, in their order, against those of the released code."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchmark.models import build
from benchmark.models.critic import Critic
from benchmark.models.decoder import Decoder
from tests.support.formula import table

NETWORKS = {
    ("encoder",): lambda: build("vgg11", 10, 32).encoder,
    ("encoder_patrol",): lambda: build("vgg11", 10, 32, front=16).encoder,
    ("server", "classifier"): lambda: build("vgg11", 10, 32).server,
    ("adversary",): lambda: Decoder((8, 8, 8), 32, blocks=4),
    ("generator",): lambda: Decoder((8, 8, 8), 32),
    ("critic",): lambda: Critic(32),
}


def test_every_network_of_the_file_is_tested():
    assert {name for names in NETWORKS for name in names} == set(table()["network"])


@pytest.mark.parametrize("names", NETWORKS, ids="+".join)
def test_tensors_are_the_released_ones(names):
    rows = table()[table()["network"].isin(names)]
    shapes = ["x".join(str(size) for size in parameter.shape) for parameter in NETWORKS[names]().parameters()]
    assert shapes == rows["shape"].astype(str).tolist()


def test_numbers_of_parameters():
    counts = {names: sum(p.numel() for p in make().parameters()) for names, make in NETWORKS.items()}
    assert counts[("encoder",)] == 85_256 and counts[("server", "classifier")] == 9_689_738
    assert counts[("adversary",)] == 415_091 and counts[("generator",)] == 711_539


def test_a_resnet_encoder_computes_what_the_released_one_does():
    """Written out: after a block with twice the channels, the shortcut's new ones are zeros behind the old ones."""
    encoder = build("resnet20", 20, 64, cut="c3", seed=1).encoder.double()
    generator = torch.Generator().manual_seed(0)
    for module in encoder.modules():  # statistics and shifts as after some training
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.1)
    layers = iter([module for module in encoder.modules() if isinstance(module, nn.Conv2d | nn.BatchNorm2d)])

    def conv(x, stride=1):
        weight = next(layers).weight
        return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2)

    def norm(x):
        layer = next(layers)
        x = (x - layer.running_mean[:, None, None]) / (layer.running_var[:, None, None] + 1e-5).sqrt()
        return x * layer.weight[:, None, None] + layer.bias[:, None, None]

    image = torch.rand(2, 3, 64, 64, generator=generator, dtype=torch.float64)
    x = norm(conv(image)).relu()
    for _, block in itertools.product(range(2), range(3)):
        stride = 2 if block == 0 else 1
        y = norm(conv(norm(conv(x, stride)).relu()))
        shortcut = F.avg_pool2d(x, 1, 2) if stride == 2 else x
        x = (torch.cat((shortcut, 0 * shortcut), 1) if stride == 2 else shortcut).add(y).relu()
    last = next(layers)
    expected = torch.sigmoid(F.conv2d(x, last.weight, last.bias, 1, 1))
    torch.testing.assert_close(encoder.eval()(image), expected)
