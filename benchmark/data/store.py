"""The prepared data sets: ROOT/NAME.safetensors (pixels and labels) and ROOT/NAME.json (what they are).

The JSON is written last and holds the fingerprint of pixels and labels, so a half-written or damaged pair is noticed.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from benchmark.data import archives, files
from benchmark.data.base import DATASETS, Parts, Source
from benchmark.data.tensors import DataSet, ImageSet, fingerprint_of
from benchmark.departures import Departure, column, told
from benchmark.errors import UserError, foreign, reading
from benchmark.files import whole
from benchmark.output import tell
from benchmark.text import plain

_TENSORS = ("train_images", "train_labels", "test_images", "test_labels")
_META = {"sha256": str, "bytes": int, "classes": int, "class_names": list, "train": int, "test": int}
_META |= {"image_size": int, "fingerprint": str, "note": str}
_MOST_TOLD = 20  # names of classes in one message


class Damaged(UserError):
    """A prepared data set is not what was written."""


def names() -> list[str]:
    """The names of all data sets."""
    return DATASETS.names()


def prepare(name: str, root: Path, source: Path | None = None) -> DataSet:
    """Read the official data from `source` (folder or archive; None: download) and store it below `root`.

    Without a `source`, data that is prepared and intact is only loaded. UserError for an unknown name, a source that is
    not complete and official, a failing download, or a `root` that cannot be written.
    """
    data_set, root = DATASETS.get(name)(), Path(root)
    if source is None:
        with contextlib.suppress(UserError):  # whatever is wrong with it is then prepared anew
            if (found := _load(data_set, root)) is not None:
                return found
    if source is not None and data_set.embedded:
        raise UserError(f"{name} comes with this program and takes no --from; run: {data_set.command}")
    if source is not None and not Path(source).exists():
        raise UserError(f"there is no {source} to prepare {name} from; give the official folder or archive")
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the data folder {root} ({error}); choose another") from error
    if source is None and not data_set.embedded:
        source = data_set.download(root)
    with _unpacked(data_set, root, source) as folder, foreign(f"cannot read the data set {name} from {source}"):
        parts = data_set.read(folder)
        _check(data_set, parts)
        _require_classes(data_set, parts, source)
    _write(data_set, root, parts, source)
    return load(name, root)


def load(name: str, root: Path) -> DataSet:
    """The prepared data set, verified against its fingerprint; embedded ones are prepared on first use.

    UserError telling the command that prepares it if it is missing or damaged. A damaged embedded one is set aside
    and prepared anew, with a line on stderr.
    """
    data_set, root = DATASETS.get(name)(), Path(root)
    try:
        found = _load(data_set, root)
    except Damaged as error:
        return _anew(data_set, root, error)
    if found is None and not data_set.embedded:
        raise UserError(f"the data set {name} is not prepared in {root}; run: {data_set.command}")
    return found or prepare(name, root)


def fingerprint(name: str, root: Path) -> str | None:
    """The prepared data set's fingerprint, read from its JSON alone. If it is missing, an embedded set is prepared; for
    others it is the official fingerprint, or None if that is unknown."""
    data_set, root = DATASETS.get(name)(), Path(root)
    try:
        meta = _read_meta(data_set, root)
    except Damaged as error:
        return _anew(data_set, root, error).fingerprint
    if meta is not None:
        return meta["fingerprint"]
    return prepare(name, root).fingerprint if data_set.embedded else data_set.official or None


def paths(name: str, root: Path) -> list[Path]:
    """The files of a prepared data set, whether they exist or not."""
    return [Path(root) / f"{name}.safetensors", Path(root) / f"{name}.json"]


def departures(name: str, root: Path, otherwise: dict | None = None) -> list[Departure]:
    """How the prepared data set departs from the full one.

    otherwise: the classes, train and test (counts) to go by if it is not prepared; without them the list is then empty.
    """
    data_set = DATASETS.get(name)()
    meta = _read_meta(data_set, Path(root)) or otherwise
    return _departures(data_set, meta) if meta else []


def _departures(data_set: Source, meta: dict) -> list[Departure]:
    """The source's own note, then every count that is not the nominal one."""
    noted = [Departure("data.source", meta["note"], "whole")] if meta.get("note") else []
    counts = zip(("train", "test"), data_set.nominal, strict=True)
    counts = [("classes", data_set.classes), *counts]
    return noted + [Departure(f"data.{what}", meta[what], whole) for what, whole in counts if meta[what] != whole]


