"""Networks: the sizes that the paper prints, shapes at every cut, initial weights, bf16, MAC counts."""

import pytest
import torch
from torch import nn

from benchmark.errors import UserError
from benchmark.models import build
from benchmark.models.critic import Critic
from benchmark.models.decoder import Decoder, Doubling
from benchmark.models.layers import BatchNorm2d
from benchmark.models.macs import count
from benchmark.models.resnet import Block

PRUNED = (16, 60, 121, 8)


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("classes", "server"), [(10, 9_689_738), (100, 9_735_908)])
def test_vgg_sizes(classes, server):
    model = build("vgg11", classes, 32)
    assert (parameters(model.encoder), parameters(model.server)) == (85_256, server)
    assert model.encoder.widths == (64, 128, 8) and model.feature_shape == (8, 8, 8)


def test_patrol_and_decoder_sizes():
    assert parameters(build("vgg11", 10, 32, front=16, widths=PRUNED).encoder) == 83_723
    assert parameters(Decoder((8, 8, 8), 32)) == 711_539
    # a block of 64 channels: two BNs and two biased 3x3 convs
    assert parameters(Decoder((8, 8, 8), 32)) - parameters(Decoder((8, 8, 8), 32, blocks=4)) == 4 * 74_112


@pytest.mark.parametrize("arch", ["vgg11", "resnet20"])
@pytest.mark.parametrize(("size", "bottleneck"), [(32, 8), (48, 8), (64, 8), (32, None)])
def test_shapes_at_every_cut(arch, size, bottleneck):
    with torch.device("meta"):  # shapes alone, at no cost
        x = torch.rand(2, 3, size, size)
        for cut in ("c1", "c2", "c3"):
            model = build(arch, 5, size, cut, bottleneck)
            z = model.encoder(x)
            assert z.shape[1:] == model.feature_shape
            assert bottleneck is None or len(z[0]) == bottleneck
            assert model.server(z).shape == (2, 5)
            assert Decoder(model.feature_shape, size, blocks=0)(z).shape == x.shape


def test_features_the_paper_names():
    x = torch.rand(1, 3, 48, 48)
    facescrub = build("vgg11", 530, 48).eval()
    assert facescrub.feature_shape == (8, 12, 12)
    last_map = []
    flatten = next(layer for layer in facescrub.server if isinstance(layer, nn.Flatten))
    flatten.register_forward_hook(lambda layer, inputs, output: last_map.append(inputs[0].shape))
    facescrub(x)
    assert last_map == [(1, 512, 1, 1)]
    z = facescrub.encoder(100 * (x - 0.5))
    assert 0 <= z.min() < 0.1 and 0.9 < z.max() <= 1  # the Sigmoid
    assert build("resnet20", 200, 64).feature_shape == (8, 16, 16)
    assert build("vgg11", 10, 32, bottleneck=None).feature_shape == (128, 8, 8)
    assert build("vgg11", 10, 32, "c3", None).feature_shape == (256, 8, 8)


def test_cutting_does_not_change_the_network():
    sizes = {cut: parameters(build("vgg11", 10, 32, cut, None)) for cut in ("c1", "c2", "c3")}
    # the features of torchvision's vgg11_bn, and a 512-512-512-10 classifier
    assert set(sizes.values()) == {9_225_984 + 262_656 * 2 + 5_130}
    resnets = {cut: parameters(build("resnet20", 200, 64, cut, None)) for cut in ("c1", "c2", "c3")}
    assert len(set(resnets.values())) == 1


def test_resnet_block_is_conv_bn_relu_and_a_padded_shortcut():
    block = Block(4, 8, 2).eval()
    nn.init.zeros_(block.bn2.weight)  # the convolutions' way adds nothing
    x = torch.rand(2, 4, 6, 6)
    expected = torch.zeros(2, 8, 3, 3)
    expected[:, :4] = x[:, :, ::2, ::2]
    torch.testing.assert_close(block(x), expected)


