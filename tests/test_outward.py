"""Names and texts from elsewhere go where they are meant to, and not into a terminal, a shell, a spreadsheet or folders
that nobody named."""

import ast
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from rich.live import Live
from rich.table import Table
from rich.text import Text

import benchmark
from benchmark.analysis import diff
from benchmark.analysis.frame import COLUMNS, csv_text
from benchmark.errors import UserError
from benchmark.matrix.load import DEFAULT, MatrixFile
from benchmark.output import Console
from benchmark.registry import Registry
from benchmark.store.store import Store
from benchmark.text import plain
from tests.support.command_line import call, copied, finished, place  # noqa: F401 (fixtures)
from tests.support.terminal import Terminal

EVIL = "\x1b]0;owned\x07\x1b[2Jx\r\x9b31m\u202e"
PACKAGE = Path(benchmark.__file__).parent


def harmless(text: str) -> bool:
    return all(char.isprintable() or char in "\n\t" for char in text)


# -- the terminal


def test_text_without_what_a_terminal_acts_on():
    assert plain(EVIL + "é中λ\n\udcff") == " ]0;owned  [2Jx  31m é中λ \\xff"


def test_nothing_prints_but_output():
    """So that whatever is printed goes through `plain`."""
    for path in PACKAGE.rglob("*.py"):
        if path.name == "output.py":
            continue
        text = path.read_text()
        calls = [node.func for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
        assert not [one for one in calls if isinstance(one, ast.Name) and one.id == "print"], path
        assert "stdout.write" not in text and "stderr.write" not in text and "rich.console import Console" not in text


@pytest.mark.parametrize("terminal", [True, False])
def test_what_rich_shows(terminal):
    """Text of a table, of a live picture, of a line: rich's own control characters stay, none of the text's."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=200, highlight=False)
    table = Table(title=Text(EVIL))
    table.add_column(EVIL)
    table.add_row(Text(EVIL, style="bold"))
    console.print(table)
    console.print(EVIL, markup=False)
    with Live(Text(EVIL), console=console, auto_refresh=False) as live:
        live.refresh()
    shown = file.getvalue()
    assert "owned" in shown
    assert "\x1b]0" not in shown and "\x1b[2Jx" not in shown and "\x07" not in shown and "\x9b" not in shown
    assert ("\x1b[1m" in shown) == terminal


def test_names_of_files_and_metrics(copied):  # noqa: F811
    """A stranger's store, read by every command on a real terminal."""
    folder = sorted(copied.results.glob("photos/*/decoder-infer-*"))[0]
    (folder / f"{EVIL}.txt").symlink_to("nowhere")
    job, other = (cell.job for cell in copied.cells("defense=bottleneck") if cell.kind == "train")
    store = Store(copied.results)
    for running in (job, other):
        path = copied.results / running.folder / "metrics.json"
        path.parent.rename(copied.folder / running.key)
    store.work.mkdir(exist_ok=True)
    commands = [
        ("store", "verify", "--results", copied.results),
        ("store", "gc", "--keep-suite", "smoke", "--matrix", copied.matrix, "--data", copied.data)
        + ("--results", copied.results),
        copied.words("status"),
    ]
    with store.claim(job) as work:
        beat = {"stage": EVIL, "done": 0.5, "epochs": 1, "images_per_second": 1.0, "seconds_left": 1.0}
        (work / "progress.json").write_text(json.dumps(beat | {"metrics": {EVIL: 1.0}}))
        lock = json.loads((work / "lock.json").read_text()) | {"host": EVIL}
        with store.claim(other) as failing:
            (failing / "failed.json").write_text(json.dumps({"reason": EVIL}))
        (work / "lock.json").write_text(json.dumps(lock))
        for words in commands:
            outcome = call(*words)
            assert "owned" in outcome.out + outcome.err, (words, outcome)
            assert harmless(outcome.out + outcome.err), (words, outcome)
        (folder / f"{EVIL}.txt").unlink()
        with Terminal(copied.words("status", "--watch"), dict(os.environ), columns=300) as terminal:
            terminal.wait_for("owned", 60)
            terminal.process.kill()
            seen = terminal.read(0.5).decode(errors="replace")
        assert "\x1b]0" not in seen and "\x07" not in seen and "\x9b" not in seen and "\u202e" not in seen


# -- spreadsheets


def test_cells_of_a_csv_are_no_formulas(tmp_path):
    row = dict.fromkeys(COLUMNS, "") | {"suite": "smoke", "dataset": "d", "defense": "x", "metric": "mse", "seed": "1"}
    row |= {"protocol": "p", "kind": "attack", "attacker": "gan", "split": "infer", "status": "failed"}
    texts = ["=1+1", "+1+1", "-2+3", "@SUM(A1)", "plain", "-0.5", "+3", "–"]
    frame = pd.DataFrame([row | {"defense": f"d{n}", "reason": text, "value": -0.5} for n, text in enumerate(texts)])
    (tmp_path / "results.csv").write_text(csv_text(frame), encoding="utf-8", newline="")
    cells = pd.read_csv(tmp_path / "results.csv", dtype=str, keep_default_na=False)
    assert [cell for cell in cells["reason"] if cell.startswith(("=", "+1", "-2", "@"))] == []
    assert list(cells["value"]) == ["-0.5"] * len(texts)
    assert list(diff.read_reference(tmp_path / "results.csv")["reason"]) == texts  # as it was


def test_a_cell_is_one_cell(tmp_path):
    """A carriage return is the end of a line to some readers, a tab the end of a cell to others."""
    text = csv_text(pd.DataFrame({"a": ["x\r=1", "\t=1", "\n@x", f"{EVIL}"], "b": range(4)}))
    assert text.count("\n") == 5 and harmless(text) and "\n'" in text
    (tmp_path / "x.csv").write_text(text, encoding="utf-8")
    cells = pd.read_csv(tmp_path / "x.csv")
    assert list(cells["b"]) == [0, 1, 2, 3] and list(cells["a"][:3]) == ["x =1", "' =1", "' @x"]


def test_a_heading_is_no_formula_either():
    assert csv_text(pd.DataFrame({"=x": [1]})) == "'=x\n1\n"


# -- folders


@pytest.mark.parametrize("section", ["suites", "protocols", "cem"])
@pytest.mark.parametrize("name", ["../../../x", "/x", "a/b", ".x", "", "a\n", "x\x1b[2J", "x" * 81, "C:x"])
def test_names_in_a_matrix_stay_names(tmp_path, section, name):
    value = MatrixFile(DEFAULT).source.value
    value[section][name] = next(iter(value[section].values()))
    path = tmp_path / "matrix.yaml"
    path.write_text(yaml.safe_dump(value))
    outcome = call("report", name, "--matrix", path, "--tables", tmp_path / "tables", "--data", tmp_path)
    assert outcome.code == 2 and f"{section}: the name" in outcome.err and outcome.err.count("\n") == 1, outcome
    assert not (tmp_path / "tables").exists() and harmless(outcome.err)


@pytest.mark.parametrize("name", ["../x", "a/b", "", "x\n"])
def test_names_of_plug_ins_stay_names(name):
    with pytest.raises(UserError, match="a name has letters"):
        Registry("defence", "benchmark.defenses", "x").register(name)(object)


# -- modules


@pytest.mark.parametrize("words", [("--help",), ("run",)])
@pytest.mark.slow
def test_a_store_brings_no_modules(place, words):  # noqa: F811
    """A run begun in it, with worker processes, takes none of its files for a part of Python's library or ours."""
    place.results.mkdir(parents=True)
    for name in ("typer", "random", "torch", "benchmark_photos", "yaml", "multiprocessing", "socket"):
        (place.results / f"{name}.py").write_text("raise SystemExit('a module of the store')")
    if words == ("run",):
        words = place.words("run", "--where", "defense=bottleneck,cem=off,attacker=decoder,split=infer")
        words += ["--cells-per-gpu", 2]
    command = [sys.executable, "-m", "benchmark", *map(str, words)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    outcome = subprocess.run(command, cwd=place.results, env=environment, capture_output=True, text=True)
    assert outcome.returncode == 0 and "module of the store" not in outcome.stderr, outcome.stderr


# -- the shell


def test_a_clone_path_is_no_command(tmp_path, monkeypatch):
    """The lines that go into a batch script, run by a real shell."""
    slurm = pytest.importorskip("benchmark.engines.slurm")
    from benchmark.config import Resources
    from benchmark.matrix.cells import Job

    clone = tmp_path / "it's '$(touch pwned)' `touch pwned` \"; touch pwned; \""
    monkeypatch.setattr(slurm.benchmark, "__file__", str(clone / "benchmark" / "__init__.py"))
    job = Job("train", {}, resources=Resources(gpu=1, memory=1))
    submitter = slurm._Submitter(Store(tmp_path / "results"), tmp_path, "cpu", None, 5, {})
    setup = submitter._parameters(slurm.Array([[job]], None, 1, False, 0), None, "x")["setup"]
    script = "\n".join([*setup, 'printf %s "$PYTHONPATH"'])
    said = subprocess.run(["bash", "-c", script], cwd=tmp_path, env={"PATH": os.environ["PATH"]}, capture_output=True)
    assert said.stdout.decode() == str(clone) and not said.stderr
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--results", "a\ntouch pwned"),
        ("--results", "a%j"),
        ("--partition", "a\ntouch pwned"),
        ("--sbatch", "comment=a\ntouch pwned"),
    ],
)
def test_what_a_batch_script_cannot_hold_is_refused(place, monkeypatch, option, value):  # noqa: F811
    slurm = pytest.importorskip("benchmark.engines.slurm")
    monkeypatch.setattr(slurm.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.chdir(place.folder)
    words = [*place.words("run", "--engine", "slurm", "--device", "cpu"), option, value]
    outcome = call(*(word for word in words if word != 1 and word != "--cells-per-gpu"))
    assert outcome.code == 2 and option in outcome.err and outcome.err.count("\n") == 2, outcome
