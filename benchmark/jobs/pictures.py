"""The small pictures that an attack stores: originals above their reconstructions, and the values of each."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from benchmark.errors import writing
from benchmark.metrics.reconstruction import psnr_of_mse
from benchmark.store.store import write_json

FIRST, EXTREMES = 12, 4  # images shown of those scored: the first, and as many of the best and of the worst
PAIRS, EXTREME_PAIRS, VALUES = "reconstructions.png", "extremes.png", "pictures.json"


def save_pictures(folder: Path, originals: Tensor, rebuilt: Tensor, mse: Tensor, ssim: Tensor) -> None:
    """Write PAIRS (the first images), EXTREME_PAIRS (the best rebuilt by MSE, then the worst) and VALUES.

    originals, rebuilt: uint8 [N, 3, H, W]; mse, ssim: [N]. VALUES holds, for `first`, `best` and `worst`, each image's
    index among those scored, its mse, psnr_db and ssim, in the order of the pictures.
    """
    order = torch.argsort(mse.nan_to_num(torch.inf), stable=True)
    chosen = {"first": torch.arange(len(mse))[:FIRST], "best": order[:EXTREMES], "worst": order.flip(0)[:EXTREMES]}
    extremes = torch.cat([chosen["best"], chosen["worst"]])
    columns = {"mse": mse, "psnr_db": psnr_of_mse(mse), "ssim": ssim}
    values = {
        name: [
            {"index": int(index)} | {metric: round(float(column[index]), 5) for metric, column in columns.items()}
            for index in indices
        ]
        for name, indices in chosen.items()
    }
    with writing(folder):
        for name, shown in ((PAIRS, chosen["first"]), (EXTREME_PAIRS, extremes)):
            pairs(originals[shown], rebuilt[shown]).save(folder / name, optimize=True)
        write_json(folder / VALUES, values)


def pairs(originals: Tensor, rebuilt: Tensor) -> Image.Image:
    """Two rows, originals over reconstructions, with a white frame around each; uint8 [N, 3, H, W]."""
    rows = torch.nn.functional.pad(torch.stack([originals, rebuilt]), (1, 1, 1, 1), value=255)
    # [row, image, channel, height, width] -> [row * height, image * width, channel]
    picture = rows.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    return Image.fromarray(picture.numpy())
