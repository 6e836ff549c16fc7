"""The embedded photographs."""

import numpy as np
import pytest
import torch

from benchmark import data
from benchmark.data import photos
from benchmark.errors import UserError


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def loaded(root):
    return data.load("photos", root)


def test_is_built_on_first_load_and_then_kept(root, loaded, monkeypatch):
    monkeypatch.setattr(photos.Photos, "read", lambda *_: pytest.fail("built twice"))
    again = data.load("photos", root)
    assert torch.equal(again.train.images, loaded.train.images)
    assert data.fingerprint("photos", root) == loaded.fingerprint == again.fingerprint


def test_fingerprint_prepares(tmp_path, loaded):
    assert data.fingerprint("photos", tmp_path) == loaded.fingerprint


def test_shape_and_balance(loaded):
    assert loaded.train.images.shape == (1440, 3, 32, 32) and loaded.test.images.shape == (360, 3, 32, 32)
    assert loaded.classes == len(loaded.class_names) == 6 and loaded.publishable and loaded.image_size == 32
    assert loaded.train.labels.bincount().tolist() == [240] * 6
    assert loaded.test.labels.bincount().tolist() == [60] * 6


def test_constants_are_those_of_the_training_images(loaded):
    x = data.to_unit(loaded.train.images)
    assert np.allclose(x.mean((0, 2, 3)), loaded.mean, atol=2e-3)
    assert np.allclose(x.std((0, 2, 3)), loaded.std, atol=2e-3)


def columns_of(patch: torch.Tensor, picture: np.ndarray) -> set[int]:
    """All columns of `picture` at which `patch` occurs, found by search, not by the code's own arithmetic."""
    pixels = patch.permute(1, 2, 0).numpy()
    windows = np.lib.stride_tricks.sliding_window_view(picture, (32, 32), axis=(0, 1))
    # [y, x, channel, 32, 32]; compare the corners first, to be quick
    same = (windows[..., 0, 0] == pixels[0, 0]).all(-1) & (windows[..., 31, 31] == pixels[31, 31]).all(-1)
    at = [(y, x) for y, x in np.argwhere(same) if (windows[y, x] == pixels.transpose(2, 0, 1)).all()]
    return {column for _, x in at for column in range(x, x + 32)}


def test_training_and_test_pixels_are_disjoint(loaded):
    for label, name in enumerate(loaded.class_names):
        picture = photos.photograph(name)
        used = []
        for part in (loaded.train, loaded.test):
            patches = part.images[part.labels == label][::4]
            found = [columns_of(patch, picture) for patch in patches]
            assert all(found), f"a patch of {name} is not in the photograph"
            used.append(set().union(*found))
        assert used[0].isdisjoint(used[1]), name


def test_patches_show_structure_and_differ(loaded):
    for part in (loaded.train, loaded.test):
        assert part.images.float().mean(1).flatten(1).std(1).min() >= 9.9
        assert len(torch.unique(part.images.flatten(1), dim=0)) == len(part)


def test_takes_no_source(tmp_path):
    with pytest.raises(UserError, match="takes no --from"):
        data.prepare("photos", tmp_path, tmp_path)
