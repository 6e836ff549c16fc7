"""Output is not work: a terminal that goes, a full or closed stderr, a reader that has read enough."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.support.command_line import Place, finished, place, started  # noqa: F401 (fixtures)
from tests.support.terminal import Terminal

ONE = ("--where", "defense=bottleneck,cem=off,attacker=decoder,split=infer")
LONG = (*ONE, "--set", "train.epochs=400")


def words(place, *more) -> list[str]:  # noqa: F811
    return [sys.executable, "-m", "benchmark", *map(str, place.words("run", *more))]


def wait_for_epoch(place, process) -> None:  # noqa: F811
    deadline = time.monotonic() + 120
    while not any("epoch 2/" in log.read_text() for log in (place.results / ".work").glob("*/log.txt")):
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.05)


def state(place) -> list:  # noqa: F811
    return list((place.results / ".work").glob("*/state.safetensors"))


def test_a_terminal_that_goes(place):  # noqa: F811
    """Its other end is closed in the middle of a run: every write fails from then on, and the run ends well."""
    with Terminal(place.words("run", *ONE, "--set", "train.epochs=40"), dict(os.environ)) as terminal:
        wait_for_epoch(place, terminal.process)
        os.close(terminal.master)
        terminal.process.join(300)
        terminal.master = os.open(os.devnull, os.O_RDONLY)
    assert terminal.process.exitcode == 0 and len(place.finished()) == 2


@pytest.mark.parametrize("at_once", [1, 2])
def test_a_hang_up_saves(place, at_once):  # noqa: F811
    """To all of its processes, and more than once, as terminals and shells do."""
    command = place.words("run", *LONG)
    command[command.index("--cells-per-gpu") + 1] = at_once
    process = started(command, place.folder, first=heeds)
    wait_for_epoch(place, process)
    for _ in range(3):
        os.killpg(process.pid, signal.SIGHUP)
    process.join(300)
    err = (place.folder / "err").read_text()
    assert process.exitcode == 130 and "interrupted; run the same command" in err, err
    assert len(state(place)) == 1 and not list((place.results / ".work").glob("*/failed.json"))


def test_nohup(place):  # noqa: F811
    process = started(place.words("run", *ONE, "--set", "train.epochs=40"), place.folder, first=ignores)
    wait_for_epoch(place, process)
    os.killpg(process.pid, signal.SIGHUP)
    process.join(300)
    assert process.exitcode == 0 and len(place.finished()) == 2


def heeds() -> None:
    """In a session of its own, which these tests under nohup are not."""
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def ignores() -> None:
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


@pytest.mark.parametrize(
    ("streams", "at_once"),
    [("2>/dev/full", 1), ("2>&-", 2), (">&- 2>&-", 1), ("<&- >&- 2>&-", 2), ("2>/dev/full >/dev/full", 2)],
)
@pytest.mark.slow
def test_stderr_that_takes_nothing(place, streams, at_once):  # noqa: F811
    """With workers, which inherit the streams, and without."""
    shell = ["bash", "-c", f'exec "$@" {streams}', "bash", *words(place, *ONE, "--cells-per-gpu", at_once)]
    done = subprocess.run(shell, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout == done.stderr == "", done
    assert len(place.finished()) == 2
    for path in place.results.rglob("*"):  # and none of what was told stands in a result
        assert not path.is_file() or b"jobs, engine local" not in path.read_bytes()


def test_a_reader_that_has_read_enough(finished):  # noqa: F811
    command = [sys.executable, "-m", "benchmark", *map(str, finished.words("plan"))]
    shell = ["bash", "-c", '"$@" | head -1; exit ${PIPESTATUS[0]}', "bash", *command]
    done = subprocess.run(shell, capture_output=True, text=True, timeout=300)
    assert " jobs, " in done.stdout and done.stdout.count("\n") == 1 and done.stderr == ""
    shell[2] = '"$@" | true; exit ${PIPESTATUS[0]}'
    done = subprocess.run(shell, capture_output=True, text=True, timeout=300)
    assert done.returncode == 141 and done.stderr == "", done


def test_what_was_asked_for_and_cannot_be_written_is_told(finished):  # noqa: F811
    command = [sys.executable, "-m", "benchmark", *map(str, finished.words("plan"))]
    done = subprocess.run(["bash", "-c", '"$@" >/dev/full', "bash", *command], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr == "error: [Errno 28] No space left on device\n", done


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_locale_without_our_characters(finished, tmp_path, encoding):  # noqa: F811
    """An en dash stands for a value that is not there."""
    assert finished.call("report", "--tables", tmp_path).code == 0
    text = (tmp_path / "smoke" / "results.csv").read_text().replace(",done,", ",failed,", 3)
    (tmp_path / "less.csv").write_text(text)
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", "LC_ALL": "C"}
    command = [sys.executable, "-m", "benchmark", "diff", str(tmp_path / "smoke"), str(tmp_path / "less.csv")]
    done = subprocess.run(command, env=environment, capture_output=True)
    assert done.returncode == 1 and b"\\u2013" in done.stdout and done.stderr == b"", done.stderr
