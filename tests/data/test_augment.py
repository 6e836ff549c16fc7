"""Augmentation against torchvision's per-image transforms on PIL images: every pixel equal."""

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.data import _torchvision
from benchmark.data.augment import apply, augment, draw


@pytest.fixture(scope="module")
def functional():
    module = _torchvision.load("torchvision.transforms.functional")
    if module is None:
        pytest.skip("torchvision cannot be imported here")
    return module


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int, height: int, width: int) -> torch.Tensor:
    # no black pixels: black must come from outside the image only
    return torch.randint(1, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator(7))


def one_by_one(functional, images, angle, flip, top, left, crop) -> torch.Tensor:
    results = []
    for i, image in enumerate(images):
        height, width = image.shape[1:]
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        if crop:
            padded = functional.pad(picture, 4, fill=0)
            picture = functional.crop(padded, int(top[i]), int(left[i]), height, width)
        if flip[i]:
            picture = functional.hflip(picture)
        nearest = functional.InterpolationMode.NEAREST
        picture = functional.rotate(picture, float(angle[i]), interpolation=nearest, fill=0)
        results.append(torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255)
    return torch.stack(results)


@pytest.mark.parametrize("size", [(32, 32), (48, 48), (64, 64), (20, 31)])
@pytest.mark.parametrize("crop", [True, False])
def test_equals_torchvision_exactly(functional, size, crop):
    images = pictures(100, *size)
    draws = draw(100, generator(3), crop)
    assert torch.equal(apply(images, *draws, crop), one_by_one(functional, images, *draws, crop))


def test_extreme_draws_equal_torchvision(functional):
    images = pictures(8, 32, 32)
    angle = torch.tensor([-15.0, 15.0, 0.0, 0.0, 90.0, 1e-4, -15.0, 15.0])
    flip = torch.tensor([True, False] * 4)
    top, left = torch.tensor([0, 8, 0, 8, 4, 4, 8, 0]), torch.tensor([8, 0, 0, 8, 4, 4, 0, 8])
    expected = one_by_one(functional, images, angle, flip, top, left, True)
    assert torch.equal(apply(images, angle, flip, top, left, True), expected)


def test_close_to_torchvision_on_tensors(functional):
    """Its tensor version only decides pixels on the border between two source pixels differently."""
    images = pictures(50, 32, 32)
    angle, flip, top, left = draw(50, generator(5), False)
    flip = torch.zeros_like(flip)
    ours = (apply(images, angle, flip, top, left, False) * 255).round().to(torch.uint8)
    theirs = torch.stack([functional.rotate(image, float(a)) for image, a in zip(images, angle, strict=True)])
    assert (ours != theirs).float().mean() < 0.002


def test_known_results_without_torchvision():
    image = torch.arange(1, 28, dtype=torch.uint8).view(1, 3, 3, 3)
    zero, no, middle = torch.zeros(1), torch.tensor([False]), torch.tensor([4])

    def run(angle=zero, flip=no, top=middle, left=middle):
        return (apply(image, angle, flip, top, left, True)[0, 0] * 255).round().int().tolist()

    assert run() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert run(flip=torch.tensor([True])) == [[3, 2, 1], [6, 5, 4], [9, 8, 7]]
    assert run(top=torch.tensor([5]), left=torch.tensor([3])) == [[0, 4, 5], [0, 7, 8], [0, 0, 0]]
    assert run(angle=torch.tensor([90.0])) == [[3, 6, 9], [2, 5, 8], [1, 4, 7]]  # counter-clockwise


def test_floats_and_bytes_agree():
    images = pictures(16, 32, 32)
    from_bytes = augment(images, generator(), True)
    assert from_bytes.dtype == torch.float32 and from_bytes.shape == images.shape
    assert from_bytes.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(from_bytes, augment(images.float() / 255, generator(), True))


def test_source_is_left_alone_and_any_layout_is_taken():
    images = pictures(16, 32, 32)
    before = images.clone()
    expected = augment(images, generator(), True)
    assert torch.equal(images, before)
    strided = images.to(memory_format=torch.channels_last)
    assert torch.equal(augment(strided, generator(), True), expected)


def test_draws_are_independent_uniform_and_reproducible():
    angle, flip, top, left = draw(20_000, generator(), True)
    assert angle.min() >= -15 and angle.max() <= 15 and abs(angle.std() - 30 / 12**0.5) < 0.1
    assert abs(flip.float().mean() - 0.5) < 0.02
    for offset in (top, left):
        counts = torch.bincount(offset, minlength=9)
        assert len(counts) == 9 and (counts - 20_000 / 9).abs().max() < 250
    values = torch.stack([angle, flip.float(), top.float(), left.float()])
    assert (torch.corrcoef(values) - torch.eye(4)).abs().max() < 0.03
    assert all(
        torch.equal(a, b) for a, b in zip(draw(50, generator(1), True), draw(50, generator(1), True), strict=True)
    )


def test_global_random_state_is_not_used():
    state = torch.get_rng_state()
    augment(pictures(4, 32, 32), generator(), True)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.gpu
def test_same_pixels_on_the_gpu_and_in_a_captured_graph():
    images, draws = pictures(64, 32, 32), draw(64, generator(), True)
    expected = apply(images, *draws, True)
    on_gpu, gpu_draws = images.cuda(), [value.cuda() for value in draws]
    assert torch.equal(apply(on_gpu, *gpu_draws, True).cpu(), expected)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = apply(on_gpu, *gpu_draws, True)
    graph.replay()
    assert torch.equal(result.cpu(), expected)
