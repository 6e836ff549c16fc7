"""The batched clustering against naive loops, and the data it must survive."""

import itertools
import sys
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from benchmark.cem import mixture
from benchmark.cem.blocks import arrange
from benchmark.cem.mixture import _draw, kmeans
from benchmark.errors import Diverged, UserError
from benchmarks.plain import kmeans_by_loop


@pytest.fixture(autouse=True, params=["compiled", "batched"])
def way(request, monkeypatch):
    """Every test holds for the compiled steps and for the batched ones, which a GPU takes (and many centres)."""
    if request.param == "compiled":
        pytest.importorskip("numba")
    else:
        monkeypatch.setattr(mixture, "compiled_steps", lambda: None)
    return request.param


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def naive_lloyd(features, groups, centers, iterations=50):
    """One group, one cluster, one sample at a time, in float64."""
    features, groups, centers = features.double().numpy(), groups.numpy(), centers.double().numpy().copy()

    def assign():
        return np.array([((x - centers[g]) ** 2).sum(1).argmin() for x, g in zip(features, groups, strict=True)])

    nearest = assign()
    moving = [g for g in range(len(centers)) if centers.shape[1] == 1 or (nearest[groups == g] != 0).any()]
    for _ in range(iterations):
        for g, j in itertools.product(moving, range(centers.shape[1])):
            members = features[(groups == g) & (nearest == j)]
            if len(members):
                centers[g, j] = members.mean(0)
        before, nearest = nearest, assign()
        if (before == nearest).all():
            break
    return centers, nearest


SIZES = {"equal": [30, 30, 30], "unequal": [200, 1, 3, 17], "one": [90], "absent": [20, 0, 25, 0], "first": [0, 90, 40]}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("iterations", [1, 50])
def test_equals_a_naive_loop_from_the_same_start(sizes, iterations):
    torch.manual_seed(1)
    groups = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    groups = groups[torch.randperm(len(groups))]
    features, start = torch.rand(len(groups), 6), torch.rand(len(sizes), 4, 6)
    found = kmeans(features, groups, len(sizes), 4, generator(), init=start, iterations=iterations)
    centers, nearest = naive_lloyd(features, groups, start, iterations)
    np.testing.assert_array_equal(found.assignment.numpy(), nearest)
    np.testing.assert_allclose(found.centers.numpy(), centers, atol=1e-5)
    tally = np.zeros((len(sizes), 4), int)
    np.add.at(tally, (groups.numpy(), nearest), 1)
    np.testing.assert_array_equal(found.counts.numpy(), tally)


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("room", [1, 30 * 6 * 4, 70 * 6 * 4])
@pytest.mark.parametrize("given", [True, False])
def test_groups_may_take_their_steps_in_portions(sizes, room, given, monkeypatch):
    torch.manual_seed(2)
    groups = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    features, start = torch.rand(len(groups), 6), torch.rand(len(sizes), 4, 6)

    def found():
        return kmeans(features, groups, len(sizes), 4, generator(), init=start if given else None)

    whole = found()
    monkeypatch.setattr(mixture, "_CACHE_BYTES", room)
    if room == 1:
        assert len(mixture._portions(arrange(groups, len(sizes)), len(sizes), 24)) >= sum(map(bool, sizes))
    parts = found()
    for name in ("centers", "assignment", "counts"):
        assert torch.equal(getattr(parts, name), getattr(whole, name))


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_equals_the_loop_over_classes_and_clusters(sizes):
    """The loop that `measure speed` times."""
    torch.manual_seed(3)
    groups = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    features, start = torch.rand(len(groups), 6), torch.rand(len(sizes), 4, 6)
    found = kmeans(features, groups, len(sizes), 4, generator(), init=start)
    centers, nearest = kmeans_by_loop(features.double(), groups, start.double())
    assert torch.equal(found.assignment, nearest)
    torch.testing.assert_close(found.centers.double(), centers, rtol=0, atol=1e-5)


