"""Results that come with the project: shipped as a few archives a row, found by every command in a fresh clone."""

import json
import os
import shutil

import pandas as pd
import pytest

from benchmark.analysis.verdicts import OVER_IMAGES
from benchmark.errors import UserError
from benchmark.matrix.cells import Job
from benchmark.store import shipped as module
from benchmark.store.archive import import_
from benchmark.store.shipped import receive
from benchmark.store.shipped import ship as ship_jobs
from benchmark.store.solid import Irregular
from benchmark.store.store import Store
from tests.support.command_line import call, copied, finished, place  # noqa: F401 (fixtures)

ROWS = ["bottleneck", "dropout", "none"]
PARTS = ("", ".infer", ".train")  # trainings, and attacks by split


def ship(place, *more):  # noqa: F811
    return call(
        "store", "ship", "smoke", "--matrix", place.matrix, "--data", place.data, "--results", place.results, *more
    )


@pytest.fixture
def shipped(copied):  # noqa: F811
    outcome = ship(copied)
    assert outcome.code == 0, outcome.err
    return copied


def test_a_suite_is_few_files_and_the_same_bytes_again(shipped):
    archives = sorted((shipped.results / "shipped").glob("*/*"))
    attacked = ("bottleneck", "bottleneck+cem", "dropout", "dropout+cem")
    names = {f"{row}{part}.tar.gz" for row in attacked for part in PARTS}
    assert {path.name for path in archives} == names | {"patrol.tar.gz"}
    before = {path: path.read_bytes() for path in archives}
    for path in shipped.results.glob("*/*/*/log.txt"):
        os.utime(path)
    assert ship(shipped).code == 0
    assert {path: path.read_bytes() for path in archives} == before


def test_a_fresh_clone_finds_them(shipped):
    """In every command, once: the trainings are done, with the encoders that attacks need; the tables are the same."""
    results = shipped.folder / "clone"
    shutil.copytree(shipped.results / "shipped", results / "shipped")
    words = ["--matrix", shipped.matrix, "--data", shipped.data, "--results", results]
    first = call("status", "smoke", *words)
    assert first.code == 0 and "22 results that come with the project were brought into" in first.err
    assert first.out.startswith("done        22\n")
    again = call("run", "smoke", *words, "--cells-per-gpu", 1)
    assert again.code == 0 and "22 of 22 jobs are in the store already" in again.err and "brought" not in again.err
    assert not list(results.glob("*/*/*/checkpoint.safetensors")) and list(
        results.glob("*/*/train-*/encoder.safetensors")
    )
    for name, at in (("ours", shipped.results), ("theirs", results)):
        tables = ["--tables", shipped.folder / name, "--no-plots"]
        assert call("report", "smoke", *words[:4], "--results", at, *tables).code == 0
    differing = []
    for path in sorted((shipped.folder / "ours" / "smoke").rglob("*")):
        if path.is_file():
            other = shipped.folder / "theirs" / path.relative_to(shipped.folder / "ours")
            there = other.read_bytes().replace(b"../../clone/", b"../../results/")  # the page links the logs of either
            differing += [] if path.read_bytes() == there else [path.name]
    assert differing == ["verdicts.csv", "verdicts.md", "verdicts.tex"]  # what rests on single images is not shipped
    ours, theirs = (pd.read_csv(shipped.folder / name / "smoke" / "verdicts.csv") for name in ("ours", "theirs"))
    pd.testing.assert_frame_equal(ours.drop(columns=OVER_IMAGES), theirs.drop(columns=OVER_IMAGES))
    (lost,) = results.glob("photos/dropout/decoder-train-*")
    number = json.loads((lost / "metrics.json").read_text())
    shutil.rmtree(lost)
    anew = call("run", "smoke", *words, "--cells-per-gpu", 1)
    assert anew.code == 0 and "runs again" not in anew.err and "21 of 22 jobs" in anew.err
    assert json.loads((lost / "metrics.json").read_text()) == number  # bit for bit


def test_a_row_gains_results_and_loses_none(shipped):
    archive = shipped.results / "shipped" / "photos" / "dropout.infer.tar.gz"
    before = archive.stat().st_size
    change = ("--set", "attacks.decoder.lr=0.004", "--where", "defense=dropout,cem=off,attacker=decoder,split=infer")
    assert shipped.call("run", *change).code == 0
    assert ship(shipped, *change).code == 0
    assert archive.stat().st_size > before
    results = shipped.folder / "clone"
    shutil.copytree(shipped.results / "shipped", results / "shipped")
    words = ["--matrix", shipped.matrix, "--data", shipped.data, "--results", results]
    assert "23 results that come with the project" in call("status", "smoke", *words).err


