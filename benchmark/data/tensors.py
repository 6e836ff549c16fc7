"""Images and labels as tensors: a part of a data set, a data set, and functions to select and scale images."""

import hashlib
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from benchmark.errors import UserError

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class ImageSet:
    """images: uint8 [N, 3, H, W] in RGB; labels: int64 [N]."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> "ImageSet":
        return ImageSet(self.images.to(device), self.labels.to(device))

    def take(self, index: Tensor) -> "ImageSet":
        """The images at `index` (int64 [M], on any device), in its order."""
        index = index.to(self.labels.device)
        return ImageSet(self.images[index], self.labels[index])


@dataclass(frozen=True)
class DataSet:
    """A prepared data set. `mean` and `std` are per channel, for images in [0, 1].

    classes: how many there are in the data (FaceScrub copies differ); crop: whether training images are also
    cropped at random; fingerprint: sha256 (hex) of both parts' pixels and labels, before any subset;
    publishable: whether its pictures, and reconstructions of them, may be written into reports.
    """

    name: str
    classes: int
    mean: Triple
    std: Triple
    crop: bool
    train: ImageSet
    test: ImageSet
    class_names: list[str]
    fingerprint: str
    publishable: bool

    @property
    def image_size(self) -> int:
        """Height and width in pixels."""
        return self.train.images.shape[-1]

    def to(self, device: torch.device | str) -> "DataSet":
        return replace(self, train=self.train.to(device), test=self.test.to(device))


def subset(data: DataSet, train_images: int | None, test_images: int | None) -> DataSet:
    """The first images of every class, as evenly over the classes as the numbers allow; None keeps a whole part.

    Images are chosen one class after the other (the first of every class, then the second of every class, ...) and
    stay in the stored order. The fingerprint stays that of the whole data set. UserError for a number below 1 or beyond
    what there is.
    """
    require_images(data, train_images, test_images)
    return replace(data, train=balanced(data.train, train_images), test=balanced(data.test, test_images))


def require_images(data: DataSet, train_images: int | None, test_images: int | None) -> None:
    """UserError, as for `subset`, unless there are so many images."""
    for part, count, what in ((data.train, train_images, "training"), (data.test, test_images, "test")):
        if count is not None and not 1 <= count <= len(part):
            asked = f"{count} {what} images of {data.name} were asked for"
            raise UserError(f"{asked}; choose 1 to {len(part)}, or leave the number out for all")


def balanced(part: ImageSet, count: int | None) -> ImageSet:
    """Like `subset`, for one part that has so many images."""
    if count is None:
        return part
    labels = part.labels.cpu()
    by_class = torch.argsort(labels, stable=True)
    sizes = torch.bincount(labels)
    starts = sizes.cumsum(0) - sizes
    rank = torch.empty_like(labels)  # how many earlier images have the same class
    rank[by_class] = torch.arange(len(labels)) - starts[labels[by_class]]
    turn = torch.argsort(rank * len(sizes) + labels)
    return part.take(turn[:count].sort().values)


def fingerprint_of(train: ImageSet, test: ImageSet) -> str:
    """sha256 (hex) over the shapes, pixels and labels of both parts."""
    digest = hashlib.sha256()
    for tensor in (train.images, train.labels, test.images, test.labels):
        digest.update(repr((str(tensor.dtype), tuple(tensor.shape))).encode())
        digest.update(tensor.cpu().contiguous().numpy().data)
    return digest.hexdigest()


def to_unit(images: Tensor) -> Tensor:
    """uint8 0..255 -> float32 0..1; floating-point images are assumed to be in 0..1 already and returned unchanged."""
    return images if images.is_floating_point() else images.float().div_(255)


def normalise(x01: Tensor, mean: Triple, std: Triple) -> Tensor:
    """(x01 - mean) / std per channel, for floating-point [B, 3, H, W] (or [3, H, W])."""
    mean_tensor, std_tensor = _constants(mean, std, x01.dtype, x01.device)
    return (x01 - mean_tensor) / std_tensor


@lru_cache(maxsize=32)
def _constants(mean: Triple, std: Triple, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Kept, because a copy from the host is not allowed while a CUDA graph is captured (a warm-up step fills it)."""
    with torch.inference_mode(False):  # an inference tensor could not be used in a later backward pass
        pair = torch.tensor((mean, std), dtype=dtype, device=device).view(2, 3, 1, 1)
        return pair[0], pair[1]
