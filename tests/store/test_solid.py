"""A store with a link, a pipe or a device in it: named in one sentence, never opened, followed, packed or deleted."""

import os
import shutil
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmark.errors import UserError
from benchmark.store.lock import Locks
from benchmark.store.solid import Irregular
from benchmark.store.store import Store
from tests.support.command_line import call, copied, finished, place  # noqa: F401 (fixtures)

COMMANDS = (
    ("run",),
    ("status",),
    ("report",),
    ("gc", "--keep-suite", "smoke", "--yes"),
    ("export", "--weights"),
    ("verify",),
)


@pytest.fixture
def outside(tmp_path) -> Path:
    """The user's own folder, with things in it that look like those of a store."""
    folder = tmp_path / "outside"
    for name in ("precious", "replaced-train-0123456789ab-1", ".old-thing", "0123456789ab"):
        (folder / name).mkdir(parents=True)
        (folder / name / "log.txt").write_text("secret")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def ask(place, *words):  # noqa: F811
    """The outcome of one of COMMANDS."""
    name, *more = words
    if name in ("run", "status", "report"):
        return place.call(name, *more)
    if name == "export":
        return call("store", name, place.folder / "all.tar.gz", "--results", place.results, *more)
    given = ["--matrix", place.matrix, "--data", place.data] if name == "gc" else []
    return call("store", name, "--results", place.results, *given, *more)


def everything_refuses(place, named: Path, commands=COMMANDS):  # noqa: F811
    for words in commands:
        outcome = ask(place, *words)
        said = outcome.err if words[0] != "verify" else outcome.out + outcome.err
        assert outcome.code in (1, 2) and str(named) in said and "Traceback" not in said, (words, outcome)
        assert "real folders and regular files alone" in said, (words, said)
    assert not (place.folder / "all.tar.gz").exists()


def job_folder(place) -> Path:  # noqa: F811
    return sorted(place.results.glob("photos/*/decoder-infer-*"))[0]


def test_a_link_in_the_place_of_work(copied, outside):  # noqa: F811
    before = contents(outside)
    shutil.rmtree(copied.results / ".work")
    (copied.results / ".work").symlink_to(outside)
    everything_refuses(copied, copied.results / ".work")
    assert contents(outside) == before and all(path.is_dir() for path in outside.iterdir())


@pytest.mark.parametrize("level", [0, 1, 2], ids=["data set", "row", "job"])
def test_a_link_in_the_place_of_a_folder(copied, outside, level):  # noqa: F811
    folder = [job_folder(copied), *job_folder(copied).parents][2 - level]
    moved = outside / "moved"
    shutil.move(folder, moved)
    before = contents(outside)
    folder.symlink_to(moved)
    everything_refuses(copied, folder)
    assert contents(outside) == before and folder.is_symlink()


@pytest.mark.parametrize("name", ["log.txt", "history.csv", "metrics.json", "SHA256SUMS", "per_image.safetensors"])
def test_a_link_in_the_place_of_a_file(copied, outside, name):  # noqa: F811
    folder = job_folder(copied)
    (folder / "SHA256SUMS").unlink()
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(outside / "precious" / "log.txt")
    everything_refuses(copied, folder / name)
    assert (outside / "precious" / "log.txt").read_text() == "secret"


def test_a_dangling_link(copied):  # noqa: F811
    (job_folder(copied) / "log.txt").unlink()
    (job_folder(copied) / "log.txt").symlink_to("nowhere")
    everything_refuses(copied, job_folder(copied) / "log.txt")


@pytest.mark.parametrize("name", ["history.csv", "pictures.json", "job.json", "provenance.json"])
def test_a_pipe_in_the_place_of_a_file(copied, name):  # noqa: F811
    path = job_folder(copied) / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    everything_refuses(copied, path)  # and none of them waits for somebody to write into it


@pytest.mark.skipif(os.geteuid() != 0, reason="making a device needs root")
def test_a_device_in_the_place_of_a_file(copied):  # noqa: F811
    path = job_folder(copied) / "history.csv"
    path.unlink()
    try:
        os.mknod(path, 0o020666, os.makedev(1, 5))  # /dev/zero, which never ends
    except PermissionError:
        pytest.skip("this container lets nobody make devices")
    everything_refuses(copied, path)


def test_a_link_in_the_place_of_a_job_under_way(copied, outside):  # noqa: F811
    """A taker would move log.txt and the saved state out of the older holder's folder into its own."""
    job = copied.cells()[0].job
    shutil.rmtree(copied.results / job.folder)
    link = copied.results / ".work" / job.key[:12]
    link.symlink_to(outside / "precious")
    everything_refuses(copied, link, [("run",), ("status",), ("gc", "--keep-suite", "smoke", "--yes")])
    with pytest.raises(UserError, match="is a link"), Locks(copied.results / ".work").hold(job.key[:12]):
        pass
    assert contents(outside)["precious/log.txt"] == b"secret"


def test_an_import_does_not_write_through_a_link(copied, outside):  # noqa: F811
    archive, results = copied.folder / "some.tar.gz", copied.folder / "new"
    assert call("store", "export", archive, "--results", copied.results).code == 0
    results.mkdir()
    (results / "photos").symlink_to(outside)
    before = contents(outside)
    outcome = call("store", "import", archive, "--results", results)
    assert outcome.code == 2 and f"{results / 'photos'} is a link" in outcome.err, outcome
    assert contents(outside) == before
    with tarfile.open(archive) as content:
        assert all(member.isreg() for member in content)


def test_the_root_may_be_a_link(copied):  # noqa: F811
    """The user chose it: a results folder on a larger disk."""
    real = copied.folder / "disk"
    shutil.move(copied.results, real)
    copied.results.symlink_to(real)
    assert ask(copied, "verify").code == 0
    assert ask(copied, "run").code == 0


def test_links_of_submitit_are_left_alone(copied, outside):  # noqa: F811
    """It leaves one to each of its scripts; the place and the name are what tells it from another link."""
    folder = copied.results / ".work" / "slurm" / "benchmark-0123456789abcdef"
    folder.mkdir(parents=True)
    (folder / f".submission_file_{'0' * 32}.sh").symlink_to(outside / "precious" / "log.txt")
    for words in COMMANDS:
        assert ask(copied, *words).code == 0, words
    assert (outside / "precious" / "log.txt").read_text() == "secret"
    (copied.results / ".work" / f".submission_file_{'0' * 32}.sh").symlink_to("nowhere")
    outcome = ask(copied, "gc", "--keep-suite", "smoke")
    assert outcome.code == 2 and "is a link" in outcome.err, outcome


def test_folders_and_files_of_the_user_are_no_trouble(copied):  # noqa: F811
    (copied.results / "README.md").write_text("mine")
    (job_folder(copied) / "notes").mkdir()
    assert ask(copied, "verify").code == 0
    with pytest.raises(Irregular, match="is a file where a folder belongs"):
        Store(copied.results).path(SimpleNamespace(folder="README.md/row/job"))
