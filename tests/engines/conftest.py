"""For the tests of the engines: real clusters on this machine, and the local engine's runs to compare with.

They run with `pytest -m engines`, and are skipped where Ray or Slurm is not installed, which is a failure with
BENCHMARK_TEST_ENGINES=required.
"""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.command_line import Place

# one thread a job: two run at once on two cores, with the same numbers under every engine; Ray else keeps a token in
# the user's home
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
ENVIRONMENT |= {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": uuid.uuid4().hex * 2,
}
# a training of so many epochs that a test has time to disturb it
LONGER = ("--where", "defense=bottleneck,cem=off", "--set", "train.epochs=60")


def needed(what: str, found: bool) -> None:
    """Skip the test where `what` is not installed, or fail where it has to be."""
    if not found:
        refuse = pytest.fail if os.environ.get("BENCHMARK_TEST_ENGINES") == "required" else pytest.skip
        refuse(f"missing: {what}")


@pytest.fixture
def ray_installed():
    needed("ray", importlib.util.find_spec("ray") is not None)


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    """A running Slurm of one node; the environment to use it with is set."""
    installed = all(map(shutil.which, ("munged", "slurmctld", "slurmd", "sbatch")))
    needed("slurm", installed and importlib.util.find_spec("submitit") is not None)
    # not below pytest's own folder, which others may not enter: the daemons refuse it
    folder, script = Path(f"/tmp/benchmark-slurm-{os.getpid()}"), Path(__file__).with_name("slurm.sh")
    try:
        subprocess.run([script, "start", folder], check=True, timeout=120)
        ENVIRONMENT["SLURM_CONF"] = str(folder / "slurm.conf")
        yield folder
        subprocess.run(["scancel", "--me"], env=ENVIRONMENT, check=False)
    finally:  # no daemon stays, nor where the set-up failed
        subprocess.run([script, "stop", folder], check=False, timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


class Bench(Place):
    """Four trainings and an attack on each, seconds long, with the command line in processes of their own."""

    def start(self, command: str, *more, **options) -> subprocess.Popen:
        folders = ["--matrix", self.matrix, "--data", self.data, "--results", self.results]
        folders += ["--tables", self.tables] if command == "report" else []
        words = [sys.executable, "-m", "benchmark", command, "smoke", *folders, *more]
        pipe = subprocess.PIPE
        return subprocess.Popen(map(str, words), env=ENVIRONMENT, stdout=pipe, stderr=pipe, text=True, **options)

    def run(self, command: str, *more, code: int = 0) -> str:
        """Both outputs of a command that must end with `code`."""
        process = self.start(command, *more)
        out, err = process.communicate(timeout=900)
        assert process.returncode == code and "Traceback" not in err, out + err
        return out + err

    def report(self) -> dict[str, bytes]:
        """Every table of the suite: file name -> content. Not the page: it tells when each job ended, too."""
        self.run("report")
        files = [path for path in (self.tables / "smoke").iterdir() if path.is_file() and path.suffix != ".html"]
        return {path.name: path.read_bytes() for path in files}

    def working(self) -> list[Path]:
        """The working folders of the jobs that are under way."""
        return [lock.parent for lock in (self.results / ".work").glob("*/lock.json")]

    def wait_for_epoch(self, epoch: int, process=None) -> Path:
        """The working folder of the first job that has finished this epoch."""
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline and (process is None or process.poll() is None):
            for log in (self.results / ".work").glob("*/log.txt"):
                if f"epoch {epoch}/" in log.read_text():
                    return log.parent
            time.sleep(0.05)
        raise AssertionError(f"no job reached epoch {epoch}" + (process.communicate()[1] if process else ""))

    def holder(self, folder: Path) -> int:
        return json.loads((folder / "lock.json").read_text())["pid"]


def bench(folder: Path, base: Path) -> Bench:
    def change(matrix, smoke):
        smoke |= {"attacker": ["decoder"], "split": ["infer"], "efficiency": []}

    return Bench(folder, base / "data").edit(change)


@pytest.fixture
def place(tmp_path, tmp_path_factory) -> Bench:
    return bench(tmp_path, tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session")
def local(tmp_path_factory) -> Bench:
    """What the local engine makes of the suite."""
    made = bench(tmp_path_factory.mktemp("local"), tmp_path_factory.getbasetemp())
    made.run("run")
    return made


@pytest.fixture(scope="session")
def longer(tmp_path_factory) -> Bench:
    """What the local engine makes of one row with a longer training, undisturbed."""
    made = bench(tmp_path_factory.mktemp("longer"), tmp_path_factory.getbasetemp())
    made.run("run", *LONGER)
    return made


@contextmanager
def killed_at_end(process: subprocess.Popen):
    """Whatever a test does, its process group does not outlive it."""
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
