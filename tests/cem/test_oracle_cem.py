"""CEM's term, the clusters' statistics and the k-means++ law against numbers of the released code."""

import pytest
import torch

from benchmark.cem import ConditionalEntropy, kmeans, mixture
from tests.support.formula import oracle, relative

ORACLE = oracle("cem_term")
CASES = [f"c{index}" for index in range(1, 11)]
FITS = [f"s{index}" for index in range(1, 7)]


def stored(case: str, name: str):
    """An array of a case; c2, c3 and c4 take their inputs from c1."""
    return ORACLE.get(f"{case}_{name}", ORACLE.get(f"c1_{name}"))


def with_statistics(case: str, **quirks) -> ConditionalEntropy:
    """The module with a case's statistics in its buffers, as after a fit."""
    centres = torch.from_numpy(stored(case, "centres"))
    classes, k, dims = centres.shape
    module = ConditionalEntropy(
        "scalar", dims, classes, float(stored(case, "sigma")), k, threshold=float(stored(case, "threshold")), **quirks
    )
    module.centers.copy_(centres.flatten(0, 1))
    module.variance.copy_(torch.from_numpy(stored(case, "variances")).flatten())
    module.share.copy_(torch.from_numpy(stored(case, "weights")).flatten())
    module.counts.fill_(float(stored(case, "class_length")) / k)  # their mean over the classes is all that is read
    module.fitted.fill_(True)
    return module


def value_and_gradient(module: ConditionalEntropy, case: str):
    z = torch.from_numpy(stored(case, "z")).requires_grad_()
    loss = module(z, z, torch.from_numpy(stored(case, "labels")))
    return loss.item(), torch.autograd.grad(loss, z)[0]


@pytest.mark.parametrize("case", CASES)
def test_term_is_the_released_one(case):
    module = with_statistics(case)
    z, labels = (torch.from_numpy(stored(case, name)) for name in ("z", "labels"))
    assert (module._nearest(z, labels) % module.per_group).tolist() == stored(case, "cluster").tolist()
    value, gradient = value_and_gradient(module, case)
    assert value == pytest.approx(float(stored(case, "value")), rel=1e-5)
    assert value == pytest.approx(float(stored(case, "value_64")), rel=1e-5)
    assert relative(gradient, stored(case, "grad")) < 3e-5


@pytest.mark.parametrize(
    ("quirk", "name"), [({"first_class_lookup": False}, "own_row"), ({"batch_weight_x10": False}, "no_x10")]
)
@pytest.mark.parametrize("case", CASES)
def test_term_without_a_quirk(case, quirk, name):
    value, gradient = value_and_gradient(with_statistics(case, **quirk), case)
    assert value == pytest.approx(float(stored(case, f"value_{name}")), rel=1e-5)
    assert gradient.norm().item() == pytest.approx(float(stored(case, f"grad_{name}_norm")), rel=3e-5)


@pytest.mark.parametrize("dense", [False, True])
def test_a_blend_of_1_becomes_099_and_one_below_stays(dense):
    """One class, one cluster of weight 1 and mean length 2 or 2.005; two features with a blend of 1 or 0.9975."""
    module = ConditionalEntropy("scalar", 1, 1, 0.1, components=1, batch_weight_x10=False, threshold=0.0)
    length, blend = (2.0, 0.99) if dense else (2.005, 2 / 2.005)
    for buffer, value in ((module.variance, 50.0), (module.share, 1.0), (module.counts, length)):
        buffer.fill_(value)
    module.fitted.fill_(True)
    z = torch.tensor([[1.0], [3.0]])
    expected = blend * 5.0 + (1 - blend) * 50.0
    value = module(z, z, torch.zeros(2, dtype=torch.long)).double().exp().item() * 0.01 - 0.01
    assert value == pytest.approx(expected, rel=1e-5)


@pytest.fixture(params=["compiled", "batched"])
def way(request, monkeypatch):
    if request.param == "compiled":
        pytest.importorskip("numba")
    else:
        monkeypatch.setattr(mixture, "compiled_steps", lambda: None)


def fitted(cases: list[str], **quirks) -> ConditionalEntropy:
    """One fit, from the stored start, with a class for each case."""
    x = [torch.from_numpy(ORACLE[f"{case}_x"]) for case in cases]
    module = ConditionalEntropy("scalar", x[0].shape[1], len(cases), 0.025, 5, **quirks)
    module.centers.copy_(torch.cat([torch.from_numpy(ORACLE[f"{case}_start"]) for case in cases]))
    module.fitted.fill_(True)
    labels = torch.repeat_interleave(torch.arange(len(cases)), torch.tensor([len(each) for each in x]))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    module.fit(torch.cat(x)[order], labels[order], torch.Generator())
    return module


@pytest.mark.parametrize("cases", [*([case] for case in FITS), FITS], ids=[*FITS, "all in one fit"])
def test_statistics_are_the_released_ones(cases, way):
    module = fitted(cases)
    for index, case in enumerate(cases):
        part = slice(5 * index, 5 * index + 5)
        assert module.counts[part].tolist() == ORACLE[f"{case}_members"].tolist()
        for ours, name, near in (
            (module.centers, "centres", dict(rtol=0, atol=1e-5)),
            (module.variance, "variances", dict(rtol=1e-5, atol=1e-12)),
            (module.share, "weights", dict(rtol=0, atol=1e-6)),
        ):
            torch.testing.assert_close(ours[part], torch.from_numpy(ORACLE[f"{case}_{name}"]), **near)


@pytest.mark.parametrize("case", FITS)
def test_without_the_shift_each_cluster_has_its_own(case, way):
    released, module = fitted([case]), fitted([case], shifted_statistics=False)
    counts = ORACLE[f"{case}_members"]
    assert torch.equal(module.centers, released.centers) and module.counts.tolist() == counts.tolist()
    torch.testing.assert_close(module.share.double().numpy(), counts / counts.sum(), rtol=0, atol=1e-6)
    x = torch.from_numpy(ORACLE[f"{case}_x"]).double()
    nearest = torch.cdist(x, module.centers.double()).argmin(1)
    for j in range(5):
        own = (x[nearest == j] - module.centers[j].double()).square()
        expected = own.mean().item() if len(own) else 0.0
        assert module.variance[j].item() == pytest.approx(expected, rel=1e-5, abs=1e-12)


def test_k_means_plus_plus_draws_in_proportion_to_the_distance(monkeypatch):
    """Picks forced to the stored ones; what is looked at are the weights that each is drawn with."""
    x = torch.from_numpy(ORACLE["kpp_x"])
    picks, weights = iter(ORACLE["kpp_picked"].tolist()), []

    def forced(weight, groups, num_groups, generator):
        weights.append(weight / weight.sum())
        return torch.tensor([next(picks)])

    monkeypatch.setattr(mixture, "_draw", forced)
    start = kmeans(x, torch.zeros(len(x), dtype=torch.long), 1, 5, torch.Generator(), iterations=0).centers
    assert torch.equal(start[0], x[ORACLE["kpp_picked"].tolist()])
    torch.testing.assert_close(weights[0], torch.full((24,), 1 / 24))
    stored_weights = torch.from_numpy(ORACLE["kpp_probabilities"])
    torch.testing.assert_close(torch.stack(weights[1:]), stored_weights, rtol=0, atol=1e-5)
