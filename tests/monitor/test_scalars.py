"""TensorBoard scalars, read back with TensorBoard's own reader."""

import importlib.util
import sys

import pytest

from benchmark.matrix.cells import Job
from benchmark.monitor import tensorboard
from benchmark.monitor.heartbeat import Monitor

JOB = Job("train", {"dataset": "photos", "defense": {"name": "none"}, "cem": None, "seed": 1})


class Nobody:
    def progress(self, job, beat):
        pass


def test_each_epoch_is_a_step_also_after_a_resume(tmp_path, monkeypatch):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setenv(tensorboard.VARIABLE, "")
    tensorboard.write_to(tmp_path / "board")
    for epochs in ([1, 2], [3]):  # killed after the second, and resumed
        monitor = Monitor(Nobody(), JOB, tmp_path, lambda: False)
        for epoch in epochs:
            monitor.epoch(epoch, 3, {"loss": 4.0 / epoch, "lr": 0.5})
        monitor.scalars.close()
    found = reader.EventAccumulator(str(tmp_path / "board" / JOB.folder)).Reload()
    assert [(event.step, event.value) for event in found.Scalars("loss")] == [(1, 4), (2, 2), (3, pytest.approx(4 / 3))]
    assert sorted(found.Tags()["scalars"]) == ["loss", "lr"]


def test_nothing_is_written_unless_asked_for(tmp_path, monkeypatch):
    monkeypatch.delenv(tensorboard.VARIABLE, raising=False)
    monitor = Monitor(Nobody(), JOB, tmp_path, lambda: False)
    monitor.epoch(1, 1, {"loss": 1.0})
    monitor.scalars.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.txt", "progress.json"]


def test_where_it_is_not_installed_a_sentence_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(tensorboard.VARIABLE, "elsewhere")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    tensorboard.write_to(tmp_path)
    assert "TensorBoard is not installed" in capsys.readouterr().err
    assert tensorboard.Scalars(JOB).writer is None


def test_scalars_that_cannot_be_written_are_told_and_the_job_goes_on(tmp_path, monkeypatch, capsys):
    pytest.importorskip("tensorboard")
    (tmp_path / "board").write_text("a file")
    monkeypatch.setenv(tensorboard.VARIABLE, str(tmp_path / "board"))
    monitor = Monitor(Nobody(), JOB, tmp_path, lambda: False)
    monitor.epoch(1, 1, {"loss": 1.0})
    monitor.scalars.close()
    assert capsys.readouterr().err.count(f"no scalars for TensorBoard in {tmp_path / 'board'}: ") == 1


def test_a_variable_without_tensorboard_is_told(monkeypatch, capsys):
    monkeypatch.setenv(tensorboard.VARIABLE, "elsewhere")
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert tensorboard.Scalars(JOB).writer is None
    assert "no scalars for TensorBoard in elsewhere: " in capsys.readouterr().err
