"""LPIPS against its formula in float64, and every way in which it cannot be had."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import conv2d, max_pool2d, relu

from benchmark.data import _torchvision
from benchmark.errors import UserError
from benchmark.metrics import lpips
from benchmark.metrics.lpips import Lpips, weights_at_hand

CPU = torch.device("cpu")
CONVS = ((0, 4, 2), (3, 1, 2), (6, 1, 1), (8, 1, 1), (10, 1, 1))  # AlexNet: place in `features`, stride, padding
POOLED_BEFORE = (3, 6)


def needs_lpips() -> None:
    """Skip where the package is not; torchvision, which it imports, first by the one way that always works."""
    _torchvision.load("torchvision.models")
    pytest.importorskip("lpips")


def random_alexnet(path: Path, seed: int = 0) -> Path:
    """A file like torchvision's, with random weights: the real ones are a download."""
    models = _torchvision.load("torchvision.models")
    torch.manual_seed(seed)
    torch.save(models.alexnet(weights=None).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return random_alexnet(tmp_path_factory.mktemp("lpips") / "alexnet.pth")


def features(x: torch.Tensor, state: dict) -> list[np.ndarray]:
    """What AlexNet's five convolutions give after their ReLU, of unit length along the channels."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x, found = (x.double() - mean.view(3, 1, 1)) / std.view(3, 1, 1), []
    for place, stride, padding in CONVS:
        x = max_pool2d(x, 3, 2) if place in POOLED_BEFORE else x
        kernel, bias = (state[f"features.{place}.{part}"].double() for part in ("weight", "bias"))
        x = relu(conv2d(x, kernel, bias, stride, padding))
        found.append((x / x.square().sum(1, keepdim=True).sqrt().clamp_min(1e-10)).numpy())
    return found


@pytest.mark.parametrize("size", [32, 64])
def test_it_is_the_weighted_squared_distance_of_unit_features(weights, size):
    """Zhang et al. 2018, Eq 1, with the linear weights that the package brings."""
    needs_lpips()
    a, b = torch.rand(2, 3, 3, size, size, generator=torch.Generator().manual_seed(1))
    network = Lpips(weights, CPU)
    state = torch.load(weights)
    wanted = np.zeros(3)
    for number, (f, g) in enumerate(zip(features(a, state), features(b, state), strict=True)):
        linear = network.network.lins[number].model[-1].weight.double().numpy()[0]
        assert (linear >= 0).all() and linear.any()
        wanted += (linear * (f - g) ** 2).sum(1).mean((1, 2))
    np.testing.assert_allclose(network(a, b).numpy(), wanted, rtol=2e-3)  # the scaling's constants have 3 digits
    assert network(a, a).abs().max() == 0 and len(network.sha256) == 64


def test_without_the_weights_it_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(UserError, match="there is no .*alexnet-owt-7be5be79.pth; download https://"):
        weights_at_hand(None)
    with pytest.raises(UserError, match="there is no .*mine.pth"):
        weights_at_hand(tmp_path / "mine.pth")
    place = tmp_path / "checkpoints" / lpips.FILE
    place.parent.mkdir()
    place.write_bytes(b"x")
    assert weights_at_hand(None) == place


def test_what_is_not_alexnet_is_told(tmp_path):
    needs_lpips()
    contents = (b"", b".", b"not a network", [1], torch.ones(3), {"a": torch.ones(1)}, {"features.0.weight": 3})
    for number, content in enumerate(contents):
        path = tmp_path / f"{number}.pth"
        path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
        with pytest.raises(UserError, match="does not hold torchvision's AlexNet"):
            Lpips(path, CPU)


def test_without_the_packages_it_says_what_to_do(weights, monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(UserError, match="pip install lpips"):
        Lpips(weights, CPU)
    monkeypatch.setattr(_torchvision, "load", lambda module: None)
    with pytest.raises(UserError, match="needs torchvision"):
        Lpips(weights, CPU)
