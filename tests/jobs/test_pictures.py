"""What an attack leaves to look at: the first images, the best and the worst, with their own values."""

import json

import numpy as np
import torch
from PIL import Image

from benchmark.jobs.pictures import EXTREME_PAIRS, EXTREMES, FIRST, PAIRS, VALUES, save_pictures


def tiles(path, size: int) -> np.ndarray:
    """The picture's tiles without their frames: [row, column, size, size, 3]."""
    picture = np.asarray(Image.open(path))
    rows, columns = picture.shape[0] // (size + 2), picture.shape[1] // (size + 2)
    cut = picture.reshape(rows, size + 2, columns, size + 2, 3).transpose(0, 2, 1, 3, 4)
    assert (cut[:, :, 0] == 255).all() and (cut[:, :, :, -1] == 255).all()
    return cut[:, :, 1:-1, 1:-1]


def saved(folder, count: int, mse: torch.Tensor):
    originals = torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(count, 3, 8, 8)
    save_pictures(folder, originals, originals + 100, mse, mse / 2)
    return json.loads((folder / VALUES).read_text())


def test_the_first_the_best_and_the_worst_with_their_values(tmp_path):
    mse = torch.rand(50, generator=torch.Generator().manual_seed(0)) / 10
    values = saved(tmp_path, 50, mse)
    order = sorted(range(50), key=lambda index: float(mse[index]))
    expected = {"first": list(range(FIRST)), "best": order[:EXTREMES], "worst": order[::-1][:EXTREMES]}
    for name, indices in expected.items():
        assert [line["index"] for line in values[name]] == indices
        for line in values[name]:
            own = float(mse[line["index"]])
            assert abs(line["mse"] - own) < 1e-5 and abs(line["ssim"] - own / 2) < 1e-5
            assert abs(line["psnr_db"] - 10 * np.log10(1 / own)) < 1e-4
    for path, indices in ((PAIRS, expected["first"]), (EXTREME_PAIRS, expected["best"] + expected["worst"])):
        cut = tiles(tmp_path / path, 8)
        assert (cut[0] == np.array(indices)[:, None, None, None]).all()
        assert (cut[1] == np.array(indices)[:, None, None, None] + 100).all()


def test_few_images_and_a_lost_one(tmp_path):
    values = saved(tmp_path, 3, torch.tensor([0.02, float("nan"), 0.01]))
    assert [line["index"] for line in values["best"]] == [2, 0, 1]
    assert [line["index"] for line in values["worst"]] == [1, 0, 2]  # without a value is worst
    assert values["worst"][0]["mse"] is None
    assert tiles(tmp_path / PAIRS, 8).shape[:2] == (2, 3)
