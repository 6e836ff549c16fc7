"""Locks: one holder at a time, whoever dies, sleeps, comes back or looks at the wrong moment."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmark.jobs import attempt as attempts
from benchmark.matrix.cells import Job
from benchmark.store import lock as module
from benchmark.store.lock import LOCK, Locks, Lost, machine
from benchmark.store.store import Store

TRAIN = Job("train", {"dataset": "photos", "defense": {"name": "none"}, "cem": None, "seed": 1})
FORK = multiprocessing.get_context("fork")
DONE = {"status": "done", "reason": "", "values": {"accuracy_percent": 12.5}}
ELSEWHERE = {"host": "elsewhere", "pid": 1, "machine": "elsewhere", "token": "theirs"}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results")


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """A taker watches a suspect for a moment only."""
    monkeypatch.setattr(module, "WATCH", 0.02)


@pytest.fixture
def dead() -> dict:
    """The lock of a process of this machine that has ended."""
    child = subprocess.Popen(["true"])
    child.wait()
    return {"host": socket.gethostname(), "pid": child.pid, "machine": machine(), "token": "dead"}


def lock(store, content, age=0.0) -> Path:
    path = store.workdir(TRAIN) / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def claimed(store) -> bool:
    with store.claim(TRAIN) as folder:
        return folder is not None


def finish(store):
    with store.claim(TRAIN) as folder:
        (folder / "history.csv").write_text("epoch\n1\n")
        store.finish(TRAIN, DONE, {})


# -- who is alive


def test_a_living_holder_is_respected(store):
    path = lock(store, {"host": socket.gethostname(), "pid": os.getppid(), "machine": machine(), "token": "t"})
    assert not claimed(store)
    status, reason = store.status(TRAIN)
    assert status == "running" and str(os.getppid()) in reason and path.exists()


def test_a_holder_on_another_machine_lives_by_its_heartbeat(store):
    lock(store, ELSEWHERE, age=module.STALE - 5)
    assert not claimed(store) and store.status(TRAIN)[0] == "running"
    lock(store, ELSEWHERE, age=module.STALE + 5)
    assert store.status(TRAIN)[0] == "waiting" and claimed(store)


def test_a_process_id_says_nothing_about_another_machine(store, dead):
    lock(store, dead | {"machine": "another container of the same name"})
    assert not claimed(store)


def test_a_dead_holders_work_goes_on_in_a_folder_of_the_next_ones_own(store, dead):
    old = lock(store, dead).parent
    (old / "log.txt").write_text("epoch 1\n")
    (old / "state.safetensors").write_text("state")
    (old / "half-written").write_text("ha")
    assert store.status(TRAIN)[0] == "waiting"
    with store.claim(TRAIN) as folder:
        assert folder == store.workdir(TRAIN) != old and not old.exists()
        assert json.loads((folder / LOCK).read_text())["pid"] == os.getpid()
        assert {file.name for file in folder.iterdir()} == {LOCK, "log.txt", "state.safetensors"}
    assert {file.name for file in folder.iterdir()} == {"log.txt", "state.safetensors"}
    assert [path.name for path in store.work.iterdir()] == [folder.name]


@pytest.mark.parametrize("content", ["", '{"host": "a', "null", "{}", "[1]", '{"host": [], "pid": 1e999}', "[" * 9999])
def test_a_torn_lock_counts_by_its_age(store, content):
    lock(store, content)
    assert store.status(TRAIN)[0] == "running" and not claimed(store)
    lock(store, content, age=module.STALE + 5)
    assert store.status(TRAIN)[0] == "waiting" and claimed(store)


def test_a_lock_of_an_earlier_version_is_respected(store):
    lock(store, {"host": socket.gethostname(), "pid": os.getppid()})
    assert not claimed(store)
    lock(store, {"host": socket.gethostname(), "pid": os.getppid()}, age=module.STALE + 5)
    assert claimed(store)


def test_one_holder_at_a_time(store):
    other = Store(store.root)
    with store.claim(TRAIN) as first, other.claim(TRAIN) as second:
        assert first is not None and second is None
    assert claimed(other)


def test_the_heartbeat_keeps_a_lock_fresh(store, monkeypatch):
    monkeypatch.setattr(module, "HEARTBEAT", 0.02)
    with store.claim(TRAIN) as folder:
        path = folder / LOCK
        os.utime(path, (0, 0))
        deadline = time.monotonic() + 5
        while path.stat().st_mtime < 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert time.time() - path.stat().st_mtime < 5


# -- clocks


def test_no_clock_of_ours_is_asked(store, monkeypatch):
    """Whatever this machine's clock says: the age of a heartbeat is by the clock that stamped it."""
    lock(store, ELSEWHERE)
    for wrong in (-1e6, 1e6):
        real = time.time()
        monkeypatch.setattr(module.time, "time", lambda now=real + wrong: now)
        assert not claimed(store) and store.status(TRAIN)[0] == "running"


