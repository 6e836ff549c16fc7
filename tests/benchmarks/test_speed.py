"""How fast the pieces are, each next to the plain way of doing the same. No time is asserted anywhere.

    pytest tests/benchmarks --benchmark-enable

prints one table a group; the first number of a row is its time, the number in brackets its multiple of the group's
fastest row. `--benchmark-json=FILE` keeps them. Run it on an otherwise idle machine. Without `--benchmark-enable`
(the default of this repository's pytest) every case runs once at a small size, so that it cannot rot.
"""

import pytest
import torch
from skimage.metrics import structural_similarity

from benchmark.cem import kmeans
from benchmark.data import _torchvision
from benchmark.data.augment import apply, augment, draw
from benchmark.metrics.ssim import ssim_per_image
from benchmark.models.convolution import Conv
from benchmark.training import device
from benchmark.training.device import precision, tune_allocator
from benchmarks import plain, steps
from benchmarks.steps import FULL, SMALL, Size
from tests.cem.test_cem import eq7_by_loop
from tests.data.test_augment import one_by_one

CPU = torch.device("cpu")


@pytest.fixture
def size(benchmark) -> Size:
    return FULL if benchmark.enabled else SMALL


@pytest.fixture(scope="module")
def arithmetic() -> str:
    return precision(CPU, "auto")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def time(benchmark, call, rounds: int = 3) -> None:
    """`call` once to warm up, then `rounds` times."""
    benchmark.pedantic(call, rounds=rounds, warmup_rounds=1)


# --- one step of training: augmentation, forward, backward, optimiser


STEP = "training step, batch 128, 32 px, 100 classes"


@pytest.mark.benchmark(group=STEP)
def test_step_by_plain_script(benchmark, size):
    """The same network and augmentation, written as most scripts are."""
    time(benchmark, plain.training(steps.data(size, CPU), steps.settings(size), CPU))


@pytest.mark.benchmark(group=STEP)
@pytest.mark.parametrize("cem", ["off", "on", "diagonal", "full"], ids=["no_cem", "scalar", "diagonal", "full"])
def test_step(benchmark, size, arithmetic, cem):
    tune_allocator()  # as each run does; for the whole process, so the plain step has to come first
    task = steps.training(size, CPU, arithmetic, cem)
    time(benchmark, lambda: task.step(1, 0))
    if task.cem is not None:
        assert task.totals[1] != 0  # the term was there


ADVERSARY = "training step with an inversion adversary, batch 128"


@pytest.mark.benchmark(group=ADVERSARY)
def test_adversarial_step_by_plain_script(benchmark, size):
    time(benchmark, plain.adversarial(steps.data(size, CPU), steps.settings(size, "noise_arl"), CPU))


@pytest.mark.benchmark(group=ADVERSARY)
def test_adversarial_step(benchmark, size, arithmetic):
    time(benchmark, steps.training_step(size, CPU, arithmetic, "off", "noise_arl"))


# --- CEM alone, forward and backward


TERM = "CEM term alone, forward and backward"


@pytest.mark.benchmark(group=TERM)
@pytest.mark.parametrize("estimator", ["scalar", "diagonal", "full"])
def test_term(benchmark, size, estimator):
    time(benchmark, steps.cem_term(estimator, size, CPU), rounds=20)


@pytest.mark.benchmark(group=TERM)
def test_term_scalar_by_loop(benchmark, size):
    """The released double loop over classes and clusters."""
    time(benchmark, steps.cem_term_by_loop(size, CPU))


@pytest.mark.benchmark(group=TERM)
def test_term_full_by_loop(benchmark, size):
    """Eq 5-7 as they read, a determinant for each component (whose values do not matter to the time)."""
    module = steps.fitted("full", size, CPU)
    z, labels = steps.cem_batch(size, CPU)
    z = z.detach().double().requires_grad_()
    sigma = 0.1 * torch.eye(size.dims, dtype=torch.float64).expand(module.num_components, -1, -1)
    benchmark.pedantic(lambda: torch.autograd.grad(eq7_by_loop(module, sigma, z, labels), z))


