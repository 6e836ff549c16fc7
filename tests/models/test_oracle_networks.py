"""The tensors of the networks, in their order, against those of the released code."""

import pytest

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
