"""How fast the pieces are, each next to the plain way of doing the same. No time is asserted anywhere.

    pytest tests/benchmarks --benchmark-enable

prints one table a group; the first number of a row is its time, the number in brackets its multiple of the group's
fastest row. `--benchmark-json=FILE` keeps them. Run it on an otherwise idle machine. Without `--benchmark-enable`
(the default of this repository's pytest) every case runs once at a small size, so that it cannot rot.
"""

import functools
from dataclasses import dataclass

import pytest
import torch
from skimage.metrics import structural_similarity
from test_augment import one_by_one
from test_cem import SIGMA, eq7_by_loop, scalar_by_loop
from torch.nn.functional import cross_entropy

from benchmark import models
from benchmark.attacks import ATTACKS, Target
from benchmark.cem import ConditionalEntropy, kmeans
from benchmark.data import DataSet, ImageSet, _torchvision, normalise
from benchmark.data.augment import apply, augment, draw
from benchmark.matrix.load import MatrixFile, parse_set
from benchmark.metrics.ssim import ssim_per_image
from benchmark.training.device import precision, tune_allocator
from benchmark.training.train import Recipe, Training

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Size:
    batch: int
    classes: int
    dims: int  # of the features that CEM and the clustering are timed on
    samples: int  # that CEM is fitted on
    clustered: int


FULL = Size(batch=128, classes=100, dims=512, samples=6400, clustered=50_000)
SMALL = Size(batch=8, classes=10, dims=32, samples=200, clustered=500)


@pytest.fixture
def size(benchmark) -> Size:
    return FULL if benchmark.enabled else SMALL


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def time(benchmark, call, rounds: int = 3) -> None:
    """`call` once to warm up, then `rounds` times."""
    benchmark.pedantic(call, rounds=rounds, warmup_rounds=1)


# --- one step of training: augmentation, forward, backward, optimiser


def data(size: Size) -> DataSet:
    def part(count: int) -> ImageSet:
        images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator(count))
        return ImageSet(images, torch.arange(count) % size.classes)

    return DataSet(
        name="random",
        classes=size.classes,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        crop=True,
        train=part(8 * size.batch),
        test=part(size.batch),
        class_names=[str(label) for label in range(size.classes)],
        fingerprint="0" * 64,
        publishable=True,
    )


def training(size: Size, cem: str) -> Training:
    """The project's own training of the published CIFAR-100 cell, in the epoch in which CEM begins."""
    file = MatrixFile()
    settings = file.settings("cifar100", "bottleneck", cem, parse_set([f"train.batch_size={size.batch}"]))
    recipe = Recipe(
        model=settings.model,
        train=settings.train,
        defense="bottleneck",
        params=settings.params,
        cem=settings.cem,
        quirks=file.matrix.protocols["published"],
        seed=0,
    )
    task = Training(recipe, data(size), CPU, precision(CPU, "auto"))
    if task.cem is not None:
        features = torch.rand(size.samples, task.cem.dims, generator=generator())
        task.cem.fit(features, torch.arange(size.samples) % size.classes, generator())
    task.begin_epoch(1)
    return task


STEP = "training step, batch 128, 32 px, 100 classes"