@pytest.mark.parametrize("k", [mixture._FEW, mixture._FEW + 1])
def test_few_centres_are_compiled_and_many_batched(k, way, monkeypatch):
    torch.manual_seed(4)
    groups = torch.arange(300) % 2
    features, start = torch.rand(300, 5), torch.rand(2, k, 5)
    centers, nearest = kmeans_by_loop(features.double(), groups, start.double())
    monkeypatch.setattr(mixture, "batched_steps", batched := Mock(wraps=mixture.batched_steps))
    found = kmeans(features, groups, 2, k, generator(), init=start)
    assert torch.equal(found.assignment, nearest)
    torch.testing.assert_close(found.centers.double(), centers, rtol=0, atol=1e-5)
    compiled = way == "compiled" and k == mixture._FEW
    assert batched.called is not compiled


def test_threads_and_layout_of_memory_change_nothing():
    torch.manual_seed(5)
    wide, groups, start = torch.rand(500, 14), torch.arange(500) % 7, torch.rand(7, 3, 7)
    features, threads = wide[:, ::2], torch.get_num_threads()
    found = []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        try:
            found.append(kmeans(features, groups, 7, 3, generator(), init=start))
        finally:
            torch.set_num_threads(threads)
    centers, nearest = naive_lloyd(features, groups, start)
    for each in found:
        np.testing.assert_array_equal(each.assignment.numpy(), nearest)
        assert torch.equal(each.centers, found[0].centers)
    np.testing.assert_allclose(found[0].centers.numpy(), centers, atol=1e-5)


def test_the_start_that_was_given_stays_as_it_is():
    features, start = torch.rand(20, 3), torch.rand(1, 2, 3)
    before = start.clone()
    kmeans(features.requires_grad_(), torch.zeros(20, dtype=torch.long), 1, 2, generator(), init=start)
    assert torch.equal(start, before)


def test_finds_separated_clusters_in_every_group():
    torch.manual_seed(2)
    truth, groups = torch.arange(1200) % 4, torch.arange(1200) // 4 % 5
    means = 20 * torch.randn(5, 4, 8)
    features = means[groups, truth] + 0.1 * torch.randn(1200, 8)
    found = kmeans(features, groups, 5, 4, generator(3))
    pairs = torch.stack([groups, truth, found.assignment], 1).unique(dim=0)
    assert len(pairs) == 5 * 4  # one cluster found per true one, in each group
    assert (found.counts == 60).all()


def test_reaches_the_best_of_all_partitions():
    torch.manual_seed(3)
    features = torch.rand(8, 2) + 5 * (torch.arange(8) % 2).unsqueeze(1)
    found = kmeans(features, torch.zeros(8, dtype=torch.long), 1, 2, generator())
    points = features.double().numpy()

    def cost(labels):
        parts = [points[np.array(labels) == j] for j in range(2)]
        return sum(((part - part.mean(0)) ** 2).sum() for part in parts if len(part))

    best = min(cost(labels) for labels in itertools.product(range(2), repeat=8))
    assert cost(found.assignment.tolist()) == pytest.approx(best)


def test_fewer_samples_than_clusters_and_absent_groups():
    features = torch.tensor([[0.0, 0.0], [1.0, 1.0], [5.0, 5.0]])
    found = kmeans(features, torch.tensor([0, 0, 2]), 4, 5, generator())
    assert found.counts.sum(1).tolist() == [2, 0, 1, 0]
    assert torch.isfinite(found.centers).all()
    assert (found.centers[[1, 3]] == 0).all()
    own = found.centers[torch.tensor([0, 0, 2]), found.assignment]
    torch.testing.assert_close(own, features)


def test_duplicates_make_empty_clusters():
    features = torch.ones(40, 3)
    found = kmeans(features, torch.zeros(40, dtype=torch.long), 1, 6, generator())
    assert found.counts.sum() == 40
    torch.testing.assert_close(found.centers, torch.ones(1, 6, 3))


def test_an_empty_cluster_keeps_its_centre():
    start = torch.tensor([[[0.0], [100.0]]])
    found = kmeans(torch.rand(10, 1), torch.zeros(10, dtype=torch.long), 1, 2, generator(), init=start)
    assert found.counts.tolist() == [[10, 0]]
    assert found.centers[0, 1, 0] == 100


