"""Results that come with the project: shipped as a few archives a row, found by every command in a fresh clone."""

import json
import os
import shutil

import pandas as pd
import pytest

from benchmark.analysis.verdicts import OVER_IMAGES
from tests.support.command_line import call, copied, finished, place  # noqa: F401 (fixtures)

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


def test_nothing_finished_is_nothing_to_ship(place):  # noqa: F811
    outcome = ship(place)
    assert outcome.code == 2 and "no job of the suite 'smoke' is finished" in outcome.err