@pytest.mark.parametrize("jump", [1e6, -1e6])
def test_a_file_servers_clock_that_is_set_robs_nobody(store, monkeypatch, jump):
    """To a clock set forward a living holder looks silent for long, to one set back it beats in the future: a taker
    watches, sees a beat, and leaves it alone."""
    monkeypatch.setattr(module, "HEARTBEAT", 0.05)
    monkeypatch.setattr(module, "WATCH", 100)
    monkeypatch.setattr(Locks, "_now", lambda self: time.time() + jump)
    taker = Store(store.root)
    with store.claim(TRAIN):
        start = time.monotonic()
        assert not claimed(taker) and time.monotonic() - start < 3
    assert claimed(taker)


def test_a_dead_holder_is_taken_over_although_the_clock_was_set_back(store):
    lock(store, ELSEWHERE, age=-1e6)  # its last beat lies in the future
    assert claimed(store)


# -- at the wrong moment


def between(monkeypatch, name, what):
    """Run `what` once, right after the next call of Locks' method `name`: the caller was suspended there."""
    real = getattr(Locks, name)

    def call(self, *words):
        result = real(self, *words)
        monkeypatch.setattr(Locks, name, real)
        what()
        return result

    monkeypatch.setattr(Locks, name, call)


def test_a_taker_that_looked_long_ago_does_not_rob_the_next_holder(store, dead, monkeypatch):
    """A sees a dead lock. Before it acts B takes the job over and works. A must not take B's lock away."""
    lock(store, dead)
    other, held = Store(store.root), []

    def take_over():
        holding = other.claim(TRAIN)
        held.append((holding, holding.__enter__()))

    between(monkeypatch, "_gone", take_over)
    assert not claimed(store)
    holding, folder = held[0]
    assert folder.is_dir() and not other.lost(TRAIN)
    other.finish(TRAIN, DONE, {})
    holding.__exit__(None, None, None)
    assert store.done(TRAIN) and list(store.work.iterdir()) == []


def test_not_even_where_the_folders_have_the_same_names_again(store, dead, monkeypatch):
    """As above, and in the meantime the job was finished, set aside and begun once more, from the first folder."""
    lock(store, dead)
    other, held = Store(store.root), []

    def much_happens():
        finish(other)
        other.set_aside(TRAIN)
        holding = other.claim(TRAIN)
        held.append((holding, holding.__enter__()))

    between(monkeypatch, "_gone", much_happens)
    assert not claimed(store)
    assert held[0][1] == store.work / TRAIN.key[:12] and not other.lost(TRAIN)
    held[0][0].__exit__(None, None, None)


def test_a_holder_that_finished_between_look_and_taking(store, dead, monkeypatch):
    lock(store, dead)
    between(monkeypatch, "_gone", lambda: finish(Store(store.root)))
    assert not claimed(store)
    assert store.done(TRAIN) and list(store.work.iterdir()) == []


def test_a_suspended_holder_notices_and_does_not_publish_over_the_other(store, monkeypatch):
    monkeypatch.setattr(module, "HEARTBEAT", 0.02)
    monkeypatch.setattr(Locks, "_beat", lambda *_: None)  # suspended
    other = Store(store.root)
    with store.claim(TRAIN) as first:
        (first / "history.csv").write_text("first")
        os.utime(first / LOCK, (1, 1))
        with other.claim(TRAIN) as second:
            assert second not in (None, first) and store.lost(TRAIN) and not other.lost(TRAIN)
            with pytest.raises(FileNotFoundError):
                (first / "log.txt").write_text("I am back")
            with pytest.raises((Lost, FileNotFoundError)):
                store.finish(TRAIN, DONE | {"values": {"accuracy_percent": 1.0}}, {})
            assert not store.done(TRAIN)
            other.finish(TRAIN, DONE, {})
    assert store.metrics(TRAIN) == DONE and list(store.work.iterdir()) == []