def test_a_single_centre_moves_to_the_mean():
    features = torch.rand(10, 3)
    found = kmeans(features, torch.zeros(10, dtype=torch.long), 1, 1, generator())
    torch.testing.assert_close(found.centers[0, 0], features.mean(0))


def test_depends_on_the_generator_alone():
    torch.manual_seed(4)
    features, groups = torch.rand(500, 8), torch.arange(500) % 7
    first, second, other = (kmeans(features, groups, 7, 5, generator(seed)).centers for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_draw_follows_the_weights_in_every_group():
    groups = torch.arange(40_000) // 2
    weight = torch.tensor([1.0, 3.0]).repeat(20_000)
    winner = _draw(weight, groups, 20_000, generator(5))
    assert torch.equal(groups[winner], torch.arange(20_000))
    assert (winner % 2).double().mean().item() == pytest.approx(0.75, abs=0.015)  # 5 standard errors
    zero = torch.tensor([0.0, 2.0]).repeat(20_000)
    assert (_draw(zero, groups, 20_000, generator(6)) % 2 == 1).all()


@pytest.mark.parametrize("seed", range(6))
def test_layout_holds_every_sample_once_in_bounded_memory(seed):
    torch.manual_seed(seed)
    num_groups = [1, 2, 10, 50, 300, 4][seed]
    share = torch.rand(num_groups) ** 8 + 1e-6
    groups = torch.multinomial(share, 2000, replacement=True)
    features = torch.rand(2000, 3)
    layout = arrange(groups, num_groups)
    assert layout.valid.numel() <= 1.5 * 2000 + num_groups
    assert layout.valid.sum() == 2000
    blocks = layout.blocks(features, slice(None))
    assert torch.equal(torch.stack([layout.take(blocks.rows[..., i]) for i in range(3)], 1), features)
    owner = layout.owner.unsqueeze(1).expand_as(layout.valid)
    assert torch.equal(layout.take(owner), groups)
    assert (blocks.rows[~layout.valid] == 0).all()
    part = layout.blocks(features, slice(1, 3))
    assert torch.equal(part.rows, blocks.rows[1:3]) and torch.equal(part.owner, blocks.owner[1:3])


@pytest.mark.parametrize(
    "arguments",
    [
        dict(groups=torch.zeros(5, dtype=torch.long)),
        dict(groups=torch.full((6,), 2)),
        dict(groups=torch.full((6,), -1)),
        dict(k=0),
        dict(init=torch.zeros(2, 3, 5)),
        dict(features=torch.zeros(0, 4), groups=torch.zeros(0, dtype=torch.long)),
    ],
)
def test_bad_input_is_told(arguments):
    given = dict(
        features=torch.rand(6, 4),
        groups=torch.zeros(6, dtype=torch.long),
        num_groups=2,
        k=3,
        generator=generator(),
    )
    with pytest.raises(UserError):
        kmeans(**given | arguments)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("start", [None, torch.rand(3, 2, 4)], ids=["drawn", "given"])
@pytest.mark.parametrize("row", range(6))
def test_features_that_are_not_finite_are_a_divergence(value, start, row):
    features = torch.rand(6, 4)
    features[row, 1] = value
    with pytest.raises(Diverged):
        kmeans(features, torch.arange(6) % 3, 3, 2, generator(), init=start)


def test_compiles_where_nothing_can_be_kept_on_disk(monkeypatch):
    compiled, numba = pytest.importorskip("benchmark.compiled"), pytest.importorskip("numba")
    njit = numba.njit

    def refusing(cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return njit(**options)

    monkeypatch.setattr(numba, "njit", refusing)
    assert compiled.compiled(lambda a: a + 1)(1) == 2


def test_without_numba_the_steps_are_batched(monkeypatch):
    monkeypatch.undo()
    for name in ("numba", "benchmark.cem.lloyd"):
        monkeypatch.setitem(sys.modules, name, None)
    assert mixture.compiled_steps() is None