def test_what_an_archive_holds_is_not_dropped(shipped):
    (gone,) = shipped.results.glob("photos/dropout/decoder-train-*")
    shutil.rmtree(gone)
    outcome = ship(shipped)
    assert outcome.code == 2 and "holds results that are not in the store" in outcome.err


def test_a_damaged_archive_is_told_and_stops_nothing(shipped):
    results = shipped.folder / "clone"
    shutil.copytree(shipped.results / "shipped", results / "shipped")
    (results / "shipped" / "photos" / "dropout.tar.gz").write_bytes(b"not an archive")
    words = ["--matrix", shipped.matrix, "--data", shipped.data, "--results", results]
    outcome = call("status", "smoke", *words)
    assert outcome.code == 0 and "are not brought in" in outcome.err and "Traceback" not in outcome.err


# -- archives that are none


@pytest.fixture
def clone(tmp_path):
    """A results folder into which three archives were shipped, and nothing was brought in yet; a training in each."""
    lab = Store(tmp_path / "lab")
    jobs = [Job("train", {"dataset": "photos", "defense": {"name": name}, "cem": None, "seed": 1}) for name in ROWS]
    for job in jobs:
        with lab.claim(job):
            lab.finish(job, {"status": "done", "reason": "", "values": {}}, {})
    ship_jobs(lab, jobs)
    shutil.copytree(lab.root / "shipped", tmp_path / "clone" / "shipped")
    return Store(tmp_path / "clone")


def received(clone) -> tuple[list[str], list[str]]:
    """The rows that are there once the shipped results were brought in, and what was said."""
    said = []
    receive(clone.root, said.append)
    rows = sorted(path.parents[1].name for path in clone.root.glob("photos/*/*/metrics.json"))
    return rows, said


def archive_of(clone, row):
    return clone.root / "shipped" / "photos" / f"{row}.tar.gz"


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"\x1f\x8b\x08\x00", None])
def test_a_damaged_archive_stops_no_other_and_they_are_brought_in_once(clone, content, monkeypatch):
    first = archive_of(clone, ROWS[0])
    first.write_bytes(first.read_bytes()[:-40] if content is None else content)
    rows, (said, count) = received(clone)
    assert rows == ROWS[1:] and str(first) in said and count.startswith("2 results")
    asked = []
    monkeypatch.setattr(module, "import_", lambda store, path: asked.append(path) or import_(store, path))
    rows, (said,) = received(clone)
    assert asked == [first] and str(first) in said
    for ask in (lambda: module.folders(clone), lambda: module._held(clone, first)):
        with pytest.raises(UserError, match=f"{first} .*get it again"):
            ask()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("bottleneck.tar.gz", path)])
def test_what_is_no_file_is_named_and_not_opened(clone, make):
    first = archive_of(clone, ROWS[0])
    first.unlink()
    make(first)
    rows, said = received(clone)
    assert rows == ROWS[1:] and f"{first} is a" in said[0] and "not brought in" in said[0]
    with pytest.raises(Irregular, match=str(first)):
        module.folders(clone)


@pytest.mark.parametrize("name", ["shipped", "shipped/photos"])
def test_a_link_in_place_of_a_folder_is_not_followed(clone, name, tmp_path):
    folder = clone.root / name
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    before = sorted(tmp_path.glob("elsewhere/**/*"))
    rows, (said,) = received(clone)
    assert rows == [] and f"{folder} is a link" in said
    for ask in (lambda: module.folders(clone), lambda: ship_jobs(clone, [finish_one(clone)])):
        with pytest.raises(Irregular, match=f"{folder} is a link"):
            ask()
    assert sorted(tmp_path.glob("elsewhere/**/*")) == before


def finish_one(clone) -> Job:
    job = Job("train", {"dataset": "photos", "defense": {"name": "patrol"}, "cem": None, "seed": 2})
    with clone.claim(job):
        clone.finish(job, {"status": "done", "reason": "", "values": {}}, {})
    return job


def test_a_damaged_archive_ends_an_export_by_somebody_in_one_sentence(clone, tmp_path):
    received(clone)
    first = archive_of(clone, ROWS[0])
    first.write_bytes(first.read_bytes()[:-40])
    outcome = call("store", "export", tmp_path / "x.tar.gz", "--by", "me", "--results", clone.root)
    assert outcome.code == 2 and f"{first} cannot be unpacked" in outcome.err and "get it again" in outcome.err
    assert not (tmp_path / "x.tar.gz").exists() and not list(clone.root.rglob("submitter.json"))


def test_nothing_finished_is_nothing_to_ship(place):  # noqa: F811
    outcome = ship(place)
    assert outcome.code == 2 and "no job of the suite 'smoke' is finished" in outcome.err
