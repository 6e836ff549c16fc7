"""The command line: what it prints and how it ends, for good and bad input."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import benchmark
from benchmark.cli.options import Selection
from benchmark.defenses import DEFENSES, Defense
from benchmark.matrix.expand import jobs
from benchmark.matrix.load import MatrixFile
from tests.support.command_line import call, call_apart, copied, finished, place, started  # noqa: F401 (fixtures)
from tests.support.terminal import Terminal

PROJECT = Path(__file__).parents[2]
ONE = ("--where", "defense=bottleneck,cem=off,attacker=decoder,split=infer")


def refused(outcome, *texts):
    """Exit status 2, one sentence on stderr, nothing else."""
    assert outcome.code == 2, outcome
    assert outcome.err.startswith("error: ") and outcome.err.count("\n") == 1, outcome.err
    assert "Traceback" not in outcome.err and not outcome.out
    for text in texts:
        assert text in outcome.err, outcome.err


# -- good input


def test_plan_lists_every_job_with_its_state_and_time(finished):  # noqa: F811
    outcome = finished.call("plan", "--jobs", "--set", "attacks.gan.penalty=9")
    first, *lines, departs = outcome.out.splitlines()
    assert outcome.code == 0 and len(lines) == 22 and all(" photos " in line for line in lines)
    assert {line.split()[0] for line in lines} >= {job.key[:12] for job in jobs(finished.cells())[:1]}
    assert all(("waiting" in line) == ("gan" in line) for line in lines)
    assert sum("done" in line for line in lines) == 14
    assert first.startswith("22 cells, 22 jobs, 14 done; about ") and " left on cpu" in first
    assert departs.startswith("Departs from the published setting: ")
    changes = departs.split(": ", 1)[1].split("; ")
    assert all(change.count("(published") == 1 for change in changes), changes
    assert "train.milestones none (published 0.25/0.5/0.75/0.875)" in changes
    assert "attacks.gan.penalty 9.0 (published 10.0)" in changes


def test_plan_folds_the_jobs_of_a_row_and_says_the_sum_first(copied):  # noqa: F811
    (lost,) = copied.results.glob("photos/dropout+cem/gan-infer-*")
    shutil.rmtree(lost)
    summary, *rows, _ = copied.call("plan").out.splitlines()
    assert summary.startswith("22 cells, 22 jobs, 21 done; about ")
    assert rows[:3] == [
        "photos bottleneck: 1 training, 4 attacks, 1 efficiency, 6 of 6 done",
        "photos bottleneck+cem: 1 training, 4 attacks, 5 of 5 done",
        "photos dropout: 1 training, 4 attacks, 5 of 5 done",
    ]
    assert rows[3].startswith("photos dropout+cem: 1 training, 4 attacks, 4 of 5 done, about ")
    assert rows[4:] == ["photos patrol: 1 efficiency, 1 of 1 done"]


def test_list_tells_of_every_suite(place):  # noqa: F811
    place.edit(lambda matrix, _: matrix.update(suites={"smoke": matrix["suites"]["smoke"]}))
    outcome = call("list", "--matrix", place.matrix, "--data", place.data)
    assert outcome.code == 0 and outcome.out.splitlines()[0] == "smoke: 22 cells, 22 jobs", outcome
    assert outcome.out.splitlines()[1].startswith("  every defence, CEM off and on")
    outcome = call("list")
    names = [line.split(":")[0] for line in outcome.out.splitlines() if not line.startswith(" ")]
    assert names == list(MatrixFile().matrix.suites)


@pytest.mark.parametrize("columns", [60, 100])
@pytest.mark.parametrize("command", ["plan", "plan --jobs", "report", "list"])
def test_every_line_fits_the_terminal(finished, tmp_path, command, columns):  # noqa: F811
    words = [*command.split(), "smoke", "--matrix", finished.matrix, "--data", finished.data]
    words = ["list"] if command == "list" else [*words, "--results", finished.results]
    words += ["--no-plots", "--tables", tmp_path] if command == "report" else []
    with Terminal(words, dict(os.environ), columns=columns) as terminal:
        assert terminal.wait(120) == 0
    seen = terminal.seen.decode().replace("\r", "").splitlines()
    text = " ".join(line.strip() for line in seen if not line.startswith(str(tmp_path)))  # a path stays in one piece
    assert max(len(line) for line in seen if not line.startswith(str(tmp_path))) <= columns, seen
    plain = call(*words, *(["--tables", tmp_path / "again"] if command == "report" else []))
    assert plain.code == 0
    if columns == 60:
        assert len(seen) > len(plain.out.splitlines())  # without a terminal no line is folded
    first = " ".join(plain.out.splitlines()[0].split())
    assert text.startswith(first.split("; about")[0]), (text, first)


def test_version():
    assert call("--version").out == f"split-inversion-benchmark {benchmark.__version__}\n"


def test_the_shell_completes_commands_and_suites(tmp_path):
    """As bash asks: what may stand in place of the last word."""

    def completed(*words) -> list[str]:
        asked = {
            "_BENCHMARK_COMPLETE": "complete_bash",
            "COMP_WORDS": " ".join(words),
            "COMP_CWORD": str(len(words) - 1),
        }
        return call_apart(environment=os.environ | asked, where=PROJECT).out.split()

    assert completed("benchmark", "re") == ["report"]
    assert completed("benchmark", "run", "tinyi") == [s for s in MatrixFile().matrix.suites if s.startswith("tinyi")]


def test_plan_runs_nothing(place):  # noqa: F811
    assert place.call("plan").code == 0
    assert place.finished() == {}


def test_status_counts_and_explains(finished):  # noqa: F811
    outcome = finished.call("status")
    assert outcome.code == 0
    counts = dict(line.split() for line in outcome.out.splitlines())
    assert counts == {"done": "22", "diverged": "0", "running": "0", "waiting": "0", "failed": "0"}


def test_schema_is_that_of_the_matrix():
    schema = json.loads(call("schema").out)
    assert set(schema["properties"]) >= {"extends", "datasets", "defenses", "attacks", "cem", "suites"}
    assert schema["additionalProperties"] is False


def test_data_list_and_prepare(tmp_path):
    before = call("data", "list", "--data", tmp_path)
    assert before.code == 0
    for name in ("photos", "cifar10", "cifar100", "tinyimagenet", "facescrub"):
        assert any(line.startswith(f"{name} ") and "False" in line for line in before.out.splitlines())
    by_suite = call("data", "prepare", "smoke", "--data", tmp_path)
    assert by_suite.code == 0 and by_suite.out == "photos: 1440 training and 360 test images, 6 classes\n"
    after = next(line for line in call("data", "list", "--data", tmp_path).out.splitlines() if "photos " in line)
    assert after.split()[1] == "True" and "1440" in after


def test_help_names_every_command():
    text = call("--help").out
    names = ["list", "plan", "run", "status", "report", "diff", "audit", "calibrate", "attack-released", "schema"]
    names += ["measure", "data", "store"]
    found = [words[1] for line in text.splitlines() if (words := line.split())[:1] == ["│"] and words[1] in names]
    assert found == names


# -- bad input: exit status 2 and one sentence


@pytest.mark.parametrize(
    ("words", "texts"),
    [
        (["plan", "smok"], ["unknown suite 'smok'", "did you mean 'smoke'"]),
        (["run", "smoke", "--where", "dataset=mnist"], ["dataset=mnist", "photos"]),
        (["run", "smoke", "--where", "defense=patrl"], ["did you mean 'patrol'"]),
        (["run", "smoke", "--where", "defense=none,cem=on"], ["no cell of the suite 'smoke'"]),
        (["status", "smoke", "--set", "train.epoch=3"], ["unknown key 'epoch'", "did you mean 'epochs'"]),
        (["status", "smoke", "--set", "train.epochs=many"], ["'many' is not allowed", "integer"]),
        (
            ["run", "smoke", "--set", "data.test_images=999"],
            ["999 test images of photos were asked for; choose 1 to 360"],
        ),
        (["run", "cifar10"], ["cifar10 is not prepared", "python -m benchmark data prepare cifar10"]),
        (["run", "smoke", "--device", "cuda"], ["no CUDA GPU is usable", "--device cpu"]),
        (["run", "smoke", "--device", "abacus"], ["unknown device 'abacus'"]),
        (["plan", "smoke", "--device", "mps"], ["not supported"]),
        (["diff", "smoke", "--tolerance", "mse"], ["metric=number"]),
        (["diff", "smoke", "--tolerance", "mse=much"], ["metric=number"]),
        (["diff", "smoke", "--tolerance", "mse=-1", "--against", "REFERENCE"], ["at least 0"]),
        (["diff", "smoke", "--tolerance", "msee=1", "--against", "REFERENCE"], ["no metric 'msee'"]),
        (["diff", "smoke", "--against", "/nowhere"], ["no reference /nowhere"]),
        (["diff", "smoke"], ["no rows in common", "protocol published; dataset photos"]),
        (["data", "prepare", "mnist"], ["neither a data set nor a suite", "--plugin FILE before the command"]),
        (["data", "prepare", "cifar10", "--from", "/nowhere"], ["there is no /nowhere"]),
        (["data", "prepare", "cifar10", "--from", "FOLDER"], ["official cifar10"]),
        (["data", "prepare", "cifar10", "--from", "FILE"], ["not the official file"]),
        (["data", "prepare", "photos", "--from", "FOLDER"], ["takes no --from"]),
        (["data", "prepare", "all", "--from", "FOLDER"], ["one data set"]),
    ],
)
def test_bad_words(finished, tmp_path, monkeypatch, words, texts):  # noqa: F811
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (tmp_path / "file").write_text("x")
    reference = tmp_path / "results.csv"
    if "REFERENCE" in words:
        assert finished.call("report", "--tables", tmp_path / "t").code == 0
        reference = tmp_path / "t" / "smoke"
    stand_in = {"FOLDER": tmp_path, "FILE": tmp_path / "file", "REFERENCE": reference}
    words = [stand_in.get(word, word) for word in words]
    if words[0] != "data":
        words += ["--results", finished.results]
    refused(call(*words, "--data", finished.data), *texts)


@pytest.mark.parametrize(
    ("text", "texts"),
    [
        ("a: [", ["is not valid YAML"]),
        ("- a", ["must be a mapping"]),
        ("\x00", ["is not valid YAML"]),
        ("train: !!python/object:os.system x", ["is not valid YAML"]),
        (None, ["cannot read the matrix"]),
    ],
)
def test_a_matrix_that_cannot_be_read(tmp_path, text, texts):
    path = tmp_path / "matrix.yaml"
    if text is not None:
        path.write_text(text)
    refused(call("plan", "smoke", "--matrix", path, "--results", tmp_path), str(path), *texts)


@pytest.mark.parametrize(
    ("change", "texts"),
    [
        (lambda m, s: m["train"].update(epochs="two"), ["epochs = 'two'", "integer"]),
        (lambda m, s: m["train"].update(epoch=2), ["unknown key", "did you mean 'epochs'"]),
        (lambda m, s: s.update(dataset=["mnist"]), ["unknown name 'mnist'", "photos"]),
        (lambda m, s: s.update(defense=["patrl"]), ["unknown name 'patrl'", "did you mean 'patrol'"]),
        (lambda m, s: m["defenses"].update(castle={"noise_std": 0.1}), ["unknown name 'castle'", "--plugin FILE"]),
        (lambda m, s: m["attacks"].update(ram={}), ["unknown name 'ram'", "--plugin FILE"]),
        (lambda m, s: s.update(defense=["castle"]), ["declare it under `defenses` first", "--plugin FILE"]),
        (lambda m, s: s.update(cem=["half"]), ["unknown name 'half'", "off"]),
        (lambda m, s: s.update(protocol=[], efficiency=[]), ["no cell of the suite 'smoke': it names no protocol"]),
        (lambda m, s: m["defenses"]["dropout"].update(rate="half"), ["rate = 'half'"]),
        (lambda m, s: s.update(seed=[-1]), ["greater than or equal to 0"]),
    ],
)
def test_a_wrong_entry_in_the_matrix_is_told_with_its_line(place, change, texts):  # noqa: F811
    place.edit(change)
    refused(place.call("run"), "matrix.yaml, line ", *texts)
    assert place.finished() == {}


def test_an_unknown_data_set_of_the_attacker_is_told(place):  # noqa: F811
    outcome = place.call("run", "--set", "knowledge.dataset=mnist")
    refused(outcome, "knowledge.dataset: unknown name 'mnist'", "--plugin FILE")


def test_folders_that_cannot_be_written(finished, place, tmp_path):  # noqa: F811
    (tmp_path / "file").write_text("x")
    below = tmp_path / "file" / "x"
    refused(place.call("run", "--results", below), "cannot write the results folder", "--results")
    refused(finished.call("report", "--tables", below), "cannot write", str(below))
    refused(call("data", "prepare", "photos", "--data", below), "cannot make the data folder")
    refused(call("data", "list", "--data", tmp_path / "file"), "the data folder", "is a file; give a folder")
    page = place.tables / "smoke" / "report.html"
    page.mkdir(parents=True)
    refused(finished.call("report", "--tables", place.tables), "cannot write", str(page))
    assert finished.call("report", "--tables", tmp_path / "t").code == 0
    outcome = finished.call("diff", "--against", tmp_path / "t" / "smoke", "--markdown", below / "diff.md")
    assert outcome.code == 2 and "cannot write" in outcome.err and str(below) in outcome.err
    assert "Traceback" not in outcome.err


def test_an_empty_suite_is_told(place):  # noqa: F811
    place.edit(lambda matrix, _: matrix["suites"].update(void={"description": "nothing"}))
    for command in ("plan", "run", "status", "report", "diff"):
        texts = ["matrix.yaml, line ", "no cell of the suite 'void': it names no dataset; add that"]
        refused(place.call(command, "--where", "defense=dropout", suite="void"), *texts)


def test_words_the_command_line_does_not_know():
    for words in (["nope"], ["run"], ["run", "smoke", "--nope"]):
        outcome = call(*words)
        assert outcome.code == 2 and "Usage" in outcome.err and "Traceback" not in outcome.err


def test_a_network_beyond_all_memory(place):  # noqa: F811
    """An estimate needs none of it; each job of it fails with that reason, the others are tried."""
    huge = ("--where", "attacker=decoder,split=infer,cem=off", "--set", "model.bottleneck=100000000")
    outcome = place.call("plan", *huge)
    assert outcome.code == 0 and " h " in outcome.out, outcome
    outcome = place.call("run", *huge)
    assert outcome.code == 1 and "Traceback" not in outcome.err, outcome
    assert outcome.err.count("train: the memory of cpu does not suffice for it (RuntimeError") == 2, outcome.err


def test_a_full_disk_stops_the_run_with_a_sentence(copied, monkeypatch):  # noqa: F811
    from benchmark.jobs import run_job

    def full(tensors, path, metadata):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_job.checkpoint, "save_file", full)
    outcome = copied.call("run", *ONE, "--set", "attacks.decoder.lr=0.004")
    assert outcome.code == 2 and "No space left" in outcome.err and "what is finished is kept" in outcome.err
    assert "Traceback" not in outcome.err and len(copied.finished()) == 22
    monkeypatch.undo()
    assert copied.call("run", *ONE, "--set", "attacks.decoder.lr=0.004").code == 0


# -- failures: exit status 1, the others still run


def test_a_foreign_checkpoint_fails_the_attack_that_needs_it(copied):  # noqa: F811
    (path,) = copied.results.glob("photos/bottleneck/train-*/encoder.safetensors")
    path.write_bytes(b"not a checkpoint")
    path.with_name("SHA256SUMS").unlink()  # as results from before there were checksums; else it is made again
    outcome = copied.call("run", "--set", "attacks.decoder.lr=0.004", "--where", "cem=off,attacker=decoder,split=infer")
    assert outcome.code == 1
    (line,) = [line for line in outcome.err.splitlines() if line.startswith("failed: ")]
    assert "bottleneck seed 125 decoder-infer" in line and str(path) in line and "delete it" in line
    assert "1 of 4 jobs failed" in outcome.err and "Traceback" not in outcome.err
    log = line.split("(log: ")[1].rstrip(")")
    assert "failed: " in Path(log).read_text()
    status = copied.call("status", "--set", "attacks.decoder.lr=0.004", *ONE).out
    assert "failed       1" in status and str(path) in status and log in status


@pytest.fixture
def breaking(monkeypatch):
    """A defence whose loss raises, registered for one test."""
    DEFENSES.names()  # so that the real ones are found first

    class Breaking(Defense):
        def loss(self, batch):
            raise RuntimeError("the defence broke")

    monkeypatch.setitem(DEFENSES._classes, "breaking", Breaking)
    return Breaking


def test_a_defence_that_raises_fails_alone(copied, breaking, monkeypatch):  # noqa: F811
    def change(matrix, smoke):
        matrix["defenses"]["breaking"] = {"noise_std": 0.025}
        smoke["defense"] = ["breaking", "bottleneck"]

    copied.edit(change)
    bottleneck = list(copied.results.glob("photos/bottleneck/decoder-infer-*"))
    assert len(bottleneck) == 1
    shutil.rmtree(bottleneck[0])  # something that is left to run after the failure
    choice = ("--where", "cem=off,attacker=decoder,split=infer")
    outcome = copied.call("run", *choice)
    assert outcome.code == 1 and "Traceback" not in outcome.err
    failed = [line for line in outcome.err.splitlines() if line.startswith("failed: ")]
    assert len(failed) == 2
    assert "breaking seed 125 train: RuntimeError: the defence broke (log: " in failed[0]
    assert "needs photos breaking seed 125 train, which failed" in failed[1]
    assert bottleneck[0].is_dir()
    log = failed[0].split("(log: ")[1].rstrip(")")
    assert "Traceback" in Path(log).read_text()  # where the author of a defence looks

    table = copied.call("report", *choice)
    assert table.code == 0
    text = (copied.written() / "photos-mse.md").read_text()
    row = next(line for line in text.splitlines() if "breaking" in line)
    assert "–" in row and "the defence broke" in text

    monkeypatch.setattr(breaking, "loss", lambda self, batch: None)  # mended: the next run tries again
    assert copied.call("run", *choice).code == 0


# -- Ctrl-C


def test_ctrl_c_saves_and_the_next_run_goes_on(place):  # noqa: F811
    """SIGINT to a real process in the middle of a training of many epochs."""
    choice = (*ONE, "--set", "train.epochs=12")
    process = started(place.words("run", *choice), place.folder)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.is_alive():
        logs = list((place.results / ".work").glob("*/log.txt"))
        if logs and "epoch 2/12" in logs[0].read_text():
            break
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    err = (place.folder / "err").read_text()
    assert process.exitcode == 130, err
    assert err.endswith("interrupted; run the same command to go on from here\n") and "Traceback" not in err
    (folder,) = (place.results / ".work").iterdir()
    assert (folder / "state.safetensors").is_file() and not (folder / "lock.json").exists()
    assert "waiting      2" in place.call("status", *choice).out

    again = place.call("run", *choice)
    assert again.code == 0, again.err
    (finished_folder,) = place.results.glob("photos/bottleneck/train-*")
    log = (finished_folder / "log.txt").read_text()
    assert "resumed at epoch" in log and log.count("epoch 1/12 ") == 1
    assert len((finished_folder / "history.csv").read_text().splitlines()) == 1 + 12


def test_ctrl_c_while_the_program_loads_is_silent():
    words = [sys.executable, "-X", "importtime", "-m", "benchmark", "list"]
    process = subprocess.Popen(
        words, stderr=subprocess.PIPE, text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "rich.console" in line:
            break
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait(60) == -signal.SIGINT and "Traceback" not in rest


def test_any_interrupt_is_told(monkeypatch, tmp_path):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Selection, "cells", property(interrupted))
    outcome = call("status", "smoke", "--results", tmp_path)
    assert outcome.code == 130 and outcome.err == "interrupted; run the same command to go on from here\n"


def test_long_choices_that_begin_alike_have_folders_of_their_own():
    many = "defense=none,defense=bottleneck,defense=distcorr,defense=dropout,defense=noise_arl,defense=noise_nopeek"
    folders = [Selection("demo", where=[f"{many},split={split}"]).out(Path("t")) for split in ("infer", "train")]
    assert folders[0] != folders[1] and all(len(folder.name) < 130 for folder in folders)
