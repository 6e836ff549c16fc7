"""The script that a commit has to pass: it works in a clone of its own, and leaves the checkout as it is."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
MINE = ("data/mine", ".venv/mine", ".conda/mine", "results/photos/mine", "results/.work/mine", "tables/smoke/mine")
SETTINGS = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
ME = ["-c", "user.name=me", "-c", "user.email=me@example.org"]


def git(folder: Path, *words) -> str:
    command = ["git", "-C", folder, *ME, *words]
    return subprocess.run(command, env=os.environ | SETTINGS, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path) -> Path:
    """Two commits with the script, a reproduce.sh that says where it runs and fails, and a contributor's own files."""
    folder = tmp_path / "checkout"
    (folder / ".ci").mkdir(parents=True)
    shutil.copy(PROJECT / ".ci" / "run", folder / ".ci")
    shutil.copy(PROJECT / ".gitignore", folder)
    says = '#!/bin/sh\nmkdir tables; echo "$PWD $(git rev-parse HEAD)" > tables/where; ls -A >> tables/where; exit 7\n'
    (folder / "reproduce.sh").write_text(says)
    (folder / "reproduce.sh").chmod(0o755)
    git(tmp_path, "init", "--quiet", folder)
    for what in ("first", "second"):
        (folder / "number").write_text(what)
        git(folder, "add", ".")
        git(folder, "commit", "--quiet", "--message", what)
    for name in MINE:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def ci(folder: Path, tmp_path: Path, **more) -> subprocess.CompletedProcess:
    """The script, with stand-ins for what it would install; its temporary files are in `tmp`, the tables in `kept`."""
    tools, temporary = tmp_path / "tools", tmp_path / "tmp"
    for path in (tools, temporary):
        path.mkdir(exist_ok=True)
    for name in ("chromedriver", "slurmctld"):
        (tools / name).write_text("#!/bin/sh\n")
        (tools / name).chmod(0o755)
    environment = os.environ | SETTINGS | {"TMPDIR": str(temporary), "PATH": f"{tools}:{os.environ['PATH']}"} | more
    command = ["bash", folder / ".ci" / "run", "kept"]
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)


def test_nothing_of_the_checkout_is_touched_and_nothing_stays(checkout, tmp_path):
    done = ci(checkout, tmp_path, GIT_DIR=str(tmp_path / "of a hook"))
    where, *files = (tmp_path / "kept" / "where").read_text().splitlines()
    assert done.returncode == 7, done.stderr
    assert where.startswith(str(tmp_path / "tmp")) and where.endswith(git(checkout, "rev-parse", "HEAD"))
    assert files == [".ci", ".git", ".gitignore", "number", "reproduce.sh", "tables"]
    assert all((checkout / name).is_file() for name in MINE) and not git(checkout, "status", "--porcelain")
    assert not list((tmp_path / "tmp").iterdir())


@pytest.mark.parametrize("kind", ["detached", "shallow", "worktree", "another owner"])
def test_the_commit_is_tested_however_it_was_checked_out(checkout, tmp_path, kind):
    outer = tmp_path / "outer"
    if kind == "shallow":
        git(tmp_path, "clone", "--quiet", "--depth", "1", f"file://{checkout}", outer)
        git(outer, "checkout", "--quiet", "--detach")
        git(outer, "branch", "--delete", "--force", git(checkout, "branch", "--show-current"))
    elif kind == "worktree":
        git(checkout, "worktree", "add", "--quiet", "--detach", outer, "HEAD~1")
    else:
        git(tmp_path, "clone", "--quiet", checkout, outer)
        git(outer, "checkout", "--quiet", "--detach")
        (outer / "number").write_text("of no branch")
        git(outer, "commit", "--quiet", "--all", "--message", "third")
    wanted = git(outer, "rev-parse", "HEAD")
    if kind == "another owner":
        if os.getuid():
            pytest.skip("only root can give files away")
        subprocess.run(["chown", "-R", "12345", outer], check=True)
    done = ci(outer, tmp_path)
    assert done.returncode == 7, done.stderr
    assert (tmp_path / "kept" / "where").read_text().splitlines()[0].endswith(wanted)


def test_what_is_not_committed_is_told(checkout, tmp_path):
    (checkout / "new").touch()
    done = ci(checkout, tmp_path)
    assert done.returncode == 7 and done.stderr.startswith("not committed, so not tested: new\n"), done.stderr
    (checkout / "number").write_text("changed")
    done = ci(checkout, tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(f"error: {checkout} has changes that are not committed")


def test_a_copy_without_commits_is_tested_in_place_if_nothing_can_be_lost(checkout, tmp_path):
    shutil.rmtree(checkout / ".git")
    done = ci(checkout, tmp_path)
    assert done.returncode == 2 and ".venv, which this would overwrite" in done.stderr
    for name in MINE:
        shutil.rmtree((checkout / name).parent)
    done = ci(checkout, tmp_path, GIT_CEILING_DIRECTORIES=str(tmp_path))
    assert done.returncode == 7 and (checkout / "tables" / "where").read_text().startswith(str(checkout))
