"""Small files that ask for much memory, disk or time: refused in one sentence before they have it."""

import gzip
import io
import resource
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml

from benchmark.data import archives
from benchmark.data.facescrub import FaceScrub
from benchmark.errors import UserError
from benchmark.matrix.expand import expand
from benchmark.matrix.load import DEFAULT, MatrixFile, parse_set
from benchmark.matrix.source import MOST_TEXT
from tests.support.command_line import call

MIB = 1 << 20


def refused(text: str, read, *words) -> None:
    """The reader says so in a UserError, and Python's own objects stay small meanwhile."""
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=text) as caught:
            read(*words)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 * MIB, f"{peak / MIB:.0f} MiB"
    assert len(str(caught.value)) < 1000 and "\n" not in str(caught.value)


# -- archives


def header(kind: bytes, size: int) -> bytes:
    """A tar header that says that `size` bytes of its kind follow."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def zeros(archive: Path, before: bytes, size: int) -> Path:
    """A .tar.gz of `before` and `size` bytes of nothing, made without having them at once."""
    with gzip.open(archive, "wb", compresslevel=1) as file:
        file.write(before)
        for _ in range(size // MIB):
            file.write(bytes(MIB))
    return archive


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_a_header_of_a_tar_is_no_place_for_gigabytes(tmp_path, kind):
    archive = zeros(tmp_path / "x.tar.gz", header(kind, 200 * MIB), 200 * MIB)
    assert archive.stat().st_size < MIB
    refused(f"has a header of {200 * MIB} bytes; do not use it", archives.unpack, archive, tmp_path / "out")


def test_many_headers_are_no_place_for_gigabytes(tmp_path):
    """Each as large as one may be, none followed by a file."""
    archive, size = tmp_path / "x.tar.gz", 1 << 16
    comment = b"%d comment=" % size
    record = comment + b"x" * (size - len(comment) - 1) + b"\n"
    one = header(tarfile.XHDTYPE, size) + record + tarfile.TarInfo("a").tobuf()
    with gzip.open(archive, "wb", compresslevel=1) as file:
        for _ in range(200 * MIB // len(one)):
            file.write(one)
    refused("unpacks to far more than its size", archives.unpack, archive, tmp_path / "out")


def test_many_members(tmp_path):
    archive = tmp_path / "x.tar.gz"
    with gzip.open(archive, "wb") as file:
        file.write(b"".join(tarfile.TarInfo(f"{number % 100}").tobuf() for number in range(11_000)) + bytes(1024))
    assert archive.stat().st_size < MIB
    refused("holds far more files than one of its size should", archives.unpack, archive, tmp_path / "out")


def test_a_place_deep_down(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("a/" * 500 + "x"), io.BytesIO())
    refused("lies too deep", archives.unpack, tmp_path / "x.tar", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_sparse_file(tmp_path):
    """It says that it is a terabyte of nothing."""
    info = tarfile.TarInfo("x")
    info.type = tarfile.GNUTYPE_SPARSE
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[483:495] = b"%011o\0" % (1 << 32)  # the size once unpacked
    block[148:156] = b"%06o\0 " % (sum(block[:148]) + sum(block[156:512]) + 8 * 32)
    (tmp_path / "x.tar").write_bytes(bytes(block) + bytes(1024))
    refused("a link or a device", archives.unpack, tmp_path / "x.tar", tmp_path / "out")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_packed_in_an_odd_way(tmp_path, method):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", method) as archive:
        archive.writestr("images.npy", bytes(100))
    refused("packed in a way that is not read here", archives.unpack, tmp_path / "x.zip", tmp_path / "out")
    refused("packed in a way that is not read here", FaceScrub().read, tmp_path / "x.zip")


def test_an_array_that_says_it_is_large(tmp_path):
    """The header of an array promises 8 TiB; the file has 100 bytes of it."""
    wanted = {"descr": "|u1", "fortran_order": False, "shape": (1 << 28, 128, 128, 3)}
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, wanted)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        for name in ("images", "labels", "people"):
            archive.writestr(f"{name}.npy", content.getvalue() + bytes(100))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match="is not an .npz with images"):
        FaceScrub().read(tmp_path / "x.npz")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024  # KiB


def test_pictures_of_a_pixel(tmp_path):
    """Each of them becomes one of 48 x 48."""
    count = 300_000
    arrays = {"images": np.zeros((count, 1, 1, 3), np.uint8), "labels": np.zeros(count, np.uint8)}
    np.savez_compressed(tmp_path / "x.npz", people=np.array(["a"]), **arrays)
    refused("holds 300000 pictures; at most 176556 are read", FaceScrub().read, tmp_path / "x.npz")


def test_import_refuses_them_as_well(tmp_path):
    zeros(tmp_path / "x.tar.gz", header(tarfile.GNUTYPE_LONGNAME, 200 * MIB), 200 * MIB)
    outcome = call("store", "import", tmp_path / "x.tar.gz", "--results", tmp_path / "results")
    assert outcome.code == 2 and "has a header of" in outcome.err and outcome.err.count("\n") == 1, outcome
    assert list((tmp_path / "results").rglob("*")) == [tmp_path / "results" / ".work"]


# -- YAML


def nested(levels: int, leaf: str = "1") -> str:
    """The name of each level stands nine times in the next: 9 ** levels values in some hundred characters."""
    lines = [f"a0: &a0 {leaf}"]
    lines += [f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]" for n in range(levels)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    "text",
    [
        nested(9),
        nested(4, "x" * 10_000),  # few values, much text
        "a: &a {b: 1}\n" + "".join(f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 9)}]}}\n" for n in range(1, 9)),
        "? &k [1]\n: &b 2\n? [[*k, *k], [*k, *k]]\n: 3\n",  # keys are walked as well
    ],
    ids=["values", "text", "merge", "keys"],
)
@pytest.mark.parametrize("option", ["--matrix", "--set"])
def test_aliases_in_aliases(tmp_path, text, option):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    outcome = call("status", "smoke", option, path if option == "--matrix" else f"@{path}", "--data", tmp_path)
    assert outcome.code == 2 and outcome.err.count("\n") == 1 and len(outcome.err) < 500, outcome
    assert str(path) in outcome.err


@pytest.mark.parametrize("value", [nested(9), "[" * 3000, "&a [*a]", "x" * (MOST_TEXT + 1)])
def test_a_value_on_the_command_line(value):
    with pytest.raises(UserError, match="--set train.epochs="):
        parse_set([f"train.epochs={value}"])


def test_a_file_without_an_end(tmp_path):
    (tmp_path / "x.yaml").write_text("#" * (MOST_TEXT + 1))
    refused(f"longer than {MOST_TEXT} characters", MatrixFile, tmp_path / "x.yaml")
    refused(f"longer than {MOST_TEXT} characters", MatrixFile, Path("/dev/zero"))


def test_a_message_does_not_repeat_a_long_value(tmp_path):
    with pytest.raises(UserError) as caught:
        MatrixFile(DEFAULT).settings("photos", "dropout", "on", parse_set([f"train.epochs=[{'1, ' * 30_000}]"]))
    assert "epochs = [1, 1" in str(caught.value).partition("]: ")[2]
    assert len(str(caught.value).partition("]: ")[2]) < 500


def changed(tmp_path, change) -> MatrixFile:
    value = MatrixFile(DEFAULT).source.value
    change(value)
    (tmp_path / "matrix.yaml").write_text(yaml.safe_dump(value))
    return MatrixFile(tmp_path / "matrix.yaml")


def test_suites_that_include_each_other_again_and_again(tmp_path):
    """Thirty levels of three each: 3 ** 30 ways to the last, which is held once."""

    def change(value):
        value["suites"]["s0"] = {"efficiency": ["photos"]}
        value["suites"] |= {f"s{n}": {"include": [f"s{n - 1}"] * 3} for n in range(1, 31)}

    assert len(expand(changed(tmp_path, change), "s30", tmp_path)) == 2

    def deeper(value):
        value["suites"]["s0"] = {"efficiency": ["photos"]}
        value["suites"] |= {f"s{n}": {"include": [f"s{n - 1}"]} for n in range(1, 3001)}

    refused("nested too deep", expand, changed(tmp_path, deeper), "s3000", tmp_path)


def test_axes_that_multiply(tmp_path):
    def change(value):
        value["suites"]["cifar10"] |= {"seed": list(range(5000)), "cem": ["off", "on"]}

    with pytest.raises(UserError, match=r"the suite 'cifar10' has \d+ cells; at most 100000"):
        expand(changed(tmp_path, change), "cifar10", tmp_path)
