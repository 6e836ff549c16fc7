"""A small matrix from the command line to the tables, and what a change, a divergence or a new defence does to it."""

import csv
import json
import math
import re
import shutil
import xml.etree.ElementTree

import pytest

from benchmark.analysis.collect import ATTACK, TRAINING
from benchmark.defenses import DEFENSES, Defense
from tests.support.command_line import copied, finished, place  # noqa: F401 (fixtures)

INFER = ("--where", "attacker=decoder,split=infer")


def rows_of(place):  # noqa: F811
    with open(place.written() / "results.csv", newline="") as file:
        return list(csv.DictReader(file))


def reported(place, *more):  # noqa: F811
    outcome = place.call("report", *more)
    assert outcome.code == 0, outcome.err
    return place.written()


# -- from nothing to tables


def test_every_cell_is_filled(finished, tmp_path):  # noqa: F811
    folder = tmp_path / "smoke"
    outcome = finished.call("report", "--tables", tmp_path)
    assert outcome.code == 0
    written = {path.name for path in folder.iterdir()}
    assert written > {"README.md", "report.html", "results.csv", "attacks.csv", "verdicts.csv", "photos-mse.md"}
    assert outcome.out.splitlines()[-1] == f"{folder / 'report.html'}: open this; {len(written)} files in {folder}"
    tables = json.loads((folder / "tables.json").read_text())
    assert [table["name"] for table in tables] == ["photos-efficiency", "photos-mse", "photos-ssim-psnr"]
    for table in tables:
        for row in table["rows"]:
            for cell in row["cells"]:
                assert cell["value"] is not None and cell["text"] != "–", (table["name"], row["label"])
    labels = [row["label"] for row in tables[1]["rows"]]
    assert len(labels) == 4 + 2  # two defences without and with CEM, and the two averages
    with open(folder / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * (len(TRAINING) + 4 * len(ATTACK)) + 4 * 4
    assert all(row["status"] == "done" and math.isfinite(float(row["value"])) for row in rows)


@pytest.mark.slow
def test_the_tables_hold_the_numbers_of_the_store(finished, tmp_path):  # noqa: F811
    finished.call("report", "--tables", tmp_path)
    stored = {
        (cell.cem, cell.attacker, cell.split): json.loads(
            (finished.results / cell.job.folder / "metrics.json").read_text()
        )["values"]
        for cell in finished.cells("defense=dropout")
    }
    text = (tmp_path / "smoke" / "photos-mse.md").read_text()
    columns = [("decoder", "train"), ("decoder", "infer"), ("gan", "train"), ("gan", "infer")]
    for cem, mark in (("off", ""), ("on", "+CEM")):
        wanted = [stored[(cem, *column)]["mse"] for column in columns]
        row = next(line for line in text.splitlines() if re.match(rf"\| *Dropout{re.escape(mark)} *\|", line))
        shown = [float(re.sub(r"[^0-9.]", "", column)) for column in row.strip("| ").split("|")[2:6]]
        assert shown == pytest.approx(wanted, abs=0.00051)


@pytest.mark.slow
def test_an_attack_is_told_from_the_mean_image(finished):  # noqa: F811
    reported(finished)
    stored = {}
    for path in finished.results.glob("photos/*/*/metrics.json"):
        if path.parent.name.startswith(("decoder", "gan")):
            stored[json.loads((path.parent / "job.json").read_text())["key"]] = json.loads(path.read_text())["values"]
    rows = [row for row in rows_of(finished) if row["metric"] == "beats_mean_image"]
    assert len(rows) == len(stored) == 16
    for row in rows:
        values = stored[row["key"]]
        assert float(row["value"]) == (values["mse"] < 0.95 * values["mse_of_mean_image"])


def test_cem_changes_the_training_and_the_gan_starts_warm(finished):  # noqa: F811
    by_row = {}
    for name, content in finished.finished().items():
        if "/decoder-infer" in name:
            by_row[name.split("/")[1]] = json.loads(content)["values"]["mse"]
    assert len(set(by_row.values())) == 4
    for cell in finished.cells("attacker=gan"):
        if cell.attacker == "gan":
            fit = cell.job if cell.split == "train" else cell.job.parents["fit"]  # quirk q14: one fit for both
            assert fit.what == "gan-train" and fit.parents["warm_start"].what == "decoder-infer"
    histories = [path.read_text() for path in finished.results.glob("photos/dropout+cem/train-*/history.csv")]
    terms = [float(row["cem"]) for row in csv.DictReader(histories[0].splitlines())]
    assert terms[0] == 0 and terms[1] > 0


def test_every_format_is_well_formed(finished, tmp_path):  # noqa: F811
    finished.call("report", "--tables", tmp_path)
    folder = tmp_path / "smoke"
    for path in folder.glob("photos-*.tex"):
        text = path.read_text()
        assert text.count(r"\begin{tabular") == text.count(r"\end{tabular") == 1
        assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    for path in folder.glob("photos-*.md"):
        table = [line for line in path.read_text().splitlines() if line.startswith("|")]
        assert len(table) >= 4 and len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1, path
    page = (folder / "report.html").read_text()
    # the originals of either split, and of the GAN's `infer` (quirk q14: the whole test set); of every attack, three
    assert page.count("data:image/webp;base64,") == 3 + 3 * 16
    assert page.count("<script") == 1 and not re.search(r'src="https?:', page)
    try:
        xml.etree.ElementTree.fromstring(page.replace("<!DOCTYPE html>", ""))
    except xml.etree.ElementTree.ParseError as error:
        pytest.fail(f"report.html: {error}")


def test_the_same_results_give_the_same_bytes(finished, tmp_path):  # noqa: F811
    for name in ("a", "b"):
        finished.call("report", "--tables", tmp_path / name)
    for path in (tmp_path / "a" / "smoke").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / "smoke" / path.name).read_bytes(), path.name


