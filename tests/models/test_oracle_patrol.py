"""PATROL's one-shot pruning: widths, what is replaced and what still trains, as measured on the released code."""

import itertools

import pandas as pd
import pytest
import torch

from benchmark.models import ARCHITECTURES, build
from benchmark.models.prune import freeze_replaced, shrink, target_widths, taylor_scores
from tests.support.formula import ORACLES

TABLE = pd.read_csv(ORACLES / "patrol.csv")
NETWORKS = {"vgg11": (10, 32, 83_723), "resnet20": (20, 64, 111_312)}  # classes, pixels, parameters after


def trained(arch):
    """A PATROL model after a step, its optimiser, and images."""
    classes, pixels, _ = NETWORKS[arch]
    model = build(arch, classes, pixels, front=16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    x = torch.rand(4, 3, pixels, pixels, generator=torch.Generator().manual_seed(0))
    step(model, optimizer, x)
    return model, optimizer, x


def step(model, optimizer, x):
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()


def pruned(model, optimizer=None):
    """Prune by 5 % on the gradients of the last step."""
    widths = target_widths(model.encoder.widths)
    scores = taylor_scores(model.encoder)
    keep = [
        None if score is None else score.topk(width).indices.sort().values
        for score, width in zip(scores, widths, strict=True)
    ]
    shrink(model, keep, optimizer)


def shapes(column, rows):
    return [tuple(int(size) for size in str(shape).split("x")) for shape in rows[column]]


@pytest.mark.parametrize("arch", NETWORKS)
@pytest.mark.parametrize("goes_on", [False, True], ids=["frozen", "told to the optimiser"])
def test_what_pruning_replaces_and_what_trains_after_it(arch, goes_on):
    rows = TABLE[TABLE["encoder"] == arch]
    model, optimizer, x = trained(arch)
    before = list(model.encoder.parameters())
    assert [tuple(parameter.shape) for parameter in before] == shapes("shape_before", rows)
    pruned(model, optimizer if goes_on else None)
    after = list(model.encoder.parameters())
    assert [tuple(parameter.shape) for parameter in after] == shapes("shape_after", rows)
    assert sum(parameter.numel() for parameter in after) == NETWORKS[arch][2]
    replaced = [old is not new for old, new in zip(before, after, strict=True)]
    assert replaced == rows["replaced"].astype(bool).tolist()

    values = [parameter.detach().clone() for parameter in after]
    statistics = {name: buffer.clone() for name, buffer in model.encoder.named_buffers() if "running" in name}
    for _ in range(2):
        step(model, optimizer, x)
    trains = [not torch.equal(old, new) for old, new in zip(values, after, strict=True)]
    assert trains == ([True] * len(after) if goes_on else rows["still_trains"].astype(bool).tolist())
    assert not any(torch.equal(old, dict(model.encoder.named_buffers())[name]) for name, old in statistics.items())


@pytest.mark.parametrize("arch", NETWORKS)
def test_a_rebuilt_encoder_can_be_frozen_alike(arch):
    model, _, _ = trained(arch)
    full = model.encoder.widths
    pruned(model)
    classes, pixels, _ = NETWORKS[arch]
    rebuilt = build(arch, classes, pixels, front=16, widths=model.encoder.widths)
    rebuilt.load_state_dict(model.state_dict())
    freeze_replaced(rebuilt.encoder, full)
    trains = [parameter.requires_grad for parameter in rebuilt.encoder.parameters()]
    assert trains == TABLE[TABLE["encoder"] == arch]["still_trains"].astype(bool).tolist()
    x = torch.rand(2, 3, pixels, pixels)
    assert torch.equal(rebuilt.eval()(x), model.eval()(x))


@pytest.mark.parametrize(("arch", "family"), ARCHITECTURES.items())
def test_widths_alone_say_what_may_be_pruned(arch, family):
    """Whatever an encoder's cut, front and bottleneck."""
    for cut, front, bottleneck in itertools.product(family.CUTS, (None, 16, 32, 64, 128), (None, 8, 32, 64, 128)):
        free = family.may_shrink(cut, bottleneck, front)
        widths = family.widths(cut, bottleneck, front)
        expected = [int(width * 0.5) if may and width > 32 else width for width, may in zip(widths, free, strict=True)]
        assert target_widths(widths, 0.5) == tuple(expected)
