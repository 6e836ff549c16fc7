"""The committed tables are what the code makes of the committed results: the same text, and numbers to 9 digits."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.support.command_line import call

ROOT = Path(__file__).parents[2]
TEXT = {".md", ".csv", ".tex", ".json"}  # pages have links to files of their place; figures differ with matplotlib
LONG = re.compile(rb"-?\d+\.\d{9,}(e-?\d+)?")  # the last digits of these are the mathematical library's


def git(*words: str) -> bytes:
    """What git prints; nothing in a copy of the project without git."""
    try:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return b""


def tracked(pattern: str) -> list[str]:
    return [name for name in git("ls-files", "-z", "--", pattern).decode().split("\0") if name]


def staged(name: str) -> bytes:
    """A file as it stands in git's index: somebody's own runs may have changed the one in the tree."""
    return git("show", f":./{name}")


def texts(files: dict[str, bytes]) -> dict[str, bytes]:
    return {
        name: LONG.sub(lambda number: b"%.9g" % float(number[0]), content)
        for name, content in files.items()
        if Path(name).suffix in TEXT
    }


def written(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return texts({path.relative_to(folder).as_posix(): path.read_bytes() for path in files})


def committed(folder: str) -> dict[str, bytes]:
    return texts({name.removeprefix(f"{folder}/"): staged(name) for name in tracked(folder)})


@pytest.mark.usefixtures("no_pdfs")  # they are not compared
@pytest.mark.parametrize("about", tracked("tables/*/about.json"))
@pytest.mark.slow
def test_a_suite_is_reported_as_committed(about, tmp_path):
    suite = Path(about).parent.name
    for archive in tracked("results/shipped"):
        copy = tmp_path / archive
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(staged(archive))
    figures = [] if tracked(f"tables/{suite}/plots") else ["--no-plots"]
    outcome = call("report", suite, "--results", tmp_path / "results", "--tables", tmp_path, *figures)
    assert outcome.code == 0, outcome.err
    assert written(tmp_path / suite) == committed(f"tables/{suite}")


@pytest.mark.skipif(not tracked("tables/audit"), reason="a copy of the project without git")
def test_the_audit_is_as_committed(tmp_path):
    assert call("audit", "--tables", tmp_path).code == 0
    assert written(tmp_path / "audit") == committed("tables/audit")
