"""What reproduce.sh sets up is its own: an environment that somebody else made is kept. Conda is a stand-in here."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
CONDA = """#!/bin/sh
# micromamba env create -p FOLDER -f FILE
[ "$1 $2 $3 $5" = "env create -p -f" ] && [ -f "$6" ] && [ ! -e "$4" ] || exit 1
mkdir -p "$4/bin" && printf '#!/bin/sh\\necho "python $*"\\n' > "$4/bin/python" && chmod +x "$4/bin/python"
[ ! -e half ] || { rm half; exit 1; }
"""


@pytest.fixture
def project(tmp_path) -> Path:
    for name in ("reproduce.sh", "environment.yml", "pyproject.toml", "requirements.lock"):
        shutil.copy(PROJECT / name, tmp_path / name)
    return tmp_path


def reproduce(project: Path, path: str = "/usr/bin:/bin") -> subprocess.CompletedProcess:
    words = ["./reproduce.sh", "test", "--collect-only"]
    return subprocess.run(words, cwd=project, env=os.environ | {"PATH": path}, capture_output=True, text=True)


@pytest.fixture
def conda(project) -> str:
    tool = project / "tools" / "micromamba"
    tool.parent.mkdir()
    tool.write_text(CONDA)
    tool.chmod(0o755)
    return f"{tool.parent}:/usr/bin:/bin"


def test_an_environment_is_made_once_and_again_where_that_was_interrupted(project, conda):
    (project / "half").touch()
    assert reproduce(project, conda).returncode != 0 and (project / ".conda.unfinished").exists()
    made, used = reproduce(project, conda), reproduce(project, conda)
    assert made.returncode == used.returncode == 0, made.stderr + used.stderr
    assert "setting up" in made.stderr and "setting up" not in used.stderr
    assert "python -m pytest" in used.stdout and "--collect-only" in used.stdout
    assert not (project / ".conda.unfinished").exists()
    with (project / "environment.yml").open("a") as file:
        file.write("# changed\n")
    assert "setting up" in reproduce(project, conda).stderr  # ours, so made anew


def test_somebody_elses_conda_environment_is_kept(project, conda):
    mine = project / ".conda" / "mine"
    mine.parent.mkdir()
    mine.touch()
    refused = reproduce(project, conda)
    assert refused.returncode == 2 and mine.exists()
    assert refused.stderr.splitlines()[-1] == (
        f"error: {project}/.conda was not made by reproduce.sh; move it away and run again"
    )


def test_somebody_elses_venv_is_kept(project):
    mine = project / ".venv" / "mine"
    mine.parent.mkdir()
    mine.touch()
    refused = reproduce(project)
    assert refused.returncode == 2 and mine.exists()
    assert "was not made by reproduce.sh; install pip into it or move it away" in refused.stderr
