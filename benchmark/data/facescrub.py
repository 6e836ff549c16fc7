"""FaceScrub (Ng and Winkler 2014): faces of 530 people, from a copy the user already has; there is no download."""

import hashlib
import unicodedata
from pathlib import Path

import numpy as np
import torch

from benchmark.data import archives
from benchmark.data.base import DATASETS, Parts, Source
from benchmark.data.files import channels_first, folders_in, pictures_in, read_pictures, resized, spelt
from benchmark.data.tensors import ImageSet
from benchmark.errors import UserError


@DATASETS.register("facescrub")
class FaceScrub(Source):
    """Pictures are resized to 48 x 48 (bilinear, without antialiasing); classes are the people by name; order: person,
    then file name.

    Layouts: train/PERSON/*.jpg with validate/PERSON/*.jpg (or val/); PERSON/*.jpg; or an .npz file with the arrays
    images (uint8 [N, H, W, 3]), labels (int [N]) and people (names [P]). The last two have no split of their own: a
    picture is a test picture if the sha256 of "PERSON/FILE" (.npz: of its pixels) is 0 modulo 10, so about 10 %.
    """

    classes = 530
    image_size = 48
    nominal = (39_969, 4_170)
    mean, std = (0.5708, 0.5905, 0.4272), (0.2058, 0.2275, 0.2098)
    crop = False
    by_class = True
    publishable = False

    def download(self, root: Path) -> Path:
        raise UserError(
            "facescrub cannot be downloaded; ask its authors (vintage.winklerbros.net/facescrub.html) for "
            f"it, put the face crops into one folder per person and run: {self.command}"
        )

    def read(self, source: Path) -> Parts:
        return self._read_arrays(source) if source.is_file() else self._read_folders(source)

    def _read_folders(self, source: Path) -> Parts:
        train = source / "train"
        test = next((p for p in (source / "validate", source / "val") if train.is_dir() and p.is_dir()), None)
        folders = {spelt(path): path for path in folders_in(train if test else source)}
        tested = {spelt(path): path for path in folders_in(test)} if test else {}
        if unknown := set(tested) - set(folders):
            raise UserError(f"{tested[min(unknown)]} has no counterpart in {train}; every person needs both")
        pictures = [
            (path, person, part is tested if test else _is_test(f"{person}/{spelt(path)}".encode()))
            for part in (folders, tested)
            for person, folder in part.items()
            for path in pictures_in(folder)
        ]
        if not pictures:
            raise UserError(f"{source} has no folders of pictures, one per person; give such a folder or an .npz")
        images = read_pictures([path for path, _, _ in pictures], self.image_size, resize=True)
        people = list(folders)
        number = {person: label for label, person in enumerate(people)}
        whole = ImageSet(images, torch.tensor([number[person] for _, person, _ in pictures], dtype=torch.int64))
        return _parted(whole, torch.tensor([is_test for _, _, is_test in pictures]), people)

    def _read_arrays(self, source: Path) -> Parts:
        try:
            archives.require_modest_zip(source)
            with np.load(source, allow_pickle=False) as arrays:
                pixels, labels, people = arrays["images"], arrays["labels"], arrays["people"]
        except Exception as error:  # a damaged file can fail in any way
            raise UserError(f"{source} is not an .npz with images, labels and people ({error})") from error
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3 or labels.shape != pixels.shape[:1]:
            raise UserError(f"{source}: images must be uint8 [N, H, W, 3] with one label each")
        if pixels.size == 0 or labels.dtype.kind not in "iu" or people.ndim != 1:
            raise UserError(f"{source}: there must be images, labels must be integers, people a list of names")
        most = 4 * sum(self.nominal)  # however small they are, each takes the memory of one of image_size
        if len(pixels) > most:
            raise UserError(f"{source} holds {len(pixels)} pictures; at most {most} are read: give a copy of FaceScrub")
        test = torch.tensor([_is_test(picture.tobytes()) for picture in pixels])
        whole = ImageSet(
            channels_first(np.stack([resized(picture, self.image_size) for picture in pixels])),
            torch.from_numpy(labels.astype(np.int64)),
        )
        return _parted(whole, test, [unicodedata.normalize("NFC", str(person)) for person in people])


def _parted(whole: ImageSet, test: torch.Tensor, people: list[str]) -> Parts:
    return Parts(whole.take(torch.where(~test)[0]), whole.take(torch.where(test)[0]), people)


def _is_test(content: bytes) -> bool:
    return int.from_bytes(hashlib.sha256(content).digest(), "big") % 10 == 0