def test_provenance_and_history_lie_with_every_result(finished):  # noqa: F811
    for name in finished.finished():
        folder = finished.results / name
        record = json.loads((folder / "provenance.json").read_text())
        assert {"commit", "device", "packages", "seconds", "peak_memory_mib", "finished"} <= set(record)
        kind = json.loads((folder / "job.json").read_text())["kind"]
        assert (folder / "checkpoint.safetensors").is_file() == (kind != "efficiency")
        assert (folder / "encoder.safetensors").is_file() == (kind == "train")
        assert (folder / "history.csv").is_file() == (kind != "efficiency")
        assert not (folder / "lock.json").exists() and not (folder / "state.safetensors").exists()
        if kind != "efficiency":
            assert record["precision"] == "fp32" and record["fingerprint"]
            assert record["cuda_graphs"] is False


# -- again, and changed


def test_a_second_run_does_nothing(copied):  # noqa: F811
    before = {path: path.stat().st_mtime_ns for path in copied.results.rglob("*") if path.is_file()}
    outcome = copied.call("run")
    assert outcome.code == 0 and "22 of 22 jobs are in the store already" in outcome.err
    assert {path: path.stat().st_mtime_ns for path in copied.results.rglob("*") if path.is_file()} == before


def test_a_changed_strength_runs_exactly_what_depends_on_it(copied):  # noqa: F811
    before = copied.finished()
    change = ("--set", "defenses.dropout.rate=0.4")
    outcome = copied.call("run", *INFER, *change)
    assert outcome.code == 0, outcome.err
    after = copied.finished()
    assert {name: after[name] for name in before} == before
    new = {"/".join(name.split("/")[1:]).rsplit("-", 1)[0] for name in set(after) - set(before)}
    rows = ("dropout", "dropout+cem")
    assert new == {f"{row}/{what}" for row in rows for what in ("train", "decoder-infer")}
    assert "4 of 8 jobs are in the store already" in outcome.err
    assert "defense.rate 0.4 (published 0.2)" in copied.call("plan", *INFER, *change).out


def test_results_without_weights_are_attacked_by_their_encoders(copied):  # noqa: F811
    """A results folder may be shared without its checkpoints: an encoder is small and comes along, so nothing is
    trained again; an attack is run again where another starts from it."""
    for weights in copied.results.glob("*/*/*/checkpoint.safetensors"):
        weights.unlink()
    before = copied.finished()
    assert "1/" not in copied.call("run").err and copied.finished() == before
    (lost,) = copied.results.glob("photos/bottleneck/decoder-train-*")
    shutil.rmtree(lost)
    outcome = copied.call("run")
    assert outcome.code == 0 and "runs again" not in outcome.err and "21 of 22 jobs are in the store" in outcome.err
    assert copied.finished() == before  # the same numbers, bit for bit
    (lost,) = copied.results.glob("photos/bottleneck/gan-train-*")
    shutil.rmtree(lost)
    outcome = copied.call("run")
    assert outcome.code == 0 and "decoder-infer has no checkpoint.safetensors: it runs again" in outcome.err
    assert outcome.err.count("runs again") == 1 and copied.finished() == before
    assert list((copied.results / ".work").glob("replaced-*/metrics.json"))


def test_a_training_without_its_encoder_runs_again_where_it_is_attacked(copied):  # noqa: F811
    (encoder,) = copied.results.glob("photos/bottleneck/train-*/encoder.safetensors")
    encoder.unlink()
    outcome = copied.call("run")
    assert outcome.code == 0 and f"{encoder} is missing: it runs again" in outcome.err


def test_the_corrected_protocol_runs(place):  # noqa: F811
    def change(matrix, smoke):
        smoke |= {"protocol": ["corrected"], "defense": ["dropout"], "cem": ["on"], "efficiency": []}
        smoke["overrides"] = [{"where": {"protocol": "corrected"}, "set": {"model.arch": "resnet20"}}]

    place.edit(change)
    assert place.call("run").code == 0
    folder = reported(place)
    assert (folder / "photos-mse-corrected.md").is_file()
    rows = rows_of(place)
    assert len(rows) == len(TRAINING) + 4 * len(ATTACK) and all(row["status"] == "done" for row in rows)
    jobs = [json.loads(path.read_text()) for path in place.results.glob("*/*/*/job.json")]
    assert not any(on for job in jobs for on in job["config"]["quirks"].values())
    assert not any("warm_start" in job["parents"] for job in jobs)