# --- the rest


AUGMENTATION = "augmentation, batch 128, 32 px"


@pytest.mark.benchmark(group=AUGMENTATION)
def test_augmentation(benchmark, size):
    images, draws = steps.data(size, CPU).train.images[: size.batch], generator()
    time(benchmark, lambda: augment(images, draws, True), rounds=30)


@pytest.mark.benchmark(group=AUGMENTATION)
def test_augmentation_by_torchvision_per_image(benchmark, size):
    functional = _torchvision.load("torchvision.transforms.functional")
    if functional is None:
        pytest.skip("torchvision cannot be imported here")
    images, draws = steps.data(size, CPU).train.images[: size.batch], draw(size.batch, generator(), True)
    time(benchmark, lambda: one_by_one(functional, images, *draws, True), rounds=5)
    assert torch.equal(apply(images, *draws, True), one_by_one(functional, images, *draws, True))


CLUSTERING = "clustering, 50,000 features of 512, 5 clusters in each of 100 classes, once an epoch"


@pytest.mark.benchmark(group=CLUSTERING)
def test_clustering(benchmark, size):
    benchmark.pedantic(steps.clustering(size, CPU))


@pytest.mark.benchmark(group=CLUSTERING)
def test_clustering_by_loop(benchmark, size):
    benchmark.pedantic(steps.clustering_by_loop(size, CPU))


@pytest.mark.benchmark(group=CLUSTERING)
def test_clustering_with_its_start(benchmark, size):
    """k-means++ first, as after the first epoch."""
    features, labels = steps.clusterable(size, CPU)
    benchmark.pedantic(lambda: kmeans(features, labels, size.classes, size.components, generator()))


DECODER, GAN = "decoder attack step, batch 256, 8x8x8 to 32 px", "GAN attack, 10 steps, batch 128"


@pytest.mark.benchmark(group=DECODER)
def test_decoder_step_by_plain_script(benchmark, size):
    time(benchmark, plain.decoder(steps.data(size, CPU), steps.settings(size), CPU))


@pytest.mark.benchmark(group=DECODER)
def test_decoder_step(benchmark, size, arithmetic):
    time(benchmark, steps.decoder_step(size, CPU, arithmetic))


@pytest.mark.benchmark(group=GAN)
def test_gan_steps_by_plain_script(benchmark, size):
    time(benchmark, plain.gan(steps.data(size, CPU), steps.settings(size), CPU))


@pytest.mark.benchmark(group=GAN)
def test_gan_steps(benchmark, size, arithmetic):
    time(benchmark, steps.gan_steps(size, CPU, arithmetic))


CONVOLUTION = "convolution {inputs} to {outputs}, {side} px, batch 128, forward and backward"


@pytest.mark.parametrize("torchs_own", [True, False], ids=["torch", "here"])
@pytest.mark.parametrize(("inputs", "outputs", "side"), [(512, 512, 2), (512, 512, 4), (64, 64, 8), (64, 3, 32)])
def test_convolution(benchmark, size, arithmetic, inputs, outputs, side, torchs_own):
    benchmark.group = CONVOLUTION.format(inputs=inputs, outputs=outputs, side=side)
    conv = Conv(inputs, outputs, 3, padding=1).to(memory_format=torch.channels_last)
    if torchs_own:
        plain.as_delivered(conv)
    x = torch.rand(size.batch, inputs, side, side).to(memory_format=torch.channels_last).requires_grad_()

    def call():
        with torch.autocast(**device.arithmetic(CPU, arithmetic)):
            y = conv(x)
        torch.autograd.grad(y.float().sum(), [x, *conv.parameters()])

    time(benchmark, call, rounds=10)


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
