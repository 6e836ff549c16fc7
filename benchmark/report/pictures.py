"""Small pictures: originals above their reconstructions."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor


def save_pairs(path: Path, originals: Tensor, reconstructions: Tensor) -> None:
    """Write two rows, originals over reconstructions, as a PNG; both [N, 3, H, W] in [0, 1]."""
    rows = torch.stack([originals.float().cpu(), reconstructions.float().cpu()])
    rows = torch.nn.functional.pad(rows.nan_to_num(), (1, 1, 1, 1), value=1.0)
    # [row, image, channel, height, width] -> [row * height, image * width, channel]
    picture = rows.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    Image.fromarray((picture.clamp(0, 1) * 255).round().byte().numpy()).save(path)
