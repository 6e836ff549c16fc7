"""The heartbeat of a running job: what it says, how often, and that it can be read at any moment."""

import json
import threading
import time
from types import SimpleNamespace

import pytest

from benchmark.matrix.cells import Job
from benchmark.monitor import heartbeat
from benchmark.monitor.heartbeat import Heartbeat, Monitor, Pace, read
from benchmark.store.store import PROGRESS, Store

JOB = Job("train", {"dataset": "photos", "defense": {"name": "none"}, "cem": None, "seed": 1})


class Listener:
    def __init__(self):
        self.beats = []

    def progress(self, job, beat):
        self.beats.append(beat)


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only when a test says so."""
    now = SimpleNamespace(value=100.0)
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: now.value)
    return now


def monitor(folder) -> Monitor:
    return Monitor(Listener(), JOB, folder, lambda: False)


def test_pace_is_of_the_last_minute_and_of_this_attempt_alone(clock):
    pace = Pace()
    assert pace.seen(37.0) is None  # resumed there: nothing was done by this attempt yet
    for second in range(1, 101):
        clock.value = 100 + second
        found = pace.seen(37 + 2 * second)
    assert found == pytest.approx(2)
    for second in range(101, 201):
        clock.value = 100 + second
        found = pace.seen(237 + 5 * (second - 100))
    assert found == pytest.approx(5)  # the slow first part is forgotten
    assert len(pace.marks) < 70


def test_a_step_tells_stage_rate_time_left_and_the_last_metrics(tmp_path, clock):
    found = monitor(tmp_path)
    assert read(tmp_path) == Heartbeat("starting")
    found.images = 1000
    clock.value += 10
    found.step(2.0, 8)
    found.epoch(2, 8, {"loss": 1.5, "lr": 0.1})
    clock.value += 10
    found.step(4.5, 8)
    beat = read(tmp_path)
    assert beat == found.display.beats[-1]
    assert (beat.stage, beat.done, beat.epochs, beat.metrics) == ("epoch 5/8", 4.5, 8, {"loss": 1.5, "lr": 0.1})
    assert beat.images_per_second == pytest.approx(250) and beat.seconds_left == pytest.approx(14)
    assert "epoch 2/8  loss 1.5  lr 0.1" in (tmp_path / "log.txt").read_text()


def test_the_file_and_the_display_are_told_now_and_then(tmp_path, clock, monkeypatch):
    written = []
    monkeypatch.setattr(heartbeat, "write_json", lambda path, value: written.append(value["done"]))
    found = monitor(tmp_path)
    for step in range(1, 1001):  # ten seconds
        clock.value = 100 + step / 100
        found.step(step / 100, 10)
    assert 4 <= len(written) <= 6 and 40 <= len(found.display.beats) <= 51


def test_a_reader_never_sees_half_a_file(tmp_path):
    over = threading.Event()

    def write() -> None:
        while not over.is_set():
            heartbeat.write_json(tmp_path / PROGRESS, vars(Heartbeat("epoch 1/2", 0.5, 1, None, 1.0, {"a": 2.0})))

    writer = threading.Thread(target=write)
    writer.start()
    while not (tmp_path / PROGRESS).exists():
        time.sleep(0.001)
    for _ in range(300):
        assert read(tmp_path) is not None
    over.set()
    writer.join()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '"x"', '{"stage": 3, "done": 0, "epochs": 0}', "\x00"])
def test_a_damaged_file_is_no_heartbeat(tmp_path, text):
    (tmp_path / PROGRESS).write_text(text)
    assert read(tmp_path) is None
    assert read(tmp_path / "nowhere") is None


def test_a_value_that_is_not_finite_is_none(tmp_path, clock):
    found = monitor(tmp_path)
    found.epoch(1, 8, {"loss": float("nan")})
    clock.value += 10
    found.step(1.5, 8)
    assert read(tmp_path).metrics == {"loss": None}
    assert json.loads((tmp_path / PROGRESS).read_text())["epochs"] == 8


def test_a_folder_that_cannot_be_written_does_not_stop_the_job(tmp_path, clock):
    found = monitor(tmp_path)
    found.folder = tmp_path / "gone"
    clock.value += 10
    found.step(1.0, 8)
    assert found.display.beats[-1].done == 1.0


def test_a_finished_job_leaves_no_heartbeat(tmp_path):
    store = Store(tmp_path)
    with store.claim(JOB) as folder:
        monitor(folder)
        assert read(store.workdir(JOB)) is not None
        store.finish(JOB, {"status": "done", "reason": "", "values": {}}, {})
    names = {path.name for path in store.path(JOB).iterdir()}
    assert names == {"SHA256SUMS", "job.json", "metrics.json", "provenance.json"}
