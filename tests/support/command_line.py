"""For the tests of the whole: the command line in this process, a small suite, and one finished run of it."""

import contextlib
import errno
import functools
import io
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import yaml

from benchmark import cli
from benchmark.matrix.expand import expand, parse_where
from benchmark.matrix.load import DEFAULT, MatrixFile, parse_set

TINY = {
    "data.train_images": 24,
    "data.test_images": 20,
    "train.epochs": 2,  # CEM starts in the second
    "train.batch_size": 12,
    "train.precision": "fp32",
    "attacks.*.batch_size": 9,
    "attacks.*.epochs": 1,
    "attacks.*.blocks": 1,
    "efficiency.batches": 1,
    "efficiency.batch_size": 2,
}


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


def call(*words) -> Outcome:
    """`python -m benchmark WORDS` without a new process. An exception that leaves main() fails the test."""
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    alone = ["--cells-per-gpu", "1"] if words[:1] == ("run",) and "--cells-per-gpu" not in words else []
    sys.argv = [
        "benchmark",
        *map(str, words),
        *alone,
    ]  # in this process: workers would take longer to start than to work
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
            code = 0
    except SystemExit as stop:
        code = stop.code
    finally:
        sys.argv = before
    return Outcome(code, out.getvalue(), err.getvalue())


FORKS = multiprocessing.get_context("forkserver")  # its processes need not import torch again
FORKS.set_forkserver_preload(["benchmark.cli", "benchmark.engines.local", "benchmarks.stage", "pytest"])


@pytest.fixture
def forked(monkeypatch) -> None:
    """Workers and timed processes that this process starts are forked too: what they inherit does not matter."""
    monkeypatch.setattr("benchmark.engines.workers.SPAWN", FORKS)
    monkeypatch.setattr("benchmarks.cells.SPAWN", FORKS)


def started(words: list, folder: Path, environment=None, where: Path | None = None, first=None) -> BaseProcess:
    """`python -m benchmark WORDS` in a process of its own, which adds its output to the files `out` and `err`.

    environment, where: in place of those of the tests; torch is loaded, so its own variables change nothing any more.
    first: a function of a module that the process calls before anything else.
    """
    given = (list(map(str, words)), dict(os.environ if environment is None else environment), where or Path.cwd())
    process = FORKS.Process(target=_forked, args=(folder, first, *given))
    process.start()
    return process


def _forked(folder: Path, first, *given) -> None:
    streams = [os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND) for name in ("out", "err")]
    if first:
        first()
    main((os.open(os.devnull, os.O_RDONLY), *streams), *given)


def main(streams: Iterable[int], words: list[str], environment: dict[str, str], where: Path) -> None:
    """All that `python -m benchmark WORDS` does, in a process made for it: with these streams, 0 to 2."""
    os.chdir(where)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the tests may run where Ctrl-C is ignored
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # and what forks may have begun where signals were held back
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False, errors="backslashreplace")
    sys.argv = ["benchmark", *words]
    cli.main()


def workers_of(pid: int) -> list[int]:
    """The ids of a runner's worker processes that have begun to live."""
    found = []
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(int(child))
    return found


def call_apart(*words, environment: dict[str, str] | None = None, where: Path | None = None) -> Outcome:
    """`python -m benchmark WORDS` in a process of its own, which may do what it likes to itself; as `started`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        process = started(list(words), folder, environment, where)
        process.join()
        return Outcome(process.exitcode, (folder / "out").read_text(), (folder / "err").read_text())


def break_disk(monkeypatch, path: Path) -> None:
    """Let every opening of the file fail with EIO, for root too, which no rights of a file can do."""
    opening = open

    def fail(file, *more, **options):
        if not isinstance(file, int) and os.fspath(file) == str(path):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return opening(file, *more, **options)

    monkeypatch.setattr("builtins.open", fail)
    monkeypatch.setattr("io.open", fail)


@dataclass(frozen=True)
class Place:
    """A matrix whose smoke suite is tiny, with folders of its own."""

    folder: Path
    data: Path

    @property
    def matrix(self) -> Path:
        return self.folder / "matrix.yaml"

    @property
    def results(self) -> Path:
        return self.folder / "results"

    @property
    def tables(self) -> Path:
        return self.folder / "tables"

    def edit(self, change=lambda matrix, smoke: None) -> "Place":
        """Write the matrix, changed by `change(matrix, smoke suite)`: plain data."""
        value = MatrixFile(DEFAULT).source.value
        smoke = value["suites"]["smoke"]
        smoke["set"] |= TINY
        smoke["defense"] = ["bottleneck", "dropout"]
        # the smaller network, but not in the efficiency rows: they are of the VGG and have no protocol
        smoke["overrides"] = [{"where": {"protocol": "published"}, "set": {"model.arch": "resnet20"}}]
        change(value, smoke)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.matrix.write_text(yaml.safe_dump(value))
        return self

    def words(self, command: str, *more, suite="smoke") -> list:
        folders = ["--matrix", self.matrix, "--data", self.data, "--results", self.results]
        if command == "report":
            folders += ["--tables", self.tables, "--no-plots"]  # they take seconds; report/test_plots.py asks for them
        if command == "run":  # one process, which sees what a test has changed, however many cores there are
            folders += ["--cells-per-gpu", 1]
        return [*command.split(), suite, *folders, *more]

    def call(self, command: str, *more, suite="smoke") -> Outcome:
        return call(*self.words(command, *more, suite=suite))

    def cells(self, *where, changes=()):
        return expand(MatrixFile(self.matrix), "smoke", self.data, parse_where(list(where)), parse_set(list(changes)))

    def written(self) -> Path:
        """The only folder of tables that there is: one of its own where --where chose a part of the suite."""
        (found,) = (path for path in self.tables.iterdir() if path.is_dir())
        return found

    def finished(self) -> dict[str, bytes]:
        """Folder of each finished job below the results -> its metrics.json."""
        found = self.results.glob("*/*/*/metrics.json")
        return {str(path.parent.relative_to(self.results)): path.read_bytes() for path in found}


@functools.cache
def _finished(base: Path) -> tuple[Place, Outcome]:
    place = Place(base / "finished", base / "data").edit()
    return place, place.call("run")


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Place:
    """A finished run of the tiny suite: two defences, CEM off and on, both attackers and splits. Do not change it."""
    place, outcome = _finished(tmp_path_factory.getbasetemp())
    assert outcome.code == 0, outcome.err
    return place


@pytest.fixture
def place(tmp_path, tmp_path_factory) -> Place:
    """The tiny suite with nothing run."""
    return Place(tmp_path, tmp_path_factory.getbasetemp() / "data").edit()


@pytest.fixture
def copied(finished, place) -> Place:
    """The tiny suite with a copy of the finished run, to be changed at will."""
    shutil.copytree(finished.results, place.results)
    return place