def _require_classes(data_set: Source, parts: Parts, source: Path | None) -> None:
    """UserError unless every class has training images: networks have an output for each class, but the fingerprint,
    which is of pixels and labels, knows only the classes that have some."""
    empty = _without_images(parts.train, parts.class_names)
    if empty:
        number = f"{len(empty)} of {len(parts.class_names)} classes"
        shown = plain(", ".join(map(str, empty[:_MOST_TOLD])) + (", ..." if len(empty) > _MOST_TOLD else ""))
        place = f"in {source}" if source else "as it comes with this program"
        raise UserError(
            f"{data_set.name} {place} has {number} without training images: {shown}; remove these classes or add "
            f"pictures, and run: {data_set.command}"
        )


def _without_images(part: ImageSet, class_names: list[str]) -> list[str]:
    """The names of the classes that have no images in a part."""
    has = set(part.labels.unique().tolist())
    return [name for label, name in enumerate(class_names) if label not in has]


def _empty_classes(parts: Parts) -> str:
    """How many classes have no test images, which the counts of images do not show."""
    empty = len(_without_images(parts.test, parts.class_names))
    return f"{empty} of {len(parts.class_names)} classes without test images" if empty else ""


def describe(root: Path) -> list[dict]:
    """One dict per data set for a listing: name, prepared, image_size, classes, train, test, bytes, publishable, note,
    command (that prepares it). Reads only the JSON files; counts and bytes are None where not prepared. UserError for a
    `root` that is a file."""
    if Path(root).is_file():
        raise UserError(f"the data folder {root} is a file; give a folder")
    return [_describe(DATASETS.get(name)(), Path(root)) for name in names()]


def _load(data_set: Source, root: Path) -> DataSet | None:
    """The prepared data set, or None if it is not prepared. Damaged if it is not what was written."""
    meta, (path, _) = _read_meta(data_set, root), paths(data_set.name, root)
    if meta is None:
        return None
    with reading(path), open(path, "rb"):  # safetensors says of any file it cannot open that it does not exist
        pass
    try:
        tensors = load_file(path)
        train, test = (ImageSet(tensors[f"{part}_images"], tensors[f"{part}_labels"]) for part in ("train", "test"))
    except (SafetensorError, KeyError, OSError, ValueError) as error:
        raise _damaged(data_set, path) from error
    # over all pixels and labels, so the other checksum, of the file, need not be computed as well
    if fingerprint_of(train, test) != meta["fingerprint"] or meta["classes"] != len(meta["class_names"]):
        raise _damaged(data_set, path)
    _check(data_set, Parts(train, test, meta["class_names"]))
    known: dict[str, Any] = {key: getattr(data_set, key) for key in ("name", "mean", "std", "crop", "publishable")}
    known |= {key: meta[key] for key in ("classes", "class_names", "fingerprint")}
    return DataSet(train=train, test=test, **known)


def _anew(data_set: Source, root: Path, error: Damaged) -> DataSet:
    """Set a damaged embedded data set aside and prepare it again; for others, `error`: only the user has the source."""
    if not data_set.embedded:
        raise error
    try:
        for path in paths(data_set.name, root):
            os.replace(path, path.with_name(path.name + ".damaged"))
    except FileNotFoundError:  # another process was faster
        pass
    except OSError:
        raise error from None
    tell(f"the prepared data set {data_set.name} in {root} is damaged: set aside and prepared anew")
    return prepare(data_set.name, root)


