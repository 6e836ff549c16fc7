"""TinyImageNet-200, from the official tiny-imagenet-200 folder or .zip."""

from pathlib import Path

import torch

from benchmark.data.base import DATASETS, Parts, Source
from benchmark.data.files import folders_in, pictures_in, read_pictures, spelt, told_all
from benchmark.data.tensors import ImageSet
from benchmark.errors import UserError


@DATASETS.register("tinyimagenet")
class TinyImageNet(Source):
    """Training images are train/CLASS/images/*.JPEG, test images the official validation images.

    Both parts are ordered by class, then by file name, as when read folder by folder.
    """

    classes = 200
    image_size = 64
    nominal = (100_000, 10_000)
    mean, std = (0.5141, 0.5775, 0.3985), (0.2927, 0.2570, 0.1434)
    crop = False
    by_class = True
    url = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
    url_md5 = "90528d7ca1a48142e341f4ef8d21d0de"
    archives = (url_md5,)

    def read(self, source: Path) -> Parts:
        folder = source if (source / "train").is_dir() else source / "tiny-imagenet-200"
        annotations = folder / "val" / "val_annotations.txt"
        for needed in (folder / "train", folder / "val" / "images", annotations):
            if not needed.exists():
                raise UserError(f"{needed} is missing; give the official tiny-imagenet-200 folder or .zip")
        class_folders = folders_in(folder / "train")
        classes = [spelt(path) for path in class_folders]
        if len(classes) != self.classes:
            raise UserError(f"{folder / 'train'} has {len(classes)} class folders, not {self.classes}")
        parts = [self._class_pictures(class_folders), _validation(annotations, classes)]
        paths = [path for part in parts for pictures in part for path in pictures]
        images = read_pictures(paths, self.image_size, resize=False)
        labels = [_labels(part) for part in parts]
        train, test = map(ImageSet, images.split([len(part) for part in labels]), labels)
        return Parts(train, test, _words(folder, classes))

    def _class_pictures(self, folders: list[Path]) -> list[list[Path]]:
        inner = [folder / "images" for folder in folders]
        found = [pictures_in(folder) if folder.is_dir() else [] for folder in inner]
        empty = [f"{folder} holds no pictures" for folder, paths in zip(inner, found, strict=True) if not paths]
        if empty:
            text = told_all(empty, f"of {len(folders)} class folders")
            raise UserError(f"{text}; give a complete copy of tiny-imagenet-200")
        return found


def _labels(by_class: list[list[Path]]) -> torch.Tensor:
    return torch.arange(len(by_class)).repeat_interleave(torch.tensor([len(paths) for paths in by_class]))


def _validation(annotations: Path, classes: list[str]) -> list[list[Path]]:
    """The validation pictures of each class, from lines of "FILE <tab> CLASS <tab> box"."""
    by_class: dict[str, list[Path]] = {name: [] for name in classes}
    for number, line in enumerate(annotations.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        fields = line.split("\t")
        if len(fields) < 2 or fields[1] not in by_class or Path(fields[0]).name != fields[0]:
            raise UserError(f"{annotations}, line {number}: '{line[:80]}' does not name a picture and a known class")
        by_class[fields[1]].append(annotations.parent / "images" / fields[0])
    return [sorted(by_class[name]) for name in classes]


def _words(folder: Path, classes: list[str]) -> list[str]:
    """The first English word of each class from words.txt, or the class's own name."""
    words = {}
    if (folder / "words.txt").is_file():
        for line in (folder / "words.txt").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, meaning = line.partition("\t")
            words[name] = meaning.split(",")[0].strip()
    return [words.get(name) or name for name in classes]
