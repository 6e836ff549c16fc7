"""Initial weights against the laws and spreads that the released code's have over five seeds."""

import math

import pandas as pd
import pytest
import torch

from benchmark.models import build
from benchmark.models.critic import Critic
from benchmark.models.decoder import Decoder, xavier_
from tests.support.formula import ORACLES

TABLE = pd.read_csv(ORACLES / "network_init.csv")
SEEDS = (1, 2, 3, 4, 125)


def adversary(feature_shape, image_size):
    network = Decoder(feature_shape, image_size, blocks=4)
    xavier_(network)
    return network


# networks of the file, one after the other -> those of ours that hold their tensors in the same order
NETWORKS = {
    ("vgg11 encoder",): lambda seed: build("vgg11", 10, 32, seed=seed).encoder,
    ("vgg11 patrol encoder",): lambda seed: build("vgg11", 10, 32, front=16, seed=seed).encoder,
    ("vgg11 server", "vgg11 classifier"): lambda seed: build("vgg11", 10, 32, seed=seed).server,
    ("vgg11_facescrub encoder",): lambda seed: build("vgg11", 530, 48, seed=seed).encoder,
    ("vgg11_facescrub server", "vgg11_facescrub classifier"): lambda seed: build("vgg11", 530, 48, seed=seed).server,
    ("resnet20 encoder",): lambda seed: build("resnet20", 200, 64, seed=seed).encoder,
    ("resnet20 patrol encoder",): lambda seed: build("resnet20", 200, 64, front=16, seed=seed).encoder,
    ("resnet20 server", "resnet20 classifier"): lambda seed: build("resnet20", 200, 64, seed=seed).server,
    ("vgg11 adversary (N=4)",): lambda seed: adversary((8, 8, 8), 32),
    ("resnet20 adversary (N=4)",): lambda seed: adversary((8, 16, 16), 64),
    ("attack decoder = generator (N=8)",): lambda seed: Decoder((8, 8, 8), 32),
    ("critic",): lambda seed: Critic(32),
}


def test_every_network_of_the_file_is_tested():
    assert {name for names in NETWORKS for name in names} == set(TABLE["network"])


@pytest.mark.parametrize("names", NETWORKS, ids="+".join)
def test_initial_weights_follow_the_released_laws(names):
    rows = [row for name in names for row in TABLE[TABLE["network"] == name].to_dict("records")]
    draws = []
    with torch.random.fork_rng(devices=[]):
        for seed in SEEDS:
            torch.manual_seed(seed)
            draws.append([parameter.detach() for parameter in NETWORKS[names](seed).parameters()])
    fans = None
    for row, *tensors in zip(rows, *draws, strict=True):
        shape = tuple(int(size) for size in str(row["shape"]).split("x"))
        assert all(tuple(tensor.shape) == shape for tensor in tensors), row["tensor"]
        fans = (math.prod(shape[1:]), math.prod(shape[2:]) * shape[0]) if len(shape) > 1 else fans
        check(row, torch.stack(tensors), fans)


def check(row: dict, draws: torch.Tensor, fans: tuple[int, int] | None) -> None:
    """draws [seeds, ...] of one tensor; fans: weights at each output and at each input of the layer it belongs to."""
    law, what, elements = row["law"], (row["network"], row["tensor"]), draws[0].numel()
    if law.startswith("constant") and elements > 1:
        assert draws.unique().tolist() == [float(law.split()[1])], what
        return
    if elements > 1000:
        spread = draws.flatten(1).std(1).mean().item()
        assert spread == pytest.approx(row["std_mean"], rel=0.03), what
    if law.startswith("normal"):
        assert draws.abs().max() > 3 * row["std_mean"], what  # beyond what a uniform law of that spread reaches
        return
    # a bias is uniform in torch's bound; the file has only the largest value seen of it, and of one bias one value
    bound = (6 / sum(fans)) ** 0.5 if "xavier" in law else fans[0] ** -0.5
    assert "= " not in law or bound == pytest.approx(float(law.split("= ")[1]), abs=1e-6), what
    assert draws.abs().max() <= bound * (1 + 1e-6), what
    assert elements == 1 or draws.abs().max() > 0.9 * bound, what