@pytest.mark.slow
def test_diff_against_itself_and_against_a_planted_change(finished, tmp_path):  # noqa: F811
    finished.call("report", "--tables", tmp_path)
    reference = tmp_path / "smoke" / "results.csv"
    outcome = finished.call("diff", "--against", reference.parent, "--markdown", tmp_path / "diff.md")
    assert outcome.code == 0 and "beyond" not in outcome.out and "missing" not in outcome.out
    assert "cells within tolerance" in (tmp_path / "diff.md").read_text()

    with open(reference, newline="") as file:
        rows = list(csv.DictReader(file))
    planted = next(row for row in rows if (row["metric"], row["attacker"], row["split"]) == ("mse", "gan", "infer"))
    planted["value"] = str(float(planted["value"]) * 1.5)
    with open(tmp_path / "changed.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    outcome = finished.call("diff", "--against", tmp_path / "changed.csv")
    assert outcome.code == 1 and "1 beyond" in outcome.out
    loose = finished.call("diff", "--against", tmp_path / "changed.csv", "--tolerance", "mse=0.6")
    assert loose.code == 0


def test_what_has_not_run_is_missing_in_the_diff(finished, place, tmp_path):  # noqa: F811
    finished.call("report", "--tables", tmp_path / "t")
    outcome = place.call("diff", "--against", tmp_path / "t" / "smoke")
    assert outcome.code == 1 and "missing" in outcome.out


# -- divergence


def test_a_diverging_cell_is_recorded_and_never_averaged(copied):  # noqa: F811
    """Dropout with CEM blows up: its attacks count as diverged too, and the averages leave the row out."""

    def change(matrix, smoke):
        smoke["overrides"].append({"where": {"defense": "dropout", "cem": "on"}, "set": {"train.lr": 1e30}})

    copied.edit(change)
    outcome = copied.call("run", *INFER)
    assert outcome.code == 0  # a divergence is a result
    assert re.search(r"train: diverged \((.* not finite|the loss is nan)", outcome.err)
    assert re.search(r"decoder-infer: diverged \(train diverged: (.* not finite|the loss is nan)", outcome.err)
    status = copied.call("status", *INFER).out
    assert re.search(r"diverged +2\n", status) and re.search(r"failed +0\n", status)

    folder = reported(copied, *INFER)
    lost = [row for row in rows_of(copied) if (row["defense"], row["cem"]) == ("dropout", "on")]
    assert len(lost) == 1 + len(ATTACK) and all(row["status"] == "diverged" and row["value"] == "" for row in lost)
    assert all(re.search("not finite|loss is nan", row["reason"]) for row in lost)
    tables = {table["name"]: table for table in json.loads((folder / "tables.json").read_text())}
    table = tables["photos-mse"]
    by_label = {row["label"]: row["cells"] for row in table["rows"]}
    cell = by_label["Dropout+CEM"][0]
    assert cell["text"] == "–" and cell["value"] is None
    assert any("diverged" in table["notes"][note - 1] for note in cell["notes"])
    alone = by_label["Bottleneck+CEM"][0]["value"]
    averages = [cells[0]["value"] for label, cells in by_label.items() if "verage" in label]
    assert averages == [by_label["Bottleneck"][0]["value"], alone]
    assert "diverged" in (folder / "photos-mse.md").read_text()
    assert copied.call("run", *INFER).err.count("in the store already") == 1  # and is not tried again


# -- a new defence: one file and one line


@pytest.fixture
def registered(monkeypatch):
    """Defences that a test registers are forgotten after it."""
    DEFENSES.names()
    monkeypatch.setattr(DEFENSES, "_classes", dict(DEFENSES._classes))


def runs_as_a_row(place, name, params):  # noqa: F811
    """Add `name: params` to the defences and run the row, without and with CEM, to the tables."""

    def change(matrix, smoke):
        matrix["defenses"][name] = params
        smoke["defense"] = [name]
        smoke["efficiency"] = []

    place.edit(change)
    outcome = place.call("run", *INFER)
    assert outcome.code == 0, outcome.err
    reported(place, *INFER)
    rows = rows_of(place)
    assert {(row["defense"], row["cem"]) for row in rows} == {(name, "off"), (name, "on")}
    assert all(row["status"] == "done" for row in rows)
    return rows


def test_a_new_defence_runs_end_to_end(place, registered):  # noqa: F811
    seen = []

    @DEFENSES.register("halving")
    class Halving(Defense):
        def transform(self, z, generator, phase):
            seen.append(phase)
            return super().transform(z, generator, phase) / 2

    runs_as_a_row(place, "halving", {"noise_std": 0.025})
    assert {"train", "eval", "attack"} == set(seen)
