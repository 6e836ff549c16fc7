"""Structured pruning of the encoder: what stays is the same function, and training goes on."""

import copy

import pytest
import torch
from torch import nn

from benchmark.models import build
from benchmark.models.prune import probe, shrink, target_widths, taylor_scores

FULL = (16, 64, 128, 8)


def model_and_batch(seed=0):
    model = build("vgg11", 5, 32, front=16, seed=seed)
    model.server = nn.Identity()  # it adds nothing here but time
    generator = torch.Generator().manual_seed(seed)
    for module in model.encoder:  # statistics and shifts as after some training
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.1)
    return model, torch.rand(4, 3, 32, 32, generator=generator)


def some_kept(width, count, seed=0):
    return torch.randperm(width, generator=torch.Generator().manual_seed(seed))[:count].sort().values


def kill(model, conv_index, kept):
    """Make every other channel of a conv layer constantly zero after its ReLU."""
    layers = list(model.encoder)
    norm = layers[layers.index(model.encoder.convs[conv_index]) + 1]
    dead = torch.ones(norm.num_features, dtype=torch.bool)
    dead[kept] = False
    norm.weight.data[dead] = 0
    norm.bias.data[dead] = 0


def step(model, optimizer, x):
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()


def test_target_widths():
    assert target_widths(FULL) == (16, 60, 121, 8)
    assert target_widths((64, 128, 256, 8), 0.5) == (32, 64, 128, 8)
    assert target_widths(FULL, 0) == FULL
    with pytest.raises(ValueError, match="no encoder"):
        target_widths((16, 60, 121, 8))


def test_removing_dead_channels_keeps_the_function():
    model, x = model_and_batch()
    keep = [None, some_kept(64, 60), some_kept(128, 121), None]
    for index in (1, 2):
        kill(model, index, keep[index])
    model.eval()
    before = model.encoder(x).detach()
    shrink(model, keep)
    assert model.encoder.widths == (16, 60, 121, 8)
    assert sum(parameter.numel() for parameter in model.encoder.parameters()) == 83_723
    torch.testing.assert_close(model.encoder(x), before, atol=1e-6, rtol=0)
    # and it is the function of a model built at these widths
    rebuilt = build("vgg11", 5, 32, front=16, widths=model.encoder.widths).eval()
    rebuilt.encoder.load_state_dict(model.encoder.state_dict())
    assert torch.equal(rebuilt.encoder(x), model.encoder(x))


def test_what_is_left_are_the_kept_channels():
    model, _ = model_and_batch()
    before = copy.deepcopy(model)
    keep = [None, some_kept(64, 50), some_kept(128, 100), None]
    shrink(model, keep)
    first, second, last = model.encoder.convs[1:]
    old_first, old_second, old_last = before.encoder.convs[1:]
    assert torch.equal(first.weight, old_first.weight[keep[1]])
    assert torch.equal(second.weight, old_second.weight[keep[2]][:, keep[1]])
    assert torch.equal(last.weight, old_last.weight[:, keep[2]]) and torch.equal(last.bias, old_last.bias)
    assert torch.equal(model.encoder[4].running_var, before.encoder[4].running_var[keep[1]])
    assert model.encoder[4].num_features == first.out_channels == second.in_channels == 50


def test_sgd_goes_on_as_on_the_whole_network():
    # dead channels get no gradient and no weight decay here, so the pruned network's momentum steps have to
    # be the whole one's: the buffers must have been cut to the right channels
    model, x = model_and_batch()
    keep = [None, some_kept(64, 60), some_kept(128, 121), None]
    for index in (1, 2):
        kill(model, index, keep[index])
    model.eval()  # fixed statistics and no dropout
    whole = copy.deepcopy(model)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.9) for m in (model, whole)]
    for network, optimizer in zip((model, whole), optimizers, strict=True):
        step(network, optimizer, x)
    for index in (1, 2):  # relu'(0) = 0: still dead after a step
        kill(whole, index, keep[index])
    shrink(model, keep, optimizers[0])
    for _ in range(2):
        for network, optimizer in zip((model, whole), optimizers, strict=True):
            step(network, optimizer, x)
    torch.testing.assert_close(model.encoder(x), whole.encoder(x), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        model.encoder.convs[2].weight,
        whole.encoder.convs[2].weight[keep[2]][:, keep[1]],
        atol=1e-6,
        rtol=1e-4,
    )
    shared = [p for group in optimizers[0].param_groups for p in group["params"]]
    assert len(shared) == len(list(model.encoder.parameters()))
    assert all(one is other for one, other in zip(shared, model.encoder.parameters(), strict=True))


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam])
def test_pruning_while_an_old_graph_is_alive(make):
    model, x = model_and_batch()
    extra = {"momentum": 0.9} if make is torch.optim.SGD else {}
    optimizer = make(model.parameters(), lr=0.01, fused=True, **extra)
    held = model.encoder(x)
    held.square().mean().backward(retain_graph=True)
    optimizer.step()
    shrink(model, [None, some_kept(64, 60), some_kept(128, 121), None], optimizer)
    step(model, optimizer, x)
    assert held.grad_fn is not None
    assert all(parameter.grad.isfinite().all() for parameter in model.encoder.parameters())
    assert all(
        value.shape == parameter.shape
        for parameter, state in optimizer.state.items()
        for value in state.values()
        if torch.is_tensor(value) and value.dim()
    )