def _describe(data_set: Source, root: Path) -> dict:
    try:
        meta = _read_meta(data_set, root)
        note = "" if meta is None else column(told(_departures(data_set, meta)))
    except UserError:
        meta, note = None, "damaged"
    known = meta or {"classes": data_set.classes, "train": None, "test": None, "bytes": None}
    return {
        "name": data_set.name,
        "prepared": meta is not None,
        "image_size": data_set.image_size,
        **{key: known[key] for key in ("classes", "train", "test", "bytes")},
        "publishable": data_set.publishable,
        "note": note or ("embedded: prepared on first use" if data_set.embedded and meta is None else ""),
        "command": data_set.command,
    }


def _damaged(data_set: Source, path: Path) -> Damaged:
    return Damaged(f"the prepared file {path} is damaged; delete it and run: {data_set.command}")


def _read_meta(data_set: Source, root: Path) -> dict | None:
    """The JSON, or None if either file is missing; Damaged if it is not what was written."""
    tensors, path = paths(data_set.name, root)
    if not path.is_file() or not tensors.is_file():
        return None
    try:
        with reading(path):
            meta = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise _damaged(data_set, path) from error
    if not isinstance(meta, dict) or not all(isinstance(meta.get(key), kind) for key, kind in _META.items()):
        raise _damaged(data_set, path)
    return meta


@contextlib.contextmanager
def _unpacked(data_set: Source, root: Path, source: Path | None) -> Iterator[Any]:
    """The source itself, or a temporary folder into which the archive (checked first) is unpacked."""
    if source is None or not data_set.archives or Path(source).is_dir():
        yield source and Path(source)
        return
    files.require_md5(Path(source), data_set.archives)
    with tempfile.TemporaryDirectory(dir=root, prefix=f"{data_set.name}-") as folder:
        archives.unpack(Path(source), Path(folder))
        yield Path(folder)


def _check(data_set: Source, parts: Parts) -> None:
    """Check that a data set's `read` returned what it should, also for a plug-in."""
    size, classes = data_set.image_size, len(parts.class_names)
    for what, part in (("training", parts.train), ("test", parts.test)):
        images, labels = part.images, part.labels
        if (
            images.dtype != torch.uint8
            or labels.dtype != torch.int64
            or images.shape[1:] != (3, size, size)
            or labels.ndim != 1
        ):
            raise UserError(f"the {what} images of {data_set.name} are not uint8 [N, 3, {size}, {size}]")
        if len(labels) == 0 or len(labels) != len(images):
            raise UserError(f"the {what} part of {data_set.name} has {len(images)} images, {len(labels)} labels")
        if labels.min() < 0 or labels.max() >= classes:
            raise UserError(f"the {what} part of {data_set.name} has a label outside 0..{classes - 1}")


def _write(data_set: Source, root: Path, parts: Parts, source: Path | None) -> None:
    train, test = parts.train, parts.test
    path, meta_path = paths(data_set.name, root)
    tensors = dict(zip(_TENSORS, (train.images, train.labels, test.images, test.labels), strict=True))
    try:
        # the JSON appears after the tensors
        with whole(meta_path) as new_meta, whole(path) as new_tensors:
            save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, new_tensors)
            meta = {
                "name": data_set.name,
                "source": plain(Path(source).name) if source else "embedded",
                "note": ", ".join(filter(None, [parts.note, _empty_classes(parts)])),
                "train": len(train),
                "test": len(test),
                "image_size": data_set.image_size,
                "classes": len(parts.class_names),
                "bytes": new_tensors.stat().st_size,
                "sha256": files.digest(new_tensors, "sha256"),
                "fingerprint": fingerprint_of(train, test),
                "class_names": parts.class_names,
            }
            new_meta.write_text(json.dumps(meta, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"cannot write the prepared data set to {root} ({error}); free space or choose another"
        ) from error
