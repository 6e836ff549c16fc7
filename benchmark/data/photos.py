"""`photos`: patches of the colour photographs inside the scikit-image wheel; no download. The class is the photograph.

Each photograph is first reduced by averaging blocks of 3 x 3 pixels, so that a 32-pixel patch shows things rather than
texture. A quarter of its width, at one side, gives the test patches and the rest the training patches: no pixel is in
both.
"""

import importlib.util
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmark.data.base import DATASETS, Parts, Source
from benchmark.data.files import channels_first
from benchmark.data.tensors import ImageSet
from benchmark.errors import UserError

# class name: (file in skimage/data, side of the test part: the side that shows more)
PHOTOGRAPHS = {
    "astronaut": ("astronaut.png", "right"),
    "cat": ("chelsea.png", "left"),
    "coffee": ("coffee.png", "left"),
    "motorcycle": ("motorcycle_left.png", "right"),
    "rocket": ("rocket.jpg", "right"),
    "tissue": ("ihc.png", "right"),
}
FACTOR = 3
TEST_SHARE = 0.25
TRAIN_PATCHES, TEST_PATCHES = 240, 60  # of each photograph
MIN_CONTRAST = 10.0  # standard deviation of the brightness (0..255); flatter patches show nothing


@DATASETS.register("photos")
class Photos(Source):
    classes = len(PHOTOGRAPHS)
    image_size = 32
    nominal = (len(PHOTOGRAPHS) * TRAIN_PATCHES, len(PHOTOGRAPHS) * TEST_PATCHES)
    mean, std = (0.5480, 0.4173, 0.3638), (0.2404, 0.2193, 0.2287)
    crop = True
    embedded = True

    def read(self, source: Path | None = None) -> Parts:
        parts = []
        for count, test in ((TRAIN_PATCHES, False), (TEST_PATCHES, True)):
            patches = [_patches(part(name, test), count, self.image_size) for name in PHOTOGRAPHS]
            # the classes take turns, so that any part of the stored order holds all of them
            mixed = np.stack(patches, axis=1).reshape(-1, self.image_size, self.image_size, 3)
            parts.append(ImageSet(channels_first(mixed), torch.arange(self.classes).repeat(count)))
        return Parts(*parts, list(PHOTOGRAPHS))


def photograph(name: str) -> np.ndarray:
    """The reduced photograph of that class: uint8 [H, W, 3]; UserError if scikit-image does not include it."""
    file, _ = PHOTOGRAPHS[name]
    package = importlib.util.find_spec("skimage")
    folders = (package and package.submodule_search_locations) or []
    path = next((p for folder in folders if (p := Path(folder) / "data" / file).is_file()), None)
    if path is None:
        raise UserError(f"the photograph {file} of the scikit-image package is missing; pip install scikit-image")
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB").reduce(FACTOR))
    except OSError as error:
        raise UserError(f"the photograph {path} cannot be read ({error}); reinstall scikit-image") from error


def part(name: str, test: bool) -> np.ndarray:
    """The columns of the reduced photograph that belong to the test part, or to the training part."""
    whole = photograph(name)
    left = PHOTOGRAPHS[name][1] == "left"
    size = int(whole.shape[1] * TEST_SHARE)
    edge = size if left else whole.shape[1] - size
    return whole[:, :edge] if test == left else whole[:, edge:]


def _patches(area: np.ndarray, count: int, size: int) -> np.ndarray:
    """`count` patches, spread evenly over those positions of `area` that have contrast: [count, size, size, 3]."""
    corners = np.array(
        [(y, x) for y in range(0, area.shape[0] - size + 1, 2) for x in range(0, area.shape[1] - size + 1, 2)]
    )
    brightness = np.lib.stride_tricks.sliding_window_view(area.mean(2, dtype=np.float64), (size, size))
    good = corners[brightness[::2, ::2].std((2, 3)).ravel() >= MIN_CONTRAST]
    chosen = good[np.linspace(0, len(good) - 1, count).round().astype(int)]
    return np.stack([area[y : y + size, x : x + size] for y, x in chosen])