def test_scores_are_the_taylor_expansion_and_spare_what_they_should():
    model, x = model_and_batch()
    model.encoder(x).square().mean().backward()
    scores = taylor_scores(model.encoder)
    assert [score is None for score in scores] == [True, False, False, True]
    own, following = model.encoder.convs[1].weight, model.encoder.convs[2].weight
    for c in (0, 63):
        makes = zip(own[c].flatten(), own.grad[c].flatten(), strict=True)
        reads = zip(following[:, c].flatten(), following.grad[:, c].flatten(), strict=True)
        expected = sum(abs(w.item() * g.item()) for w, g in (*makes, *reads))
        assert scores[1][c].item() == pytest.approx(expected, rel=1e-4)
    assert scores[2].shape == (128,)


def test_the_layer_that_makes_the_feature_is_spared_without_a_bottleneck():
    model = build("vgg11", 5, 32, bottleneck=None)
    model(torch.rand(2, 3, 32, 32)).sum().backward()
    assert [score is None for score in taylor_scores(model.encoder)] == [False, True]
    with pytest.raises(ValueError, match="layer 1"):
        shrink(model, [None, some_kept(128, 121)])


def test_a_resnets_block_loses_channels_between_its_convs():
    model = build("resnet20", 5, 32, front=16)
    x = torch.rand(2, 3, 32, 32)
    model.encoder(x).square().mean().backward()
    assert [index for index, score in enumerate(taylor_scores(model.encoder)) if score is not None] == [8]
    block = model.encoder[7]  # after the stem's three layers, the front conv and stage 1
    keep = [some_kept(64, 60) if conv is block.conv1 else None for conv in model.encoder.convs]
    dead = torch.ones(64, dtype=torch.bool)
    dead[keep[8]] = False
    block.bn1.weight.data[dead] = 0
    block.bn1.bias.data[dead] = 0
    model.eval()
    before = model.encoder(x).detach()
    shrink(model, keep)
    torch.testing.assert_close(model.encoder(x), before, atol=1e-6, rtol=0)
    rebuilt = build("resnet20", 5, 32, front=16, widths=model.encoder.widths).eval()
    rebuilt.load_state_dict(model.state_dict())
    assert torch.equal(rebuilt.encoder(x), model.encoder(x))
    with pytest.raises(ValueError, match="layer 9"):
        shrink(build("resnet20", 5, 32, front=16), [None] * 9 + [some_kept(64, 60), None])


def test_no_gradient_no_score():
    with pytest.raises(ValueError, match="backward"):
        taylor_scores(build("vgg11", 5, 32).encoder)


def test_channels_last_stays():
    model, x = model_and_batch()
    model = model.to(memory_format=torch.channels_last)
    shrink(model, [None, some_kept(64, 60), some_kept(128, 121), None])
    assert all(conv.weight.is_contiguous(memory_format=torch.channels_last) for conv in model.encoder.convs)
    model(x.contiguous(memory_format=torch.channels_last)).sum().backward()


def test_the_probe_adds_the_gradients_of_a_noise_image_in_evaluation_mode():
    model, x = model_and_batch()
    model(x).square().mean().backward()
    before = {name: parameter.grad.clone() for name, parameter in model.encoder.named_parameters()}
    statistics = {name: buffer.clone() for name, buffer in model.encoder.named_buffers()}
    alone = copy.deepcopy(model.encoder).eval()
    torch.manual_seed(5)
    probe(model.encoder)
    torch.manual_seed(5)
    (image,) = torch.randn(1, 1, 3, 32, 32)
    wanted = torch.autograd.grad(alone(image).sum(), list(alone.parameters()))
    for (name, parameter), gradient in zip(model.encoder.named_parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, before[name] + gradient)
    assert model.encoder.training
    assert all(torch.equal(buffer, statistics[name]) for name, buffer in model.encoder.named_buffers())
