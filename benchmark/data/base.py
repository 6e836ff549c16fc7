"""The interface of data sets: one class per data set, registered under its name.

A data set is one file in this folder (or in an installed package, entry-point group `benchmark.datasets`): a
subclass of `Source` with its constants as class attributes and a `read` for the layout it is distributed in.
"""

from pathlib import Path
from typing import ClassVar, NamedTuple

from benchmark.data import files
from benchmark.data.tensors import ImageSet, Triple
from benchmark.registry import Registry

DATASETS: Registry["Source"] = Registry("data set", "benchmark.data", "benchmark.datasets")


class Parts(NamedTuple):
    """The result of `Source.read`. note: one line about anything unusual in the source that the counts of images and
    classes do not show, or ""."""

    train: ImageSet
    test: ImageSet
    class_names: list[str]
    note: str = ""


class Source:
    """Base of all data sets; `name` is set by `DATASETS.register`.

    classes, image_size (pixels), nominal (training and test images of the full set; every caption lists other counts),
    mean and std (per channel, of images in [0, 1]), crop: as in the paper's experiments. publishable: False if pictures
    must never leave the machine. embedded: no source is needed, `load` prepares it. url, url_md5: the official archive.
    archives: md5 sums of all official archives, whatever their layout; if there are any, a file given as the source
    must be one of them, and is unpacked before `read`. official: the fingerprint of the full set, if `read` accepts no
    other; its results are then found even if it is not prepared.
    """

    name: ClassVar[str]
    classes: ClassVar[int]
    image_size: ClassVar[int]
    nominal: ClassVar[tuple[int, int]]
    mean: ClassVar[Triple]
    std: ClassVar[Triple]
    crop: ClassVar[bool]
    publishable: ClassVar[bool] = True
    by_class: ClassVar[bool] = False
    embedded: ClassVar[bool] = False
    url: ClassVar[str] = ""
    url_md5: ClassVar[str] = ""
    archives: ClassVar[tuple[str, ...]] = ()
    official: ClassVar[str] = ""

    @property
    def command(self) -> str:
        """The exact command that prepares this data set, for messages."""
        option = "" if self.embedded else " [--from PATH]" if self.url else " --from PATH"
        return f"python -m benchmark data prepare {self.name}{option}"

    def download(self, root: Path) -> Path:
        """The official archive, downloaded below `root` unless it is there; UserError if that is impossible."""
        return files.download(self.url, self.url_md5, root / "downloads", self.command)

    def read(self, source: Path) -> Parts:
        """Read the official layout from a folder (or, without `archives`, from a file).

        UserError naming the file for anything missing, damaged or unexpected.
        """
        raise NotImplementedError
