"""Tables made again say no less than before, or say that they do; each file is there whole or not at all."""

import csv
import math
import os
from pathlib import Path

import pandas as pd
import pytest

from benchmark.files import whole
from benchmark.report import keep, render
from benchmark.report.drawing import drawing, write_figure
from tests.support.command_line import copied, finished, place  # noqa: F401 (fixtures)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def seeds(place):  # noqa: F811
    """A finished run of one row with two seeds, for verdicts; with all tables."""

    def change(matrix, smoke):
        smoke |= {"defense": ["bottleneck"], "seed": [1, 2], "attacker": ["decoder"], "split": ["infer"]}
        smoke["efficiency"] = []

    place.edit(change)
    assert place.call("run").code == 0
    outcome = place.call("report")
    assert outcome.code == 0, outcome.err
    return place


def test_what_is_not_in_the_repository_changes_no_table(seeds):
    """Results as they come by git or `store export`: without any tensors."""
    before = contents(seeds.tables)
    lines = list(csv.DictReader(before["smoke/verdicts.csv"].decode().splitlines()))
    assert any(line["images_harder_percent"] and line["image_low"] for line in lines)
    for path in seeds.results.rglob("*.safetensors"):
        path.unlink()
    report = seeds.call("report")
    assert report.code == 0
    assert contents(seeds.tables) == before
    assert "verdicts.csv: " in report.err and "are those of the file that was there" in report.err
    assert "attacks.csv: " not in report.err  # quantiles are in the results
    with open(seeds.tables / "smoke" / "attacks.csv") as file:
        assert all(row["mse_q01"] and row["ssim_q99"] for row in csv.DictReader(file))


def test_values_of_other_results_are_not_taken(seeds):
    """The verdict of a job that ran anew, with another number, has nothing of the old one."""
    for path in seeds.results.rglob("*.safetensors"):
        path.unlink()
    file = seeds.tables / "smoke" / "verdicts.csv"
    table = pd.read_csv(file)
    assert table["images_harder_percent"].notna().any()
    table["on"] += 1e-9
    file.write_text(render.csv_text(table))
    assert seeds.call("report").code == 0
    assert pd.read_csv(file)["images_harder_percent"].isna().all()


def test_text_where_a_number_belongs_is_not_taken(tmp_path, capsys):
    (tmp_path / "t.csv").write_text("row,low\na,x\nb,0.5\n")
    found = keep.completed(pd.DataFrame({"row": ["a", "b"], "low": [math.nan] * 2}), tmp_path / "t.csv", ["low"])
    assert math.isnan(found["low"][0]) and found["low"][1] == 0.5
    assert ": 1 values that cannot be made" in capsys.readouterr().err


def test_a_part_has_a_folder_of_its_own(copied):  # noqa: F811
    assert copied.call("report").code == 0
    before = contents(copied.tables)
    outcome = copied.call("report", "--where", "defense=dropout", "--where", "cem=off,cem=on")
    assert outcome.code == 0, outcome.err
    after = contents(copied.tables)
    index = {"README.md"}  # of all folders of tables
    assert {name: after[name] for name in before if name not in index} == {
        name: text for name, text in before.items() if name not in index
    }
    assert "smoke-where-cem-off-cem-on-defense-dropout/results.csv" in after


def test_fewer_results_do_not_replace_more(copied):  # noqa: F811
    assert copied.call("report").code == 0
    before = contents(copied.tables / "smoke")
    for number in (1, 2):
        lost = sorted(copied.results.glob("photos/*/decoder-*"))[0]
        for path in lost.iterdir():
            path.unlink()
        lost.rmdir()
        outcome = copied.call("report")
        aside = copied.tables / f"smoke.replaced-{number}"
        assert outcome.code == 0 and f"not in the results here: kept as {aside}" in outcome.err, outcome
    assert contents(copied.tables / "smoke.replaced-1") == before
    assert copied.call("report").err == ""  # the same again loses nothing


@pytest.mark.parametrize("kind", [{}, {"protocol": ["published", "corrected"]}, {"sweep": {"train.lr": [0.1, 0.2]}}])
def test_nothing_is_written_of_nothing(place, kind):  # noqa: F811
    place.edit(lambda _, smoke: smoke.update(kind))
    outcome = place.call("report")
    assert outcome.code == 2 and outcome.err.count("\n") == 1, outcome
    assert not place.tables.exists()


def test_a_damaged_result_leaves_the_tables_as_they_were(copied):  # noqa: F811
    assert copied.call("report").code == 0
    before = contents(copied.tables)
    path = sorted(copied.results.glob("photos/*/decoder-*/pictures.json"))[0]
    path.write_text("[" * 10)
    (path.parent / "SHA256SUMS").unlink()
    outcome = copied.call("report")
    assert outcome.code == 2 and contents(copied.tables) == before


def test_a_file_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "x.txt"
    render.write_text(path, "first")
    with pytest.raises(RuntimeError), whole(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(Exception, match="cannot write"):
            render.write_text(path, "second")
        with pytest.raises(Exception, match="cannot write"), drawing() as figure_class:
            write_figure(figure_class(), tmp_path / "x.svg")
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]
