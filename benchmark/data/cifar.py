"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009), from the official python or binary layout, as a folder or .tar.gz."""

import hashlib
import io
import pickle
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from benchmark.data.base import DATASETS, Parts, Source
from benchmark.data.files import require_md5
from benchmark.data.tensors import ImageSet
from benchmark.errors import UserError

_PIXELS = 3 * 32 * 32


class Cifar(Source):
    """The common base; images stay in the order of the official files, with the official class names.

    python_files: file -> official md5 (batches in order, the test file, the names). The official binary files have no
    published checksums. They are checked by `contents` (see `_contents`), which does not depend on the layout.
    """

    image_size = 32
    nominal = (50_000, 10_000)
    crop = True
    python_folder: ClassVar[str]
    python_files: ClassVar[dict[str, str]]
    label_key: ClassVar[str]
    names_key: ClassVar[str]
    binary_folder: ClassVar[str]
    binary_files: ClassVar[tuple[str, ...]]
    label_bytes: ClassVar[int]  # of each binary record; the last one is the label
    contents: ClassVar[str]

    def read(self, source: Path) -> Parts:
        python_first, binary_first = next(iter(self.python_files)), self.binary_files[0]
        for folder in (source, source / self.python_folder, source / self.binary_folder):
            if (folder / python_first).is_file():
                return self._read_python(folder)
            if (folder / binary_first).is_file():
                return self._read_binary(folder)
        raise UserError(
            f"{source} holds neither {self.python_folder}/{python_first} nor "
            f"{self.binary_folder}/{binary_first}; give the folder or archive of the official {self.name}"
        )

    def _read_python(self, folder: Path) -> Parts:
        for name, md5 in self.python_files.items():
            require_md5(folder / name, [md5])
        *train_files, test_file, names_file = (folder / name for name in self.python_files)
        names = _entry(_unpickle(names_file), self.names_key, names_file)
        if not isinstance(names, list) or len(names) != self.classes:
            raise UserError(f"{names_file} does not name {self.classes} classes; get it again")
        train = _join([self._python_part(path) for path in train_files])
        return Parts(train, self._python_part(test_file), [str(name) for name in names])

    def _python_part(self, path: Path) -> ImageSet:
        content = _unpickle(path)
        pixels, labels = _entry(content, "data", path), _entry(content, self.label_key, path)
        sound = isinstance(pixels, np.ndarray) and isinstance(labels, list) and pixels.dtype == np.uint8
        sound = sound and all(isinstance(label, int) and 0 <= label < self.classes for label in labels)
        if not sound or pixels.shape != (len(labels), _PIXELS):
            raise UserError(
                f"{path} does not hold one row of {_PIXELS} bytes for each label below {self.classes}; get it again"
            )
        return _image_set(pixels, np.asarray(labels))

    def _read_binary(self, folder: Path) -> Parts:
        *train_files, test_file, names_file = (folder / name for name in self.binary_files)
        train, test = _join([self._binary_part(path) for path in train_files]), self._binary_part(test_file)
        found = _contents(train, test)
        if found != self.contents:
            raise UserError(
                f"the images in {folder} are not those of the official {self.name} (their digest is {found}, "
                f"expected {self.contents}); get the files again"
            )
        names = _bytes(names_file).decode("utf-8", "replace").split()
        if len(names) != self.classes:
            raise UserError(f"{names_file} names {len(names)} classes, not {self.classes}; get it again")
        return Parts(train, test, names)

    def _binary_part(self, path: Path) -> ImageSet:
        content, record = np.frombuffer(_bytes(path), dtype=np.uint8), self.label_bytes + _PIXELS
        if len(content) == 0 or len(content) % record:
            raise UserError(f"{path} is not made of records of {record} bytes; it is incomplete, get it again")
        rows = content.reshape(-1, record)
        return _image_set(rows[:, self.label_bytes :], rows[:, self.label_bytes - 1])


@DATASETS.register("cifar10")
class Cifar10(Cifar):
    classes = 10
    mean, std = (0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)
    url = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
    url_md5 = "c58f30108f718f92721af3b95e74349a"
    archives = (url_md5, "c32a1d4ab5d03f1284b67883e8d87530")
    python_folder = "cifar-10-batches-py"
    python_files: ClassVar = {
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
        "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
    }
    label_key, names_key = "labels", "label_names"
    binary_folder = "cifar-10-batches-bin"
    binary_files = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin", "batches.meta.txt")
    label_bytes = 1
    contents = "abf4b167a135b062ef28f7f742091acaf0d93435cacacaa70137c477b4a499cb"
    official = "85db2f686723bec740c5e6da400eb49b4599537a9ac5939d7a9cbf8e818b7bad"


@DATASETS.register("cifar100")
class Cifar100(Cifar):
    """With the 100 fine labels."""

    classes = 100
    mean, std = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
    url = "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"
    url_md5 = "eb9058c3a382ffc7106e4002c42a8d85"
    archives = (url_md5, "03b5dce01913d631647c71ecec9e9cb8")
    python_folder = "cifar-100-python"
    python_files: ClassVar = {
        "train": "16019d7e3df5f24257cddd939b257f8d",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
        "meta": "7973b15100ade9c7d40fb424638fde48",
    }
    label_key, names_key = "fine_labels", "fine_label_names"
    binary_folder = "cifar-100-binary"
    binary_files = ("train.bin", "test.bin", "fine_label_names.txt")
    label_bytes = 2
    contents = "34a73562c333c3f38088a2a09d18abd6d04eacc4d045680dcbdc10f3a665e06b"
    official = "b3114cd16f3780a9d513120438f4706472884c563ecaa36c06ab62bd10543d0e"


class _ArraysOnly(pickle.Unpickler):
    """Loads only numpy arrays and plain containers; a pickle that names anything else could run any program."""

    _ALLOWED = {("numpy", "ndarray"), ("numpy", "dtype")} | {
        (f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")
    }

    def find_class(self, module: str, name: str):
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def _unpickle(path: Path):
    content = io.BytesIO(_bytes(path))
    try:
        return _ArraysOnly(content, encoding="latin1").load()
    except Exception as error:  # a damaged pickle can fail in any way
        raise UserError(f"{path} is not a CIFAR file ({error}); get it again") from error


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"the file {path} cannot be read ({error}); give a complete copy of the data") from error


def _entry(content, key: str, path: Path):
    if not isinstance(content, dict) or key not in content:
        raise UserError(f"{path} has no entry '{key}'; it is not a CIFAR file, get it again")
    return content[key]


def _image_set(pixels: np.ndarray, labels: np.ndarray) -> ImageSet:
    images = torch.from_numpy(np.array(pixels)).view(-1, 3, 32, 32)
    return ImageSet(images, torch.from_numpy(labels.astype(np.int64)))


def _join(parts: list[ImageSet]) -> ImageSet:
    return ImageSet(torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts]))


def _contents(train: ImageSet, test: ImageSet) -> str:
    """sha256 over the sorted sha256 of all (label byte + pixels), part by part: independent of layout and order."""
    whole = hashlib.sha256()
    for part in (train, test):
        rows = torch.cat([part.labels.to(torch.uint8)[:, None], part.images.flatten(1)], 1).numpy()
        whole.update(b"".join(sorted(hashlib.sha256(row).digest() for row in rows)))
    return whole.hexdigest()