def test_normalisation_is_torchs_without_its_count():
    """Bit for bit in training and in evaluation; each loads the other's state."""
    ours, theirs = BatchNorm2d(5), nn.BatchNorm2d(5)
    x = torch.rand(4, 5, 3, 3)
    for mode in (True, True, False):
        results = []
        for norm in (ours.train(mode), theirs.train(mode)):
            y = norm(x)
            results.append((y, *torch.autograd.grad(y.square().sum(), (norm.weight, norm.bias))))
        assert all(map(torch.equal, *results))
    states = ours.state_dict(), theirs.state_dict()
    assert list(states[0]) == list(states[1]) and states[1].pop("num_batches_tracked") == 2
    assert states[0].pop("num_batches_tracked") == 0 and all(map(torch.equal, states[0].values(), states[1].values()))
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    norms = [module for module in build("vgg11", 10, 32).modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms and all(type(norm) is BatchNorm2d for norm in norms)


def test_initial_weights_depend_on_the_seed_alone():
    state = torch.get_rng_state()
    first = build("vgg11", 10, 32, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    again, other = build("vgg11", 10, 32, seed=1), build("vgg11", 10, 32, seed=2)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    assert not torch.equal(first.encoder.convs[0].weight, other.encoder.convs[0].weight)
    assert not torch.equal(first.server[0].weight, other.server[0].weight)


def test_vgg_encoder_is_xavier_uniform_with_zero_biases():
    for conv in build("vgg11", 10, 32, front=16).encoder.convs:
        fan_in, fan_out = (9 * channels for channels in (conv.in_channels, conv.out_channels))
        bound = (6 / (fan_in + fan_out)) ** 0.5
        assert 0.95 * bound < conv.weight.abs().max() <= bound
        assert conv.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
        assert not conv.bias.any()


def test_widths_round_trip():
    model = build("vgg11", 10, 32, front=16, widths=PRUNED)
    assert model.encoder.widths == PRUNED
    again = build("vgg11", 10, 32, front=16, widths=list(model.encoder.widths), seed=9)
    again.load_state_dict(model.state_dict())
    resnet = build("resnet20", 20, 64, front=16)
    assert build("resnet20", 20, 64, front=16, widths=resnet.encoder.widths).encoder.widths == (
        *(16, 16), *(32,) * 6, *(64, 64), 8
    )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arch": "vgg16"}, "unknown architecture 'vgg16'"),
        ({"cut": "c9"}, "unknown cut 'c9'"),
        ({"image_size": 16}, "images of 16 px"),
        ({"image_size": 33}, "images of 33 px"),
        ({"bottleneck": 0}, "bottleneck is 0"),
        ({"front": 0}, "front is 0"),
        ({"classes": 1}, "classes is 1"),
        ({"widths": (64, 128)}, "do not fit"),
        ({"widths": (64, 129, 8)}, "do not fit"),
        ({"widths": (64, 120, 6)}, "do not fit"),
        ({"arch": "resnet20", "widths": (16, 32, 32, 32, 32, 32, 32, 64, 60, 8)}, "do not fit"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(UserError, match=message):
        build(**{"arch": "vgg11", "classes": 10, "image_size": 32} | options)


def test_decoders_and_critics_that_cannot_be():
    for shape, size in (((8, 8, 8), 48), ((8, 8, 16), 32), ((8, 16, 16), 8)):
        with pytest.raises(UserError, match="doublings"):
            Decoder(shape, size)
    with pytest.raises(UserError, match="25 px"):
        Critic(24)


def test_decoder_takes_as_many_doublings_as_it_needs():
    image = Decoder((8, 8, 8), 32, blocks=1)(torch.rand(2, 8, 8, 8))
    assert image.min() >= 0 and image.max() <= 1
    for side, doublings in ((32, 0), (16, 1), (8, 2), (4, 3)):
        with torch.device("meta"):
            decoder = Decoder((8, side, side), 32, blocks=1)
            assert decoder(torch.rand(2, 8, side, side)).shape == (2, 3, 32, 32)
        assert sum(isinstance(layer, nn.ConvTranspose2d) for layer in decoder) == doublings


@pytest.mark.parametrize("dtype, near", [(torch.float64, 1e-12), (torch.bfloat16, 2e-2)])
def test_a_doubling_is_the_transposed_convolution(dtype, near):
    """Value, and the gradient of the image, the weights and the bias."""
    doubling = Doubling().to(dtype)
    x = torch.rand(3, 64, 4, 4, dtype=dtype, generator=torch.Generator().manual_seed(0)).requires_grad_()
    wanted = [x, *doubling.parameters()]
    here = doubling(x)
    there = nn.ConvTranspose2d.forward(doubling, x)
    torch.testing.assert_close(here, there, rtol=near, atol=near)
    weight = torch.rand(here.shape, dtype=dtype)
    for a, b in zip(*(torch.autograd.grad((y * weight).sum(), wanted) for y in (here, there)), strict=True):
        torch.testing.assert_close(a, b, rtol=near, atol=near * b.abs().max().item())


def test_a_doubling_stays_in_the_precision_of_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        assert Doubling()(torch.rand(1, 64, 4, 4)).dtype == torch.bfloat16


@pytest.mark.parametrize("size", [32, 48])
def test_critic_and_its_gradient_penalty(size):
    critic = Critic(size)
    x = torch.rand(2, 3, size, size, requires_grad=True)
    value = critic(x)
    assert value.shape == (2,)
    (gradient,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    (gradient.flatten(1).norm(dim=1) - 1).square().mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in critic.parameters())
    assert critic.layers[0].weight.grad.abs().sum() > 0


def test_bf16_and_channels_last_go_through_everything():
    model = build("vgg11", 10, 32).to(memory_format=torch.channels_last)
    decoder = Decoder(model.feature_shape, 32, blocks=1).to(memory_format=torch.channels_last)
    critic = Critic(32)
    x = torch.rand(2, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        z = model.encoder(x)
        image = decoder(z)
        loss = model.server(z).float().square().mean() + image.float().mean() + critic(image).float().mean()
    loss.backward()
    for module in (model, decoder, critic):
        assert all(p.grad.isfinite().all() for p in module.parameters() if p.grad is not None)
        assert next(module.parameters()).dtype == torch.float32
    assert model.encoder.convs[0].weight.grad.abs().sum() > 0


def test_mac_counts_of_single_layers():
    x = torch.rand(3, 2, 5, 5)
    conv = nn.Conv2d(2, 4, 3, stride=2, padding=1)
    assert count(conv, x) == {"params": 76, "macs_conv": 9 * 72, "macs_all": 9 * 72 + 36}
    doubling = nn.ConvTranspose2d(2, 4, 3, stride=2, padding=1, output_padding=1, bias=False)
    assert count(doubling, x) == {"params": 72, "macs_conv": 25 * 72, "macs_all": 100 * 72}
    assert count(nn.Linear(5, 7), torch.rand(2, 5)) == {"params": 42, "macs_conv": 35, "macs_all": 42}
    assert count(nn.Sequential(nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2)), x)["macs_all"] == 4 * 50


def test_mac_counts_the_paper_prints():
    model, decoder = build("vgg11", 10, 32), Decoder((8, 8, 8), 32)
    patrol = build("vgg11", 10, 32, front=16, widths=PRUNED)
    x, z = torch.rand(2, 3, 32, 32), torch.rand(1, 8, 8, 8)
    encoder, server = count(model.encoder, x), count(model.server, z)
    assert encoder["macs_conv"] == 27 * 64 * 1024 + 576 * 128 * 256 + 1152 * 8 * 64 == 21_233_664
    assert server["macs_conv"] == 133_239_808
    assert count(patrol.encoder, x)["macs_conv"] == 26_574_336
    # what the printed counts include is not said; this is how near one plain convention comes
    printed = ((encoder, 21.9, 0.01), (server, 133.59, 0.001), (count(decoder, z), 90.66, 0.0015))
    for counted, mmac, tolerance in (*printed, (count(patrol.encoder, x), 27.3, 0.008)):
        assert counted["macs_all"] / 1e6 == pytest.approx(mmac, rel=tolerance)


def test_counting_leaves_the_module_as_it_was():
    model = build("vgg11", 10, 32)
    model.server.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first = count(model, torch.rand(1, 3, 32, 32))
    assert count(model, torch.rand(4, 3, 32, 32)) == first
    assert model.encoder.training and not model.server.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
