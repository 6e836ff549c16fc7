"""Which code a result came from: its own commit or none, whatever repositories lie around it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import benchmark
from benchmark.errors import UserError
from benchmark.jobs import run_job
from benchmark.jobs.run_job import Machine
from benchmark.models import passes
from benchmark.store.store import Store
from tests.support.command_line import FORKS


def git(folder: Path, *words: str) -> str:
    named = ["-c", "user.name=a", "-c", "user.email=a@b"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", *named, *words]
    return subprocess.run(
        command, cwd=folder, env=environment, check=True, capture_output=True, text=True
    ).stdout.strip()


def repository(folder: Path) -> str:
    """A repository of something else; its commit."""
    folder.mkdir(parents=True, exist_ok=True)
    git(folder, "init", "--quiet")
    (folder / "other.txt").write_text("something else")
    git(folder, "add", "other.txt")
    git(folder, "commit", "--quiet", "--message", "x")
    return git(folder, "rev-parse", "HEAD")


def recorded(lies: Path, **environment) -> dict:
    """The provenance that the copy of the package below `lies` records, in a process of its own."""
    ours, theirs = FORKS.Pipe()
    process = FORKS.Process(target=_record, args=(theirs, lies, environment))
    process.start()
    theirs.close()
    found = ours.recv()
    process.join()
    return found


def _record(link, lies: Path, environment: dict[str, str]) -> None:
    passes._LIBRARY._destroy()  # or torch would know its operators twice
    for name in [name for name in sys.modules if name.split(".")[0] == "benchmark"]:
        del sys.modules[name]
    sys.path.insert(0, str(lies))
    os.chdir("/")
    os.environ.update(environment)
    from benchmark.jobs import provenance

    assert Path(provenance.__file__).is_relative_to(lies)
    link.send(provenance.provenance(torch.device("cpu")))


@pytest.fixture
def copy(tmp_path) -> Path:
    """A folder that holds a copy of the package, and its surroundings."""
    place = tmp_path / "around" / "venv" / "site-packages"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(benchmark.__file__).parent, place / "benchmark", ignore=ignore)
    return place


def test_an_installed_copy_inside_another_repository(copy, tmp_path):
    other = repository(tmp_path / "around")
    found = recorded(copy)
    assert found["commit"] == "" and found["version"] == benchmark.__version__
    git_dir = {"GIT_DIR": str(tmp_path / "around" / ".git"), "GIT_WORK_TREE": str(tmp_path / "around")}
    assert recorded(copy, **git_dir)["commit"] == "" != other


def test_a_checkout_and_its_changes(copy, tmp_path):
    git(copy, "init", "--quiet")
    git(copy, "add", ".")
    git(copy, "commit", "--quiet", "--message", "x")
    other, own = repository(tmp_path / "other"), git(copy, "rev-parse", "HEAD")
    assert recorded(copy)["commit"] == own != other
    assert recorded(copy, GIT_DIR=str(tmp_path / "other" / ".git"))["commit"] == own
    (copy / "benchmark" / "text.py").write_text((copy / "benchmark" / "text.py").read_text() + "\n")
    assert recorded(copy)["commit"] == f"{own}+changes"


def test_a_repository_runs_nothing(copy, tmp_path):
    """Its configuration may name a program that watches the files for git."""
    repository(tmp_path / "around")
    git(tmp_path / "around", "config", "core.fsmonitor", f"touch {tmp_path}/pwned; false")
    recorded(copy)
    assert not (tmp_path / "pwned").exists()


def test_without_git(copy, tmp_path):
    found = recorded(copy, PATH=str(tmp_path))
    assert found["commit"] == "" and found["version"] == benchmark.__version__


def test_a_copy_is_told_its_commit(copy, tmp_path):
    """By BENCHMARK_COMMIT, where it has none of its own."""
    told = "0123456789" * 4
    assert recorded(copy, BENCHMARK_COMMIT=told)["commit"] == told
    git(copy, "init", "--quiet")
    git(copy, "add", ".")
    git(copy, "commit", "--quiet", "--message", "x")
    assert recorded(copy, BENCHMARK_COMMIT=told)["commit"] == git(copy, "rev-parse", "HEAD")


@pytest.mark.parametrize("told", ["HEAD", "0123456", "g" * 40, "a" * 41, "a" * 40 + "\n"])
def test_what_is_no_commit_is_refused_before_any_job(told, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCHMARK_COMMIT", told)
    with pytest.raises(UserError, match="^the environment variable BENCHMARK_COMMIT is .* or not at all$"):
        Machine(Store(tmp_path), tmp_path, torch.device("cpu"))


@pytest.mark.parametrize(
    "trained, wanted, here, expected",
    [
        (("cpu", "bf16"), "auto", "bf16", "bf16"),
        (("cpu", "bf16"), "auto", "fp32", "fp32"),  # emulated, an attack of minutes would take days
        (("cpu", "fp32"), "auto", "bf16", "fp32"),
        (("cpu", "bf16"), "bf16", "fp32", "bf16"),  # as asked for
        (("cuda", "bf16"), "auto", "fp32", "fp32"),
        (("cuda", "fp32"), "auto", "bf16", "bf16"),
    ],
)
def test_an_attack_has_its_trainings_precision_where_the_machine_has_it(monkeypatch, trained, wanted, here, expected):
    kind, used = trained
    record = {"device_type": kind, "precision": used}
    machine = SimpleNamespace(device=torch.device("cpu"), store=SimpleNamespace(provenance=lambda job: record))
    monkeypatch.setattr(run_job.device, "precision", lambda where, wanted: here)
    parent = SimpleNamespace(config={"train": {"precision": wanted}})
    assert run_job._precision_of(parent, machine) == expected
