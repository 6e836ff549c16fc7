"""Which images an attack is fitted on and which it is scored on."""

import torch
from torch import Tensor

from benchmark.config import Knowledge
from benchmark.data import DataSet, ImageSet, balanced
from benchmark.errors import UserError
from benchmark.training.loop import seeded


def split(name: str, data: DataSet, ordered: bool, seed: int) -> tuple[ImageSet, ImageSet]:
    """(images to fit on, images to score on), disjoint.

    `train`: the whole training set, then the whole test set. `infer`: 90 % and 10 % of the test set; `ordered` (quirk
    q5, released code) takes the first 90 % in stored order, which leaves only the last classes for scoring if the
    images are stored by class; otherwise both parts hold all classes in equal shares, drawn by `seed`.
    UserError for a test set too small to be split.
    """
    if name == "train":
        return data.train, data.test
    test = data.test
    order = torch.arange(len(test)) if ordered else _mixed(test.labels.cpu(), seed)
    count = max(1, len(test) * 9 // 10)
    if count == len(test):
        raise UserError(f"the infer split needs at least 2 test images, not {len(test)}; raise data.test_images")
    order = order.to(test.images.device)
    return test.take(order[:count]), test.take(order[count:])


def known(fit: ImageSet, knowledge: Knowledge, other: DataSet | None) -> tuple[ImageSet, int]:
    """(the images that the attacker has of `fit`, or as many of another data set's training images; `Target.passes`).

    Shares are class-balanced, and smaller ones are part of larger ones. With fewer images, an epoch repeats them.
    """
    count = max(1, round(knowledge.share * len(fit)))
    source = fit if other is None else other.train
    found = balanced(source, min(count, len(source)))
    return found, max(1, round(len(fit) / len(found)))


def _mixed(labels: Tensor, seed: int) -> Tensor:
    """An order of the images in which every part has the classes in nearly equal shares; int64 [N]."""
    generator = seeded(torch.device("cpu"), "infer-split", seed)
    shuffled = torch.randperm(len(labels), generator=generator)
    by_class = shuffled[torch.sort(labels[shuffled], stable=True).indices]
    # the i-th of a class's n images stands at (i + u) / n of the way, u one draw a class
    sizes = torch.bincount(labels)
    first = torch.cumsum(sizes, 0) - sizes
    ordered = labels[by_class]
    rank = torch.arange(len(labels)) - first[ordered]
    offset = torch.rand(len(sizes), generator=generator)
    place = (rank + offset[ordered]) / sizes[ordered]
    return by_class[torch.sort(place, stable=True).indices]
