"""BatchNorm, ReLU and pooling in one: the values, gradients and state of torch's modules, more exactly than in bf16."""

import copy
import sys

import pytest
import torch
from torch import nn

from benchmark.jobs.provenance import provenance
from benchmark.models import layers, passes
from benchmark.models.layers import BatchNorm2d, Layers, normed

pytest.importorskip("numba")
CPU = torch.device("cpu")
LINES = {
    "norm": [],
    "relu": [nn.ReLU()],
    "pool": [nn.ReLU(inplace=True), nn.MaxPool2d(2)],
    "pool without relu": [nn.MaxPool2d(2)],
    "another pool": [nn.ReLU(), nn.MaxPool2d(3, 2, 1)],
}
SHAPES = [(5, 64, 8, 8), (3, 5, 6, 4), (16, 3, 4, 4), (2, 40, 5, 7), (4, 16, 2, 2), (300, 33, 2, 6)]


@pytest.fixture(params=[1, 3], ids=["one_thread", "three_threads"])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def line(channels: int, *after: nn.Module) -> Layers:
    torch.manual_seed(0)
    norm = BatchNorm2d(channels)
    with torch.no_grad():
        norm.weight.uniform_(-1, 2)
        norm.bias.uniform_(-1, 1)
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)
    return Layers(norm, *after)


def maps(shape, dtype=torch.bfloat16):
    torch.manual_seed(1)
    x = 2 * torch.randn(shape) + 3 * torch.randn(1, shape[1], 1, 1)
    return x.to(dtype).contiguous(memory_format=torch.channels_last)


def found(network, x):
    """Values, all gradients and the state after one step."""
    x = x.detach().requires_grad_()
    y = network(x)
    torch.manual_seed(2)
    y.backward(torch.randn(y.shape).bfloat16().to(y.dtype))
    norm = network[0]
    return [y.detach(), x.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var]


def exact(network, x):
    """The same by torch's modules in double precision."""
    theirs = nn.Sequential(*copy.deepcopy(network)).double()
    theirs[0].__class__ = nn.BatchNorm2d
    return found(theirs, x.double())


def distance(ours, theirs) -> float:
    return float((ours.double() - theirs).norm() / theirs.norm().clamp_min(1e-9))


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("after", LINES)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def test_it_is_torchs_modules(shape, after, training, threads):
    network, x = line(shape[1], *LINES[after]).train(training), maps(shape)
    wanted = exact(network, x)
    # where torch pools, it does so after rounding to bf16: of two that are equal then, it may take the smaller
    rounded = after.startswith(("pool without", "another")) or (after == "pool" and shape[2] % 2)
    for ours, theirs in zip(found(network, x), wanted, strict=True):
        assert ours.shape == theirs.shape
        assert distance(ours, theirs) < (0.1 if rounded else 0.01 if ours.dtype == torch.bfloat16 else 1e-3)


def test_numbers_do_not_depend_on_the_threads():
    network, x, before, runs = line(16, *LINES["pool"]), maps((70, 16, 8, 8)), torch.get_num_threads(), []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        runs.append(found(copy.deepcopy(network), x))
    torch.set_num_threads(before)
    for others in runs[1:]:
        assert all(torch.equal(one, other) for one, other in zip(runs[0], others, strict=True))


def test_a_mean_far_from_zero_takes_no_digits():
    """The variance is summed around the running mean, which has followed the maps."""
    network, x = line(8), maps((64, 8, 8, 8), torch.float32)
    x = (1000 + x).bfloat16()
    with torch.no_grad():
        network[0].running_mean.copy_(x.double().mean((0, 2, 3)) + 0.5)
    wanted = exact(network, x)
    assert distance(found(network, x)[0], wanted[0]) < 0.01


@pytest.mark.parametrize("after", ["relu", "pool"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_shows(after, value):
    network, x = line(8, *LINES[after]), maps((4, 8, 4, 4))
    x[1, 2, 0, 0] = value
    assert not network(x)[:, 2].isfinite().any()  # it is in the mean
    assert network(x)[:, 3].isfinite().all()


def test_where_it_is_used(monkeypatch):
    calls = []
    applied = layers._Normed.apply
    monkeypatch.setattr(layers._Normed, "apply", lambda *given: calls.append(given) or applied(*given))
    network, x = line(8, nn.ReLU()), maps((4, 8, 4, 4))
    network(x), normed(network[0], x), normed(network[0], x, relu=False)
    assert len(calls) == 3
    for other in (x.float(), x.contiguous(), x[:0]):  # fp32, another layout, nothing
        if len(other):
            network(other)
        else:
            network.eval()(other)
    network[0].__class__ = nn.BatchNorm2d  # torch's own
    network(x)
    assert len(calls) == 3


def test_without_numba_torch_does_it(monkeypatch):
    network, x = line(8, nn.ReLU()), maps((4, 8, 4, 4))
    assert provenance(CPU)["normalisation"] == "fused"
    wanted = exact(network, x)
    monkeypatch.setitem(sys.modules, "benchmark.models.kernels", None)
    monkeypatch.delattr(sys.modules["benchmark.models"], "kernels", raising=False)
    passes.kernels.cache_clear()
    try:
        assert passes.kernels() is None and provenance(CPU)["normalisation"] == "torch"
        assert distance(found(network, x)[0], wanted[0]) < 0.01
    finally:
        monkeypatch.undo()
        passes.kernels.cache_clear()


def test_the_gradient_of_a_bias_is_kept_wide():
    x = maps((300, 5, 4, 4))
    assert distance(passes.OPS.totals(x), x.double().sum((0, 2, 3))) < 1e-6