def test_a_heartbeat_notices_too_and_stops(store, monkeypatch):
    monkeypatch.setattr(module, "HEARTBEAT", 0.02)
    with store.claim(TRAIN) as folder:
        assert not store.lost(TRAIN, look=False)
        theirs = store.work / f"{TRAIN.key[:12]}.1"
        theirs.mkdir()
        (theirs / LOCK).write_text(json.dumps(ELSEWHERE))
        deadline = time.monotonic() + 5
        while not store.lost(TRAIN, look=False) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert store.lost(TRAIN, look=False)
        os.utime(folder / LOCK, (1, 1))
        time.sleep(0.1)
        assert (folder / LOCK).stat().st_mtime == 1
    assert (theirs / LOCK).exists()


def test_a_job_that_the_heartbeat_stopped_is_no_interrupt(store, monkeypatch):
    """Although the robber has gone since, so that a look finds nobody."""
    monkeypatch.setattr(module, "HEARTBEAT", 0.02)

    def run(job, folder, machine, monitor):
        theirs = store.work / f"{job.key[:12]}.1"
        theirs.mkdir()
        (theirs / LOCK).write_text(json.dumps(ELSEWHERE))
        deadline = time.monotonic() + 5
        while not monitor.stopping() and time.monotonic() < deadline:
            time.sleep(0.01)
        shutil.rmtree(theirs)
        assert monitor.stopping() and not store.lost(job)
        raise KeyboardInterrupt  # as the loop does when it is to stop

    monkeypatch.setattr(attempts, "execute", run)
    display = SimpleNamespace(begin=lambda job: None, progress=lambda job, beat: None)
    machine = SimpleNamespace(store=store, device="cpu")
    assert attempts.attempt(TRAIN, machine, display, lambda: False).kind == "held"


def test_a_result_that_is_there_stays(store):
    """Two finished the same job after all: the second finds the first's result and leaves it."""
    with store.claim(TRAIN) as folder:
        (folder / "history.csv").write_text("mine")
        other = Store(store.root)
        other.path(TRAIN).mkdir(parents=True)
        (other.path(TRAIN) / "metrics.json").write_text(json.dumps(DONE))
        with pytest.raises(Lost):
            store.finish(TRAIN, DONE | {"reason": "mine"}, {})
    assert store.metrics(TRAIN) == DONE


def test_a_remnant_of_a_copy_is_moved_away(store):
    store.path(TRAIN).mkdir(parents=True)
    (store.path(TRAIN) / "log.txt").write_text("from somewhere")
    finish(store)
    assert store.metrics(TRAIN) == DONE
    ((aside),) = store.work.glob("replaced-*/log.txt")
    assert aside.read_text() == "from somewhere"


def test_what_a_killed_taker_left_is_swept(store):
    debris = store.work / f".new-{TRAIN.key[:12]}-x"
    debris.mkdir(parents=True)
    (debris / LOCK).write_text("{}")
    assert claimed(store) and not debris.exists()


# -- many processes

TURNS = 60


def contend(root: Path, seed: int) -> None:
    """Claim the job again and again; whoever holds it makes a file that must not be there, and removes it."""
    store, choice, turns = Store(root), random.Random(seed), root / "turns"
    while turns.read_text().count("\n") < TURNS:
        with store.claim(TRAIN) as folder:
            if folder is None:
                continue
            os.close(os.open(root / "inside", os.O_CREAT | os.O_EXCL | os.O_WRONLY))  # fails where another is inside
            with open(turns, "a") as file:
                file.write(f"{os.getpid()}\n")
            time.sleep(choice.uniform(0, 0.003))
            (root / "inside").unlink()
            if choice.random() < 0.2:
                os.kill(os.getpid(), signal.SIGKILL)  # the lock stays behind


def test_many_processes_take_turns_and_take_over_from_the_killed(tmp_path):
    """Never two inside at once, and the job changes hands although a fifth of the holders are killed at work."""
    (turns := tmp_path / "turns").write_text("")
    began, end = [], time.monotonic() + 600
    while turns.read_text().count("\n") < TURNS and time.monotonic() < end:
        if sum(process.is_alive() for process in began) < 4:
            began.append(FORK.Process(target=contend, args=(tmp_path, len(began))))
            began[-1].start()
        time.sleep(0.01)
    for process in began:
        process.join(10)
    codes = [process.exitcode for process in began]
    assert set(codes) <= {0, -signal.SIGKILL}  # not 1: a FileExistsError
    holders = turns.read_text().split()
    assert len(holders) >= TURNS and len(set(holders)) > 4 and codes.count(-signal.SIGKILL) > 4
    assert claimed(Store(tmp_path))
