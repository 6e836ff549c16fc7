"""The committed tables are what the code of today makes of the committed results, byte for byte."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.command_line import call

ROOT = Path(__file__).parents[2]
TEXT = {".md", ".csv", ".tex", ".json"}  # pages have links to files of their place; figures differ with matplotlib


def git(*words: str) -> bytes:
    """What git prints; nothing in a copy of the project without git."""
    try:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return b""


def staged(folder: str) -> dict[str, bytes]:
    """The texts of a folder in git's index: somebody's own runs may have changed those in the tree."""
    names = git("ls-files", "--", folder).decode().split("\n")
    return {name.removeprefix(f"{folder}/"): git("show", f":{name}") for name in names if Path(name).suffix in TEXT}


def written(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.suffix in TEXT}


@pytest.mark.parametrize("about", git("ls-files", "--", "tables/*/about.json").decode().split())
def test_a_suite_is_reported_as_committed(about, tmp_path):
    suite = Path(about).parent.name
    for archive in git("ls-files", "--", "results/shipped").decode().split():
        copy = tmp_path / archive
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / archive, copy)
    outcome = call("report", suite, "--results", tmp_path / "results", "--tables", tmp_path)
    assert outcome.code == 0, outcome.err
    assert written(tmp_path / suite) == staged(f"tables/{suite}")


@pytest.mark.skipif(not git("rev-parse", "--git-dir"), reason="a copy of the project without git")
def test_the_audit_is_as_committed(tmp_path):
    assert call("audit", "--tables", tmp_path).code == 0
    assert written(tmp_path / "audit") == staged("tables/audit")
