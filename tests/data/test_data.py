"""Reading the official layouts, storing, loading and picking; every file is generated here."""

import dataclasses
import hashlib
import http.server
import io
import os
import pickle
import struct
import tarfile
import threading
import unicodedata
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark import data
from benchmark.data import _torchvision, archives, cifar, files
from benchmark.data.cifar import Cifar10, Cifar100
from benchmark.data.facescrub import FaceScrub
from benchmark.data.tinyimagenet import TinyImageNet
from benchmark.departures import Departure, told
from benchmark.errors import UserError
from benchmark.matrix.expand import expand
from benchmark.matrix.load import DEFAULT, MatrixFile
from tests.support.command_line import call as command_line

RNG = np.random.default_rng(0)
NAMES10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def md5(path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


# ---------------------------------------------------------------- CIFAR


@pytest.fixture
def cifar10(tmp_path, monkeypatch):
    """Small CIFAR-10 files in both official layouts, and what must come out: (folder, pixels, labels)."""
    pixels = RNG.integers(0, 256, (60, 3072), dtype=np.uint8)
    labels = RNG.permutation(np.arange(60) % 10)
    source = tmp_path / "official"
    python, binary = source / "cifar-10-batches-py", source / "bin" / "cifar-10-batches-bin"
    python.mkdir(parents=True), binary.mkdir(parents=True)
    for i, name in enumerate([f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"]):
        rows = slice(10 * i, 10 * i + 10)
        batch = {
            "data": pixels[rows],
            "labels": labels[rows].tolist(),
            "batch_label": name,
            "filenames": ["x"] * 10,
        }
        (python / name).write_bytes(pickle.dumps(batch, protocol=3))
        records = np.concatenate([labels[rows, None].astype(np.uint8), pixels[rows]], 1)
        (binary / f"{name}.bin").write_bytes(records.tobytes())
    (python / "batches.meta").write_bytes(pickle.dumps({"label_names": NAMES10}, protocol=3))
    (binary / "batches.meta.txt").write_text("\n".join(NAMES10) + "\n\n")
    monkeypatch.setattr(Cifar10, "python_files", {name: md5(python / name) for name in Cifar10.python_files})
    parts = Cifar10()._read_python(python)
    monkeypatch.setattr(Cifar10, "contents", cifar._contents(parts.train, parts.test))
    return source, torch.from_numpy(pixels).view(-1, 3, 32, 32), torch.from_numpy(labels)


@pytest.mark.parametrize("layout", ["", "cifar-10-batches-py", "bin", "bin/cifar-10-batches-bin"])
def test_cifar10_layouts(cifar10, tmp_path, layout):
    source, pixels, labels = cifar10
    prepared = data.prepare("cifar10", tmp_path / "root", source / layout)
    assert torch.equal(prepared.train.images, pixels[:50]) and torch.equal(prepared.test.images, pixels[50:])
    assert torch.equal(prepared.train.labels, labels[:50]) and torch.equal(prepared.test.labels, labels[50:])
    assert prepared.class_names == NAMES10 and prepared.crop and prepared.image_size == 32
    loaded = data.load("cifar10", tmp_path / "root")
    assert torch.equal(loaded.train.images, prepared.train.images)
    assert data.fingerprint("cifar10", tmp_path / "root") == loaded.fingerprint
    assert sorted(p.name for p in (tmp_path / "root").iterdir()) == ["cifar10.json", "cifar10.safetensors"]


@pytest.mark.parametrize("layout", ["python", "binary"])
def test_cifar100_layouts_give_fine_labels(tmp_path, monkeypatch, layout):
    folder = tmp_path / {"python": "cifar-100-python", "binary": "cifar-100-binary"}[layout]
    folder.mkdir()
    names = [f"class{i}" for i in range(100)]
    fine, coarse = np.arange(100)[::-1].copy(), np.arange(100) // 5
    pixels = RNG.integers(0, 256, (100, 3072), dtype=np.uint8)
    for name in ("train", "test"):
        batch = {"data": pixels, "fine_labels": fine.tolist(), "coarse_labels": coarse.tolist()}
        if layout == "python":
            (folder / name).write_bytes(pickle.dumps(batch, protocol=3))
        else:
            both = np.stack([coarse, fine], 1).astype(np.uint8)
            (folder / f"{name}.bin").write_bytes(np.concatenate([both, pixels], 1).tobytes())
    if layout == "python":
        (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": names}, protocol=3))
        monkeypatch.setattr(Cifar100, "python_files", {n: md5(folder / n) for n in Cifar100.python_files})
    else:
        (folder / "fine_label_names.txt").write_text("\n".join(names))
        rows = [hashlib.sha256(bytes([f]) + p.tobytes()).digest() for f, p in zip(fine, pixels, strict=True)]
        monkeypatch.setattr(Cifar100, "contents", hashlib.sha256(b"".join(sorted(rows)) * 2).hexdigest())
    loaded = data.prepare("cifar100", tmp_path / "root", tmp_path)
    assert loaded.train.labels.tolist() == fine.tolist() and loaded.class_names == names
    assert torch.equal(loaded.test.images, torch.from_numpy(pixels).view(-1, 3, 32, 32))


def test_cifar_damage_is_named(cifar10, tmp_path):
    source, *_ = cifar10
    batch = source / "cifar-10-batches-py" / "data_batch_3"
    batch.write_bytes(batch.read_bytes()[:-100])
    with pytest.raises(UserError, match="data_batch_3 is damaged, incomplete or not the official"):
        data.prepare("cifar10", tmp_path / "root", source)
    batch.unlink()
    with pytest.raises(UserError, match="data_batch_3 is missing"):
        data.prepare("cifar10", tmp_path / "root", source)
    binary = source / "bin" / "cifar-10-batches-bin" / "data_batch_2.bin"
    whole = binary.read_bytes()
    binary.write_bytes(whole[:-100])
    with pytest.raises(UserError, match="data_batch_2.bin is not made of records of 3073 bytes"):
        data.prepare("cifar10", tmp_path / "root", source / "bin")
    binary.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(UserError, match="are not those of the official cifar10"):
        data.prepare("cifar10", tmp_path / "root", source / "bin")
    with pytest.raises(UserError, match="holds neither cifar-10-batches-py/data_batch_1 nor"):
        data.prepare("cifar10", tmp_path / "root", tmp_path)
    assert not (tmp_path / "root" / "cifar10.json").exists()


class Malicious:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def test_pickle_cannot_run_anything(tmp_path):
    path, target = tmp_path / "data_batch_1", tmp_path / "made-by-the-pickle"
    path.write_bytes(pickle.dumps({"data": Malicious(target), "labels": []}, protocol=3))
    with pytest.raises(UserError, match="data_batch_1 is not a CIFAR file .*mkdir"):
        cifar._unpickle(path)
    assert not target.exists()
    for other in (eval, np.load, torch.load):
        path.write_bytes(pickle.dumps(other))
        with pytest.raises(UserError, match="it asks for"):
            cifar._unpickle(path)
    path.write_bytes(b"not a pickle")
    with pytest.raises(UserError, match="is not a CIFAR file"):
        cifar._unpickle(path)


# ---------------------------------------------------------------- archives and downloads


def tar_of(path, folder) -> None:
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, folder.name)


def test_archive_is_checked_and_unpacked(cifar10, tmp_path, monkeypatch):
    source, pixels, _ = cifar10
    archive = tmp_path / "cifar-10-python.tar.gz"
    tar_of(archive, source / "cifar-10-batches-py")
    with pytest.raises(UserError, match="cifar-10-python.tar.gz is damaged, incomplete or not the official"):
        data.prepare("cifar10", tmp_path / "root", archive)
    monkeypatch.setattr(Cifar10, "archives", (md5(archive),))
    loaded = data.prepare("cifar10", tmp_path / "root", archive)
    assert torch.equal(loaded.train.images, pixels[:50])
    stored = list((tmp_path / "root").iterdir())
    assert len(stored) == 2  # the unpacked files are gone
    assert len({path.stat().st_mode for path in stored}) == 1  # whoever may read one may read the other
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    with pytest.raises(UserError, match="damaged, incomplete"):
        data.prepare("cifar10", tmp_path / "root", archive)


def test_truncated_archive_is_a_clear_error(cifar10, tmp_path):
    archive = tmp_path / "half.tar.gz"
    tar_of(archive, cifar10[0] / "cifar-10-batches-py")
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    with pytest.raises(UserError, match="half.tar.gz cannot be unpacked"):
        archives.unpack(archive, tmp_path / "out")


@pytest.mark.parametrize("name", ["../outside", "a/../../outside", "/outside", "..\\outside", "C:outside"])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_archive_members_cannot_leave_the_folder(tmp_path, name, kind):
    archive, folder = tmp_path / f"a.{kind}", tmp_path / "in" / "out"
    folder.mkdir(parents=True)
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as content:
            content.writestr(name, b"x")
    else:
        with tarfile.open(archive, "w") as content:
            content.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(UserError, match="lies outside of it"):
        archives.unpack(archive, folder)
    assert not list(tmp_path.rglob("*outside"))


@pytest.mark.parametrize("kind", ["symlink", "hard link", "device", "zip symlink"])
def test_archive_links_are_refused(tmp_path, kind):
    archive = tmp_path / "a"
    if kind == "zip symlink":
        member = zipfile.ZipInfo("link")
        member.external_attr = 0o120777 << 16
        with zipfile.ZipFile(archive, "w") as content:
            content.writestr(member, "/etc/passwd")
    else:
        member = tarfile.TarInfo("link")
        member.type = {"symlink": tarfile.SYMTYPE, "hard link": tarfile.LNKTYPE, "device": tarfile.CHRTYPE}[kind]
        member.linkname = "/etc/passwd"
        with tarfile.open(archive, "w") as content:
            content.addfile(member)
    with pytest.raises(UserError, match="a link or a device"):
        archives.unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out" / "link").exists()


@pytest.fixture
def server(tmp_path):
    """A web server of the folder `served`; yields (its address, the folder)."""
    served = tmp_path / "served"
    served.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(served))

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", served
        running.shutdown()
        thread.join()


def test_download(cifar10, server, tmp_path, monkeypatch):
    address, served = server
    archive = served / "cifar-10-python.tar.gz"
    tar_of(archive, cifar10[0] / "cifar-10-batches-py")
    right = md5(archive)
    monkeypatch.setattr(Cifar10, "url", f"{address}/{archive.name}")
    monkeypatch.setattr(Cifar10, "url_md5", "0" * 32)
    monkeypatch.setattr(Cifar10, "archives", (right,))
    with pytest.raises(UserError, match="damaged|cannot download"):  # the wrong checksum
        data.prepare("cifar10", tmp_path / "root")
    monkeypatch.setattr(Cifar10, "url_md5", right)
    loaded = data.prepare("cifar10", tmp_path / "root")  # gets it again over the wrong one
    assert torch.equal(loaded.train.images, cifar10[1][:50])
    archive.unlink()
    assert data.prepare("cifar10", tmp_path / "root").fingerprint == loaded.fingerprint  # asks for nothing
    (tmp_path / "root" / "downloads" / archive.name).unlink()
    (tmp_path / "root" / "cifar10.json").unlink()
    with pytest.raises(UserError, match=r"cannot download .*run: python -m benchmark data prepare cifar10"):
        data.prepare("cifar10", tmp_path / "root")
    monkeypatch.setattr(_torchvision, "load", lambda module: None)
    with pytest.raises(UserError, match=r"cannot download .*\(torchvision, which downloads, does not load here\)"):
        data.prepare("cifar10", tmp_path / "root")


# ---------------------------------------------------------------- TinyImageNet


def picture(path, size, colour) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), colour).save(path)


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Two classes; the training pictures' brightness tells class and number; files are not made in order."""
    monkeypatch.setattr(TinyImageNet, "classes", 2)
    folder = tmp_path / "tiny-imagenet-200"
    for c, name in ((1, "n02"), (0, "n01")):
        for i in (2, 0, 1):
            picture(folder / "train" / name / "images" / f"{name}_{i}.JPEG", 64, (100 * c + 20 * i,) * 3)
        (folder / "train" / name / f"{name}_boxes.txt").write_text("")
    lines = []
    for i, name in enumerate(["n02", "n01", "n02"]):
        picture(folder / "val" / "images" / f"val_{i}.JPEG", 64, (50 * i,) * 3)
        lines.append(f"val_{i}.JPEG\t{name}\t0\t0\t62\t62")
    (folder / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    (folder / "words.txt").write_text("n01\tgoldfish, Carassius auratus\nn99\tother\n")
    return folder


def test_tinyimagenet_is_in_class_order(tiny, tmp_path):
    loaded = data.prepare("tinyimagenet", tmp_path / "root", tiny)
    assert loaded.train.labels.tolist() == [0, 0, 0, 1, 1, 1] and loaded.test.labels.tolist() == [0, 1, 1]
    assert loaded.train.images[:, 0, 0, 0].tolist() == [0, 20, 40, 100, 120, 140]
    assert loaded.test.images[:, 0, 0, 0].tolist() == [50, 0, 100]
    assert loaded.class_names == ["goldfish", "n02"] and not loaded.crop
    note = data.departures("tinyimagenet", tmp_path / "root")
    assert note == [Departure("data.train", 6, 100_000), Departure("data.test", 3, 10_000)]


def test_tinyimagenet_zip_and_grey_pictures(tiny, tmp_path, monkeypatch):
    Image.new("L", (64, 64), 77).save(tiny / "train" / "n01" / "images" / "n01_0.JPEG")
    archive = tmp_path / "tiny-imagenet-200.zip"
    with zipfile.ZipFile(archive, "w") as content:
        for path in tiny.rglob("*"):
            content.write(path, path.relative_to(tmp_path))
    monkeypatch.setattr(TinyImageNet, "archives", (md5(archive),))
    monkeypatch.setattr(TinyImageNet, "nominal", (6, 3))
    loaded = data.prepare("tinyimagenet", tmp_path / "root", archive)
    assert loaded.train.images[0, :, 5, 5].tolist() == [77, 77, 77]
    assert data.departures("tinyimagenet", tmp_path / "root") == []


def test_tinyimagenet_bad_files_are_named(tiny, tmp_path):
    def fails(match):
        with pytest.raises(UserError, match=match):
            data.prepare("tinyimagenet", tmp_path / "root", tiny)

    corrupt = tiny / "train" / "n01" / "images" / "n01_1.JPEG"
    good = corrupt.read_bytes()
    corrupt.write_bytes(good[: len(good) // 2])
    fails("n01_1.JPEG cannot be read")
    corrupt.write_bytes(b"no picture")
    fails("n01_1.JPEG cannot be read")
    picture(corrupt, 32, (0, 0, 0))
    fails("n01_1.JPEG is 32 x 32 pixels, not 64 x 64")
    corrupt.write_bytes(good)
    annotations = tiny / "val" / "val_annotations.txt"
    lines = annotations.read_text()
    annotations.write_text(lines + "val_9.JPEG\tn01\t0\n")
    fails("val_9.JPEG cannot be read")
    for bad in ("val_0.JPEG n01", "val_0.JPEG\tn77", "../../x.JPEG\tn01"):
        annotations.write_text(lines + bad + "\n")
        fails("val_annotations.txt, line 4")
    annotations.unlink()
    fails("val_annotations.txt is missing")


def png_of_16_bits(path: Path, channels: int) -> None:
    """Pillow writes none in colour: the chunks by hand."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", 64, 64, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = (b"\0" + struct.pack(">H", 30_000) * 64 * channels) * 64
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_pictures_of_16_bits_are_refused(tmp_path, channels):
    png_of_16_bits(tmp_path / "x.png", channels)
    with pytest.raises(UserError, match="x.png has 16 bits a channel; save it as 8-bit"):
        files.read_pictures([tmp_path / "x.png"], 64, resize=False)


def _transparent(mode: str, alpha: int) -> Image.Image:
    """White, one pixel of it of that alpha."""
    whole = Image.new("RGBA", (64, 64), "white")
    whole.putpixel((3, 3), (255, 255, 255, alpha))
    if mode == "P":
        picture = Image.new("P", (64, 64), 0)
        picture.putpalette([255] * 6)
        picture.putpixel((3, 3), 1)
        picture.info["transparency"] = bytes([255, alpha])
        return picture
    return whole.convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_not_dropped(tmp_path, mode):
    _transparent(mode, 0).save(tmp_path / "x.png")
    with pytest.raises(UserError, match="x.png is transparent in places; save it as"):
        files.read_pictures([tmp_path / "x.png"], 64, resize=False)
    _transparent(mode, 255).save(tmp_path / "x.png")  # a channel that says nothing
    assert files.read_pictures([tmp_path / "x.png"], 64, resize=False).min() == 255


def test_a_transparent_colour(tmp_path):
    Image.new("RGB", (64, 64), (1, 2, 3)).save(tmp_path / "x.png", transparency=(1, 2, 3))
    with pytest.raises(UserError, match="transparent in places"):
        files.read_pictures([tmp_path / "x.png"], 64, resize=False)


@pytest.mark.parametrize(("mode", "told"), [("CMYK", "colours of the kind CMYK"), ("frames", "has 2 frames")])
def test_what_8_bit_rgb_cannot_hold_is_refused(tmp_path, mode, told):
    if mode == "frames":
        more = [Image.new("L", (64, 64), 200)]
        Image.new("L", (64, 64), 9).save(tmp_path / "x.jpg", "GIF", save_all=True, append_images=more)
    else:
        Image.new(mode, (64, 64)).save(tmp_path / "x.jpg", "JPEG")
    with pytest.raises(UserError, match=told):
        files.read_pictures([tmp_path / "x.jpg"], 64, resize=False)


@pytest.mark.parametrize(("mode", "value", "expected"), [("1", 1, 255), ("L", 77, 77), ("P", 0, 0), ("RGB", 0, 0)])
def test_what_8_bit_rgb_holds_is_taken(tmp_path, mode, value, expected):
    Image.new(mode, (64, 64), value).save(tmp_path / "x.png")
    assert files.read_pictures([tmp_path / "x.png"], 64, resize=False).unique().tolist() == [expected]


def test_tinyimagenet_class_count(tiny, tmp_path):
    (tiny / "train" / "n03" / "images").mkdir(parents=True)
    with pytest.raises(UserError, match="has 3 class folders, not 2"):
        data.prepare("tinyimagenet", tmp_path / "root", tiny)


# ---------------------------------------------------------------- FaceScrub


def test_pictures_are_resized_between_pixel_centres_without_antialiasing():
    """Against the formula: of a large picture only the four pixels around a point count."""
    pixels = np.random.default_rng(0).integers(0, 256, (31, 17, 3), dtype=np.uint8)
    for size in (5, 48):
        rows, columns = ((np.arange(size) + 0.5) * side / size - 0.5 for side in (31, 17))
        expected = np.zeros((size, size, 3))
        for place in np.ndindex(size, size):
            y, x = max(rows[place[0]], 0.0), max(columns[place[1]], 0.0)
            top, left = int(y), int(x)
            for dy, dx in np.ndindex(2, 2):
                weight = abs(1 - dy - (y - top)) * abs(1 - dx - (x - left))
                expected[place] += weight * pixels[min(top + dy, 30), min(left + dx, 16)]
        found = files.resized(pixels, size)
        assert found.dtype == np.uint8 and np.abs(found - expected).max() <= 0.5 + 1e-6


def test_facescrub_with_its_own_split(tmp_path):
    source = tmp_path / "faces"
    for person, grey in (("B", 100), ("A", 50)):
        for i in range(3):
            picture(source / "train" / person / f"{i}.png", 96, (grey + i,) * 3)
        picture(source / "validate" / person / "0.png", 40, (grey + 9,) * 3)
    loaded = data.prepare("facescrub", tmp_path / "root", source)
    assert loaded.class_names == ["A", "B"] and loaded.image_size == 48 and loaded.classes == 2
    assert loaded.train.images[:, 0, 9, 9].tolist() == [50, 51, 52, 100, 101, 102]
    assert loaded.test.images[:, 0, 9, 9].tolist() == [59, 109] and loaded.test.labels.tolist() == [0, 1]
    assert not loaded.publishable
    picture(source / "validate" / "C" / "0.png", 40, (0, 0, 0))
    with pytest.raises(UserError, match="C has no counterpart"):
        data.prepare("facescrub", tmp_path / "root", source)


def test_facescrub_single_level_is_split_by_name(tmp_path):
    expected = {False: [], True: []}
    for person in ("A", "B"):
        for i in range(40):
            picture(tmp_path / "faces" / person / f"{i:02}.png", 48, (i, i, i))
            last = int(hashlib.sha256(f"{person}/{i:02}.png".encode()).hexdigest(), 16) % 10
            expected[last == 0].append((int(person == "B"), i))
    loaded = data.prepare("facescrub", tmp_path / "root", tmp_path / "faces")
    for part, is_test in ((loaded.train, False), (loaded.test, True)):
        found = list(zip(part.labels.tolist(), part.images[:, 0, 0, 0].tolist(), strict=True))
        assert found == expected[is_test]
    assert 1 <= len(loaded.test) <= 16


def test_facescrub_arrays(tmp_path):
    source = tmp_path / "faces.npz"
    pixels = RNG.integers(0, 256, (60, 64, 64, 3), dtype=np.uint8)
    np.savez_compressed(source, images=pixels, labels=np.arange(60) % 3, people=np.array(["a", "b", "c"]))
    loaded = data.prepare("facescrub", tmp_path / "root", source)
    test = [i for i in range(60) if int(hashlib.sha256(pixels[i].tobytes()).hexdigest(), 16) % 10 == 0]
    assert loaded.test.labels.tolist() == [i % 3 for i in test] and len(loaded.train) == 60 - len(test)
    resized = torch.from_numpy(files.resized(pixels[test[0]], 48))
    assert torch.equal(loaded.test.images[0], resized.permute(2, 0, 1))
    assert Departure("data.classes", 3, 530) in data.departures("facescrub", tmp_path / "root")
    np.savez(source, images=pixels, labels=np.full(60, 7), people=np.array(["a", "b", "c"]))
    with pytest.raises(UserError, match=r"label outside 0\.\.2"):
        data.prepare("facescrub", tmp_path / "root", source)
    np.savez(source, images=pixels)
    with pytest.raises(UserError, match="is not an .npz with images, labels and people"):
        data.prepare("facescrub", tmp_path / "root", source)
    for content in (b"nothing", b"PK\x03\x04 and then nothing"):
        source.write_bytes(content)
        with pytest.raises(UserError, match="is not an .npz"):
            data.prepare("facescrub", tmp_path / "root", source)


def caption_of(suite: str, dataset: str, root: Path) -> str:
    """What a caption of the suite's tables lists."""
    cells = expand(MatrixFile(DEFAULT), suite, root, {"dataset": [dataset], "defense": ["bottleneck"]})
    return "; ".join(told(departure for cell in cells for departure in cell.departures))


def test_names_are_one_whatever_their_spelling(tmp_path):
    """On one disk an accent is part of a letter, on another a character behind it: order and split are the same."""
    made = []
    for form in ("NFC", "NFD"):
        source, names_ = tmp_path / form, ["Zoe", "Zo\xeb", "Zz", "Angström", "\xc5ngström", "B"]
        for person in names_:
            for i in range(20):
                name = unicodedata.normalize(form, f"{i} Zo\xeb.png")
                picture(source / unicodedata.normalize(form, person) / name, 48, (i, len(person), names_.index(person)))
        made.append(data.prepare("facescrub", tmp_path / f"root {form}", source))
    assert made[0].fingerprint == made[1].fingerprint and made[0].class_names == made[1].class_names
    assert made[0].class_names == sorted(names_)
    split = tmp_path / "split"
    picture(split / "train" / unicodedata.normalize("NFC", "Zo\xeb") / "0.png", 48, (0, 0, 0))
    picture(split / "val" / unicodedata.normalize("NFD", "Zo\xeb") / "0.png", 48, (0, 0, 0))
    assert data.prepare("facescrub", tmp_path / "root", split).class_names == ["Zo\xeb"]
    picture(split / "train" / unicodedata.normalize("NFD", "Zo\xeb") / "0.png", 48, (0, 0, 0))
    with pytest.raises(UserError, match="are two spellings of one name"):
        data.prepare("facescrub", tmp_path / "root", split)


@pytest.mark.parametrize("part", [b"Zo\xeb/0.png", b"Zoe/\xeb.png"])
def test_a_name_that_is_no_text(tmp_path, part):
    """Latin-1 from an old disk."""
    picture(tmp_path / "faces" / "Zoe" / "1.png", 48, (0, 0, 0))
    picture(tmp_path / "faces" / os.fsdecode(part), 48, (0, 0, 0))
    outcome = command_line("data", "prepare", "facescrub", "--from", tmp_path / "faces", "--data", tmp_path / "root")
    assert outcome.code == 2 and "\\xeb" in outcome.err and "is not UTF-8; rename it" in outcome.err, outcome
    assert outcome.err.count("\n") == 1


def test_a_source_whose_own_name_is_no_text(tmp_path):
    source = tmp_path / os.fsdecode(b"f\xeb")
    for i in range(20):
        picture(source / "Zoe" / f"{i}.png", 48, (i, 0, 0))
    outcome = command_line("data", "prepare", "facescrub", "--from", source, "--data", tmp_path / "root")
    assert outcome.code == 0, outcome
    outcome = command_line("data", "prepare", "cifar10", "--from", source, "--data", tmp_path / "root")
    assert outcome.code == 2 and "f\\xeb holds neither" in outcome.err, outcome


def test_all_bad_pictures_are_told_at_once(tiny, tmp_path, monkeypatch):
    bad = [tiny / "train" / "n01" / "images" / "n01_1.JPEG", tiny / "train" / "n02" / "images" / "n02_0.JPEG"]
    bad += [tiny / "val" / "images" / "val_2.JPEG"]
    bad[0].write_bytes(b"no picture")
    picture(bad[1], 32, (0, 0, 0))
    bad[2].unlink()
    with pytest.raises(UserError, match="3 of 9 pictures cannot be used: ") as caught:
        data.prepare("tinyimagenet", tmp_path / "root", tiny)
    assert all(str(path) in str(caught.value) for path in bad)
    monkeypatch.setattr(files, "_MOST_TOLD", 2)
    with pytest.raises(UserError, match="; and 1 more$"):
        data.prepare("tinyimagenet", tmp_path / "root", tiny)
    for name in ("n01", "n02"):
        for path in (tiny / "train" / name / "images").iterdir():
            path.unlink()
    with pytest.raises(UserError, match="2 of 2 class folders cannot be used: .*n01.* holds no pictures; .*n02"):
        data.prepare("tinyimagenet", tmp_path / "root", tiny)


def test_hidden_files_and_pipes(tiny, tmp_path):
    """What macOS leaves beside files on foreign disks is passed over; a pipe is told, and nobody waits for it."""
    good = data.prepare("tinyimagenet", tmp_path / "good", tiny).fingerprint
    for folder in (tiny / "train", tiny / "train" / "n01" / "images"):
        (folder / "._n01_0.JPEG").write_bytes(b"\0\5\x16\7")
        (folder / ".DS_Store").write_bytes(b"")
    (tiny / "train" / ".hidden").mkdir()
    assert data.prepare("tinyimagenet", tmp_path / "root", tiny).fingerprint == good
    os.mkfifo(tiny / "train" / "n01" / "images" / "z.JPEG")
    with pytest.raises(UserError, match="z.JPEG is no file; remove it"):
        data.prepare("tinyimagenet", tmp_path / "root", tiny)


def faces(folder: Path, layout: str, people: dict[str, int]) -> Path:
    """A copy of FaceScrub in that layout: person -> number of pictures of each part."""
    if layout == "arrays":
        labels = np.repeat(np.arange(len(people)), list(people.values()))
        pixels = np.arange(len(labels), dtype=np.uint8)[:, None, None, None].repeat(48, 1).repeat(48, 2).repeat(3, 3)
        np.savez(folder.with_suffix(".npz"), images=pixels, labels=labels, people=np.array(list(people)))
        return folder.with_suffix(".npz")
    for person, count in people.items():
        for part in ("train", "validate") if layout == "split" else ("",):
            (folder / part / person).mkdir(parents=True)
            for i in range(count):
                picture(folder / part / person / f"{i}.png", 48, (i, i, i))
    return folder


@pytest.mark.parametrize("layout", ["one folder", "split", "arrays"])
def test_people_without_training_pictures_are_refused(tmp_path, layout):
    """With an empty folder there would be another class, hence another network, and the same fingerprint."""
    whole = data.prepare("facescrub", tmp_path / "root", faces(tmp_path / "whole", layout, {"A": 30, "B": 30}))
    assert whole.classes == 2
    source = faces(tmp_path / "more", layout, {"A": 30, "B": 30, "C": 0, "D": 0})
    with pytest.raises(UserError, match=f"facescrub in {source} has 2 of 4 classes without training images: C, D; rem"):
        data.prepare("facescrub", tmp_path / "root", source)
    assert data.load("facescrub", tmp_path / "root").fingerprint == whole.fingerprint  # what was prepared stays


def test_a_class_of_a_plug_in_without_training_images_is_refused(tmp_path, monkeypatch):
    part = data.ImageSet(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.tensor([0, 2]))
    monkeypatch.setattr(Cifar10, "read", lambda self, source: data.Parts(part, part, ["a", "b", "c"]))
    with pytest.raises(UserError, match="1 of 3 classes without training images: b; remove"):
        data.prepare("cifar10", tmp_path / "root", tmp_path)


def test_people_without_test_pictures_are_told(tmp_path, monkeypatch):
    """The counts of images and classes may be right."""
    source = faces(tmp_path / "faces", "split", {"A": 3, "B": 3})
    for path in (source / "validate" / "B").iterdir():
        path.unlink()
    monkeypatch.setattr(FaceScrub, "classes", 2)
    monkeypatch.setattr(FaceScrub, "nominal", (6, 3))
    data.prepare("facescrub", tmp_path / "root", source)
    told = "1 of 2 classes without test images"
    assert data.departures("facescrub", tmp_path / "root") == [Departure("data.source", told, "whole")]
    assert told in caption_of("facescrub", "facescrub", tmp_path / "root")
    monkeypatch.setattr(FaceScrub, "nominal", (39_969, 3))
    assert "data.train 6 (published 39969)" in caption_of("facescrub", "facescrub", tmp_path / "root")
    row = next(row for row in data.describe(tmp_path / "root") if row["name"] == "facescrub")
    assert f"data.source {told} (published whole)" in row["note"]


def test_a_class_without_validation_lines_is_told(tiny, tmp_path, monkeypatch):
    annotations = tiny / "val" / "val_annotations.txt"
    annotations.write_text(annotations.read_text().replace("n01", "n02"))
    monkeypatch.setattr(TinyImageNet, "nominal", (6, 3))
    data.prepare("tinyimagenet", tmp_path / "root", tiny)
    assert caption_of("tinyimagenet", "tinyimagenet", tmp_path / "root") == (
        "data.source 1 of 2 classes without test images (published whole)"
    )


def test_a_whole_data_set_has_nothing_to_tell(tmp_path):
    data.load("photos", tmp_path)
    assert data.departures("photos", tmp_path) == []


def test_facescrub_is_not_downloaded(tmp_path):
    with pytest.raises(UserError, match="facescrub cannot be downloaded.*data prepare facescrub --from PATH"):
        data.prepare("facescrub", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no folders of pictures"):
        data.prepare("facescrub", tmp_path, tmp_path / "empty")


# ---------------------------------------------------------------- the store


def test_names_and_unknown_name(tmp_path):
    assert data.names() == ["cifar10", "cifar100", "facescrub", "photos", "tinyimagenet"]
    for call in (data.load, data.prepare, data.fingerprint):
        with pytest.raises(UserError, match="unknown data set 'mnist'; known: cifar10, cifar100, facescrub"):
            call("mnist", tmp_path)


def test_missing_data_tells_the_command(tmp_path):
    with pytest.raises(UserError) as caught:
        data.load("cifar10", tmp_path)
    assert str(caught.value).endswith("run: python -m benchmark data prepare cifar10 [--from PATH]")
    assert data.fingerprint("facescrub", tmp_path) is None
    assert data.fingerprint("cifar10", tmp_path) == data.DATASETS.get("cifar10").official
    with pytest.raises(UserError, match="there is no .*nowhere to prepare cifar10 from"):
        data.prepare("cifar10", tmp_path, tmp_path / "nowhere")


@pytest.mark.parametrize("where", ["first byte", "last byte", "cut", "empty"])
def test_damaged_tensors_are_detected(cifar10, tmp_path, where):
    root = tmp_path / "root"
    before = data.prepare("cifar10", root, cifar10[0])
    path = root / "cifar10.safetensors"
    content = bytearray(path.read_bytes())
    if where.endswith("byte"):
        content[0 if where == "first byte" else -1] ^= 1
    path.write_bytes({"cut": content[:-10], "empty": b""}.get(where, content))
    with pytest.raises(UserError, match="cifar10.safetensors is damaged.*python -m benchmark data prepare cifar10"):
        data.load("cifar10", root)
    assert data.prepare("cifar10", root, cifar10[0]).fingerprint == before.fingerprint


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"sha256": 1}', "\xff"])
def test_damaged_json_is_detected(cifar10, tmp_path, content):
    root = tmp_path / "root"
    data.prepare("cifar10", root, cifar10[0])
    (root / "cifar10.json").write_bytes(content.encode("latin1"))
    for call in (data.load, data.fingerprint):
        with pytest.raises(UserError, match="cifar10.json is damaged"):
            call("cifar10", root)
    row = next(row for row in data.describe(root) if row["name"] == "cifar10")
    assert not row["prepared"] and row["note"] == "damaged"


def test_describe(cifar10, tmp_path):
    root = tmp_path / "root"
    data.prepare("cifar10", root, cifar10[0])
    rows = {row["name"]: row for row in data.describe(root)}
    assert list(rows) == data.names()
    assert rows["cifar10"]["prepared"] and (rows["cifar10"]["train"], rows["cifar10"]["test"]) == (50, 10)
    assert rows["cifar10"]["bytes"] == (root / "cifar10.safetensors").stat().st_size
    assert not rows["tinyimagenet"]["prepared"] and rows["tinyimagenet"]["bytes"] is None
    assert not rows["facescrub"]["publishable"]


def test_root_that_is_a_file(cifar10, tmp_path):
    (tmp_path / "root").write_text("")
    with pytest.raises(UserError, match="cannot make the data folder"):
        data.prepare("cifar10", tmp_path / "root", cifar10[0])


def test_fingerprint_tells_every_change(cifar10, tmp_path):
    loaded = data.prepare("cifar10", tmp_path / "root", cifar10[0])
    again = data.prepare("cifar10", tmp_path / "other", cifar10[0] / "bin")
    assert again.fingerprint == loaded.fingerprint and len(loaded.fingerprint) == 64
    from benchmark.data.tensors import fingerprint_of

    for field in ("images", "labels"):
        changed = getattr(loaded.test, field).clone()
        changed.view(-1)[-1] += 1
        test = dataclasses.replace(loaded.test, **{field: changed})
        assert fingerprint_of(loaded.train, test) != loaded.fingerprint
    assert fingerprint_of(loaded.test, loaded.train) != loaded.fingerprint


# ---------------------------------------------------------------- tensors


def made_up(labels: list[int]) -> data.DataSet:
    images = torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 4, 4).contiguous()
    part = data.ImageSet(images, torch.tensor(labels))
    third = (0.5, 0.4, 0.3)
    return data.DataSet("x", 3, third, third, False, part, part, ["a", "b", "c"], "f" * 64, True)


def test_subset_takes_the_first_of_each_class_in_stored_order():
    whole = made_up([2, 2, 2, 0, 1, 0, 0, 1, 2])

    def chosen(count):
        return data.subset(whole, count, None).train.images[:, 0, 0, 0].tolist()

    assert chosen(3) == [0, 3, 4]
    assert chosen(6) == [0, 1, 3, 4, 5, 7]
    assert chosen(7) == [0, 1, 3, 4, 5, 6, 7]  # the third of class 0 comes before the third of class 2
    assert chosen(9) == chosen(None) == list(range(9))
    small = data.subset(whole, 4, 2)
    assert small.fingerprint == whole.fingerprint and (len(small.train), len(small.test)) == (4, 2)
    assert small.train.labels.tolist() == [2, 0, 1, 0]
    for bad in (0, -1, 10):
        with pytest.raises(UserError, match="choose 1 to 9"):
            data.subset(whole, bad, None)


def test_subset_is_balanced_and_deterministic():
    labels = torch.randint(0, 7, (2000,), generator=torch.Generator().manual_seed(0)).tolist()
    images = torch.zeros(2000, 3, 1, 1, dtype=torch.uint8)
    whole = dataclasses.replace(made_up([0]), train=data.ImageSet(images, torch.tensor(labels)))
    counts = data.subset(whole, 700, None).train.labels.bincount()
    assert counts.tolist() == [100] * 7
    uneven = data.subset(whole, 703, None).train.labels
    assert uneven.bincount().tolist() == [101] * 3 + [100] * 4
    assert torch.equal(uneven, data.subset(whole, 703, None).train.labels)


def test_scaling():
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    x01 = data.to_unit(images)
    assert torch.allclose(x01.flatten(), torch.tensor([0.0, 0.2, 1.0])) and data.to_unit(x01) is x01
    with torch.inference_mode():
        data.normalise(x01, (0.5, 0.1, 0.0), (0.5, 0.1, 2.0))
    x01.requires_grad_()  # what was kept in inference mode must do for training too
    result = data.normalise(x01, (0.5, 0.1, 0.0), (0.5, 0.1, 2.0))
    assert torch.allclose(result.flatten(), torch.tensor([-1.0, 1.0, 0.5]))
    result.sum().backward()
    assert torch.allclose(x01.grad.flatten(), torch.tensor([2.0, 10.0, 0.5]))


def test_moving_keeps_everything_else():
    whole = made_up([0, 1, 2])
    assert whole.to("meta").train.images.device.type == "meta" and whole.to("meta").mean == whole.mean
    assert whole.train.take(torch.tensor([2, 0])).labels.tolist() == [2, 0] and whole.image_size == 4


def test_constants_of_the_paper():
    assert (FaceScrub.mean, FaceScrub.std) == ((0.5708, 0.5905, 0.4272), (0.2058, 0.2275, 0.2098))
    assert [data.DATASETS.get(n).image_size for n in ("cifar10", "tinyimagenet", "facescrub")] == [32, 64, 48]
    assert [data.DATASETS.get(n).crop for n in ("cifar100", "tinyimagenet", "facescrub")] == [
        True,
        False,
        False,
    ]


def test_a_plug_ins_promises_are_checked(tmp_path, monkeypatch):
    parts = data.Parts(*(data.ImageSet(torch.zeros(2, 3, 32, 32), torch.zeros(2).long()),) * 2, ["a"])
    monkeypatch.setattr(Cifar10, "read", lambda self, source: parts)
    with pytest.raises(UserError, match=r"training images of cifar10 are not uint8 \[N, 3, 32, 32\]"):
        data.prepare("cifar10", tmp_path / "root", tmp_path)


def test_results_are_found_without_the_data(cifar10, tmp_path, monkeypatch):
    """What was run with the official data prepared has the same keys where it is not, and so can be reported."""
    from benchmark.matrix.expand import expand, jobs
    from benchmark.matrix.load import MatrixFile
    from benchmark.store.store import Store

    monkeypatch.setattr(Cifar10, "official", data.prepare("cifar10", tmp_path / "root", cifar10[0]).fingerprint)
    store = Store(tmp_path / "results")
    for job in jobs(expand(MatrixFile(), "cifar10", tmp_path / "root")):
        folder = store.path(job)
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text('{"status": "done", "reason": "", "values": {}}')
    found = jobs(expand(MatrixFile(), "cifar10", tmp_path / "nothing"))
    assert len(found) > 50 and all(store.done(job) for job in found)
    monkeypatch.setattr(Cifar10, "official", "0" * 64)  # other data than the official ones are other results
    assert not any(store.done(job) for job in jobs(expand(MatrixFile(), "cifar10", tmp_path / "nothing")))
