"""Convolutions on a CPU: each way gives torch's values and gradients, in its layouts, and is chosen by shape alone."""

import pytest
import torch
from torch import nn

from benchmark.models import convolution
from benchmark.models.convolution import (
    Conv,
    Dense,
    OneDNN,
    Patches,
    PenaltyConv,
    Taps,
    Transposed,
    Way,
    Weights,
    way,
)

SHAPES = [(1, 1), (1, 2), (2, 2), (2, 1), (3, 3), (4, 3), (4, 4), (5, 7), (8, 8)]
BY = {"dense": Dense(), "patches": Patches(), "taps": Taps(), "weights": Weights, "onednn": None}
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def pair(kind, *given, **options):
    """One of ours in double precision, and torch's own with the same weights."""
    torch.manual_seed(0)
    ours, theirs = kind(*given, **options).double(), kind.__base__(*given, **options).double()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def gradients(module, x, gradient):
    x = x.detach().requires_grad_()
    y = module(x)
    return y, *torch.autograd.grad(y, [x, *module.parameters()], gradient)


@pytest.fixture(params=[1, 3], ids=["one_thread", "three_threads"])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def forced(monkeypatch):
    """Have every convolution go the way that is given."""
    return lambda by: monkeypatch.setattr(
        convolution, "way", lambda x, conv: by if isinstance(by, Way) else (by or OneDNN)(conv)
    )


@pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
@pytest.mark.parametrize("by", BY.values(), ids=BY)
def test_each_way_has_the_values_and_gradients_of_torch(by, shape, layout, threads, forced):
    if isinstance(by, Dense) and max(shape) > convolution.DENSE:
        pytest.skip("there an output does not see every input")
    forced(by)
    for bias in (True, False):
        ours, theirs = pair(Conv, 7, 3, 3, padding=1, bias=bias)
        x = torch.randn(5, 7, *shape, dtype=torch.float64).contiguous(memory_format=layout)
        gradient = torch.randn(5, 3, *shape, dtype=torch.float64).contiguous(memory_format=layout)
        for found, wanted in zip(gradients(ours, x, gradient), gradients(theirs, x, gradient), strict=True):
            torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_other_kernels_and_strides(kernel, stride, threads):
    ours, theirs = pair(Conv, 6, 5, kernel, stride, padding=kernel // 2)
    x = torch.randn(4, 6, 9, 10, dtype=torch.float64)
    gradient = torch.randn_like(theirs(x))
    for found, wanted in zip(gradients(ours, x, gradient), gradients(theirs, x, gradient), strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_taps_of_other_kernels(kernel, forced):
    forced(Taps())
    ours, theirs = pair(Conv, 6, 2, kernel, padding=kernel // 2)
    x = torch.randn(4, 6, 3, 10, dtype=torch.float64)
    gradient = torch.randn_like(theirs(x))
    for found, wanted in zip(gradients(ours, x, gradient), gradients(theirs, x, gradient), strict=True):
        torch.testing.assert_close(found, wanted)


def test_transposed(threads):
    ours, theirs = pair(Transposed, 6, 5, 3, stride=2, padding=1, output_padding=1)
    x = torch.randn(4, 6, 3, 4, dtype=torch.float64)
    gradient = torch.randn_like(theirs(x))
    for found, wanted in zip(gradients(ours, x, gradient), gradients(theirs, x, gradient), strict=True):
        torch.testing.assert_close(found, wanted)


def test_a_gradient_penalty_has_the_gradients_of_torch(threads):
    """Those of the weights of two convolutions, in double precision, through a norm and a nonlinearity."""
    found = []
    for modules in zip(pair(PenaltyConv, 3, 4, 5, stride=2, padding=2), pair(PenaltyConv, 4, 2, 3), strict=True):
        network = nn.Sequential(modules[0], nn.InstanceNorm2d(4), nn.Softplus(), modules[1])
        images = torch.randn(6, 3, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        images.requires_grad_()
        (slope,) = torch.autograd.grad(network(images).sum(), images, create_graph=True)
        loss = network(images.detach()).square().mean() + (slope.flatten(1).norm(dim=1) - 1).square().mean()
        loss.backward(inputs=list(network.parameters()))
        found.append([slope, loss, *(weight.grad for weight in network.parameters())])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16])
def test_a_gradient_penalty_in_other_arithmetic_is_refused(given):
    """It would not reach the weights, or not the images."""
    images = torch.randn(2, 3, 8, 8, dtype=given, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total = PenaltyConv(3, 4, 3)(images).sum()
    with pytest.raises(RuntimeError, match="leave autocast"):
        torch.autograd.grad(total, images, create_graph=True)


def test_images_have_no_other_gradient_than_that_of_a_penalty_where_it_is_said():
    conv, images = PenaltyConv(3, 4, 3), torch.randn(2, 3, 8, 8, requires_grad=True)
    for first, wanted in ((False, True), (True, False)):
        conv.first = first
        (found,) = torch.autograd.grad(conv(images).sum(), images, allow_unused=True)
        assert (found is not None) == wanted
        assert torch.autograd.grad(conv(2 * images).sum(), images)[0].any()


@pytest.mark.parametrize("size", [2, 4, 8])
@pytest.mark.parametrize("by", BY.values(), ids=BY)
def test_in_bf16_it_is_as_near_to_fp32_as_torchs_own(by, size, forced):
    if isinstance(by, Dense) and size > convolution.DENSE:
        pytest.skip("there an output does not see every input")
    forced(by)
    torch.manual_seed(0)
    ours, theirs = Conv(64, 3, 3, padding=1), nn.Conv2d(64, 3, 3, padding=1)
    theirs.load_state_dict(ours.state_dict())
    x, gradient = torch.randn(32, 64, size, size), torch.randn(32, 3, size, size).bfloat16()
    exact = gradients(theirs, x, gradient.float())
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        rounded, own = gradients(theirs, x, gradient), gradients(ours, x, gradient)
    for found, other, wanted in zip(own, rounded, exact, strict=True):
        assert found.dtype == other.dtype
        assert (found - wanted).square().mean() <= 4 * (other - wanted).square().mean()


def test_weights_that_are_frozen_get_no_gradient_and_images_none_that_is_not_asked_for():
    conv = Conv(3, 4, 3, padding=1).requires_grad_(False)
    x = torch.randn(2, 3, 2, 2, requires_grad=True)
    conv(x).sum().backward()
    assert x.grad is not None and conv.weight.grad is None
    conv.requires_grad_(True)
    conv(x.detach()).sum().backward()
    assert conv.weight.grad is not None


def test_the_way_is_a_function_of_hardware_shape_and_arithmetic(monkeypatch):
    conv, last = Conv(64, 64, 3, padding=1), Conv(64, 3, 3, padding=1)

    def taken(conv, side, dtype=torch.bfloat16):
        return type(way(torch.zeros(1, conv.in_channels, side, side, dtype=dtype), conv))

    monkeypatch.setattr(convolution, "amx", lambda: False)
    assert [taken(conv, side) for side in (1, 2, 3, 4, 8)] == [Dense, Dense, OneDNN, OneDNN, OneDNN]
    assert taken(last, 32) is Taps and taken(last, 32, torch.float32) is OneDNN
    assert taken(Conv(64, 64, 3, 2, padding=1), 2) is OneDNN and taken(Conv(64, 64, 3), 2) is OneDNN
    assert "2x2" in convolution.described(torch.device("cpu"))
    monkeypatch.setattr(convolution, "amx", lambda: True)
    assert [taken(conv, side) for side in (2, 3, 4, 5)] == [Dense, Patches, Patches, OneDNN]
    assert taken(conv, 4, torch.float32) is OneDNN and taken(last, 32) is OneDNN
    wide = Conv(64, 256, 3, padding=1)
    assert taken(wide, 8) is Weights and {taken(wide, 9), taken(wide, 8, torch.float32)} == {OneDNN}
    assert (
        "4x4" in convolution.described(torch.device("cpu")) and convolution.described(torch.device("cuda")) == "torch"
    )
    with torch.autocast("cpu", torch.bfloat16):
        assert taken(conv, 4, torch.float32) is Patches


def test_the_state_and_its_memory_are_torchs_own():
    ours, theirs = (kind(8, 16, 3, padding=1).to(memory_format=torch.channels_last) for kind in (Conv, nn.Conv2d))
    for (name, found), (other, wanted) in zip(ours.state_dict().items(), theirs.state_dict().items(), strict=True):
        assert (name, found.shape, found.dtype, found.stride()) == (other, wanted.shape, wanted.dtype, wanted.stride())
    optimizer = torch.optim.SGD(ours.parameters(), 0.1, momentum=0.9, fused=True)
    for side in (2, 4):
        ours(torch.randn(4, 8, side, side)).sum().backward()
        assert ours.weight.grad.stride() == ours.weight.stride()
    optimizer.step()


def test_the_threads_of_the_process_stay_what_they_were(threads):
    conv = Conv(4, 4, 3, padding=1)
    conv(torch.randn(6, 4, 8, 8)).sum().backward()
    assert torch.get_num_threads() == threads
