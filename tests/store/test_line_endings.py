"""Results in a git checkout that converts line endings, as on Windows."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.command_line import Place, call, finished, place  # noqa: F401 (fixtures)

PROJECT = Path(__file__).parents[2]
SPARED = ("checkpoint.safetensors", "per_image.safetensors")


def git(folder: Path, *words: str) -> None:
    named = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "safe.directory=*"]
    subprocess.run(["git", *named, *words], cwd=folder, check=True, capture_output=True)


def clone(finished, tmp_path, attributes: bool) -> Place:  # noqa: F811
    """A clone, with core.autocrlf, of a repository with results and a script."""
    origin = tmp_path / "origin"
    shutil.copytree(finished.results, origin / "results", ignore=shutil.ignore_patterns(*SPARED, ".work"))
    shutil.copy(PROJECT / "reproduce.sh", origin)
    if attributes:
        shutil.copy(PROJECT / ".gitattributes", origin)
    git(origin, "init", "--quiet")
    git(origin, "add", ".")
    git(origin, "commit", "--quiet", "--message", "x")
    git(tmp_path, "clone", "--quiet", "--config", "core.autocrlf=true", str(origin), "clone")
    shutil.copy(finished.matrix, tmp_path / "clone" / "matrix.yaml")
    return Place(tmp_path / "clone", finished.data)


def test_a_checkout_of_this_project(finished, tmp_path):  # noqa: F811
    place = clone(finished, tmp_path, attributes=True)  # noqa: F811
    assert call("store", "verify", "--results", place.results).code == 0
    assert b"\r" not in (place.folder / "reproduce.sh").read_bytes()
    assert "22 of 22 jobs are in the store already" in place.call("run").err


def test_a_checkout_that_converts(finished, tmp_path):  # noqa: F811
    place = clone(finished, tmp_path, attributes=False)  # noqa: F811
    (folder,) = place.results.glob("photos/dropout/train-*")
    assert b"\r\n" in (folder / "metrics.json").read_bytes()
    outcome = call("store", "verify", "--results", place.results)
    assert outcome.code == 1 and "damaged: " not in outcome.out and "0 damaged, 22 unreadable" in outcome.out, outcome
    assert outcome.out.count("has other line endings than it was written with") == 22
    before = {path: path.read_bytes() for path in place.results.rglob("*") if path.is_file()}
    for command in ("run", "status", "report"):
        outcome = place.call(command)
        assert outcome.code == 2 and "has other line endings" in outcome.err, (command, outcome)
        assert outcome.err.count("error: ") == 1 and "Traceback" not in outcome.err
    assert {path: path.read_bytes() for path in place.results.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", ["history.csv", "log.txt"])
def test_damage_beside_line_endings_is_damage(finished, tmp_path, name):  # noqa: F811
    place = clone(finished, tmp_path, attributes=False)  # noqa: F811
    (folder,) = place.results.glob("photos/dropout/train-*")
    for path in (path for path in folder.iterdir() if path.suffix != ".safetensors"):
        path.write_bytes(path.read_bytes().replace(b"\r\n", b"\n"))
    assert "1 intact" in call("store", "verify", "--results", place.results).out
    (folder / name).write_bytes((folder / name).read_bytes().replace(b"\n", b"\r\n") + b"x")
    assert f"damaged: {folder / name} was altered" in call("store", "verify", "--results", place.results).out


def test_the_project_itself_has_no_carriage_returns():
    """Nor an attribute that lets git make some."""
    listed = subprocess.run(["git", "ls-files", "-z", "*.sh", "*.py", ".ci/*"], cwd=PROJECT, capture_output=True)
    if listed.returncode:
        pytest.skip("not a checkout")
    names = [name.decode() for name in listed.stdout.split(b"\0") if name]
    assert len(names) > 100 and not [name for name in names if b"\r" in (PROJECT / name).read_bytes()]