@pytest.mark.benchmark(group=STEP)
def test_step_by_plain_script(benchmark, size):
    """The same network and augmentation, written as most scripts are: fp32, NCHW memory, SGD without options."""
    task = training(size, "off")
    images, labels = task.data.train.images[: size.batch], task.data.train.labels[: size.batch]
    model = models.build("vgg11", classes=size.classes, image_size=32)
    train, noise = task.recipe.train, task.recipe.params.noise_std
    optimizer = torch.optim.SGD(model.parameters(), train.lr, train.momentum, weight_decay=train.weight_decay)

    def step():
        optimizer.zero_grad()
        z = model.encoder(normalise(augment(images, task.augmentation, True), task.data.mean, task.data.std))
        loss = cross_entropy(model.server(z + noise * torch.randn_like(z)), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    time(benchmark, step)


@pytest.mark.benchmark(group=STEP)
@pytest.mark.parametrize("cem", ["off", "on", "full"], ids=["no_cem", "cem_scalar", "cem_full"])
def test_step(benchmark, size, cem):
    tune_allocator()  # as each run does; for the whole process, so the plain step has to come first
    task = training(size, cem)
    time(benchmark, lambda: task.step(1, 0))
    if task.cem is not None:
        assert task.totals[1] != 0  # the term was there


# --- CEM alone, forward and backward


@functools.cache
def fitted(estimator: str, size: Size) -> ConditionalEntropy:
    components = 5 if estimator == "scalar" else 3
    module = ConditionalEntropy(estimator, size.dims, size.classes, SIGMA, components)
    features = torch.rand(size.samples, size.dims, generator=generator())
    module.fit(features, torch.arange(size.samples) % size.classes, generator())
    return module


def batch(size: Size, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    z = torch.rand(size.batch, size.dims, generator=generator(1)).to(dtype).requires_grad_()
    return z, torch.arange(size.batch) * 7 % size.classes


TERM = "CEM term alone, forward and backward"


@pytest.mark.benchmark(group=TERM)
@pytest.mark.parametrize("estimator", ["scalar", "diagonal", "full"])
def test_term(benchmark, size, estimator):
    module = fitted(estimator, size)
    z, labels = batch(size, torch.float32)
    time(benchmark, lambda: torch.autograd.grad(module(z, z, labels), z), rounds=20)


@pytest.mark.benchmark(group=TERM)
def test_term_scalar_by_loop(benchmark, size):
    """The released double loop over classes and clusters."""
    module = fitted("scalar", size)
    z, labels = batch(size, torch.float64)
    time(benchmark, lambda: torch.autograd.grad(scalar_by_loop(module, z, labels, True, True), z))


@pytest.mark.benchmark(group=TERM)
def test_term_full_by_loop(benchmark, size):
    """Eq 5-7 as they read, a determinant for each component (whose values do not matter to the time)."""
    module = fitted("full", size)
    z, labels = batch(size, torch.float64)
    sigma = 0.1 * torch.eye(size.dims, dtype=torch.float64).expand(module.num_components, -1, -1)
    benchmark.pedantic(lambda: torch.autograd.grad(eq7_by_loop(module, sigma, z, labels), z))


# --- the rest


AUGMENTATION = "augmentation, batch 128, 32 px"


@pytest.mark.benchmark(group=AUGMENTATION)
def test_augmentation(benchmark, size):
    images, draws = data(size).train.images[: size.batch], generator()
    time(benchmark, lambda: augment(images, draws, True), rounds=30)


@pytest.mark.benchmark(group=AUGMENTATION)
def test_augmentation_by_torchvision_per_image(benchmark, size):
    functional = _torchvision.load("torchvision.transforms.functional")
    if functional is None:
        pytest.skip("torchvision cannot be imported here")
    images, draws = data(size).train.images[: size.batch], draw(size.batch, generator(), True)
    time(benchmark, lambda: one_by_one(functional, images, *draws, True), rounds=5)
    assert torch.equal(apply(images, *draws, True), one_by_one(functional, images, *draws, True))


@pytest.mark.benchmark(group="clustering, 50,000 features of 512, 5 clusters in each of 100 classes, once an epoch")
def test_clustering(benchmark, size):
    features = torch.rand(size.clustered, size.dims, generator=generator())
    labels = torch.arange(size.clustered) % size.classes
    benchmark.pedantic(lambda: kmeans(features, labels, size.classes, 5, generator()))


@pytest.mark.benchmark(group="decoder attack step, batch 256, 8x8x8 to 32 px")
def test_decoder_step(benchmark, size):
    count = 2 * size.batch
    params = MatrixFile().settings("cifar100", "bottleneck", "off", []).attacks["decoder"]
    target = Target(
        features=torch.rand(count, 8, 8, 8, generator=generator()),
        images=torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator()),
        send=lambda z, noise: z + 0.025 * torch.randn(z.shape, generator=noise),
        image_size=32,
        device=CPU,
        seed=0,
        autocast=dict(device_type="cpu", dtype=torch.bfloat16, enabled=precision(CPU, "auto") == "bf16"),
    )
    attack = ATTACKS.get("decoder")(params, target)
    attack.begin_epoch(0)
    time(benchmark, lambda: attack.step(0, 0))


SSIM = "SSIM of 128 images, 32 px"


def pairs(size: Size) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(torch.rand(2, size.batch, 3, 32, 32, generator=generator()))


@pytest.mark.benchmark(group=SSIM)
def test_ssim(benchmark, size):
    a, b = pairs(size)
    time(benchmark, lambda: ssim_per_image(a, b), rounds=30)


@pytest.mark.benchmark(group=SSIM)
def test_ssim_by_scikit_image_per_image(benchmark, size):
    settings = dict(gaussian_weights=True, use_sample_covariance=False, channel_axis=0, data_range=1.0)
    a, b = (images.numpy() for images in pairs(size))

    time(benchmark, lambda: [structural_similarity(x, y, **settings) for x, y in zip(a, b, strict=True)])
