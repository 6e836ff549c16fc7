"""The store of results: locks, whole or absent results, failures, damage."""

import errno
import json
import os
import random
import signal
import time
from pathlib import Path

import pytest

from benchmark.engines import slurm_queue
from benchmark.engines.scheduler import Schedule
from benchmark.errors import CannotWrite, Unreadable, UserError
from benchmark.matrix.cells import Job
from benchmark.store import checksums, hygiene
from benchmark.store import store as module
from benchmark.store.store import Store, write_json
from tests.support.command_line import break_disk, call, copied, finished, place, started  # noqa: F401 (fixtures)

TRAIN = Job("train", {"dataset": "photos", "defense": {"name": "none"}, "cem": None, "seed": 1})
DONE = {"status": "done", "reason": "", "values": {"accuracy_percent": 12.5}}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results")


def claimed(store) -> bool:
    with store.claim(TRAIN) as folder:
        return folder is not None


def test_a_job_that_another_finished_meanwhile_is_not_run_again(store):
    """Between the look and the claim: the claim says no, and the result stays the first one's."""
    finish(store)
    before = (store.path(TRAIN) / "metrics.json").read_bytes()
    assert not claimed(store)
    assert (store.path(TRAIN) / "metrics.json").read_bytes() == before
    assert not store.workdir(TRAIN).exists()


# -- results


def finish(store, metrics=DONE, before_end=lambda: None):
    with store.claim(TRAIN) as folder:
        (folder / "history.csv").write_text("epoch\n1\n")
        (folder / "state.safetensors").write_text("mid-job")
        before_end()
        store.finish(TRAIN, metrics, {"commit": "x"})


def test_nothing_is_visible_before_the_end_and_all_of_it_after(store):
    finish(store, before_end=lambda: pytest.fail("early") if store.done(TRAIN) else None)
    assert store.done(TRAIN) and store.metrics(TRAIN) == DONE and store.provenance(TRAIN) == {"commit": "x"}
    names = {file.name for file in store.path(TRAIN).iterdir()}
    assert names == {"job.json", "metrics.json", "provenance.json", "history.csv", "SHA256SUMS"}
    recorded = json.loads((store.path(TRAIN) / "job.json").read_text())
    assert recorded["key"] == TRAIN.key and recorded["config"] == TRAIN.config
    assert not store.workdir(TRAIN).exists() and store.status(TRAIN) == ("done", "")


def test_a_crash_just_before_the_rename_leaves_nothing_visible(store, monkeypatch):
    real = os.rename

    def crash(source, target):
        if target == store.path(TRAIN):
            raise SystemError("killed")
        real(source, target)

    monkeypatch.setattr(module.os, "rename", crash)
    with pytest.raises(SystemError):
        finish(store)
    assert not store.done(TRAIN) and store.status(TRAIN)[0] == "waiting"
    monkeypatch.undo()
    assert not claimed(store) and store.metrics(TRAIN) == DONE  # as it was complete, the next runner publishes it


@pytest.fixture
def stuck(store, monkeypatch):
    """The store with a finished job that could not be moved to its place, and the working folder that has it."""
    real, final = os.rename, store.path(TRAIN)

    def fail(source, target):
        if target == final:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(target))
        real(source, target)

    monkeypatch.setattr(module.os, "rename", fail)
    with pytest.raises(CannotWrite, match="Permission denied"):
        finish(store, before_end=lambda: (store.workdir(TRAIN) / "checkpoint.safetensors").write_bytes(b"weights"))
    assert not store.done(TRAIN)
    return store.workdir(TRAIN)


def test_a_result_that_could_not_be_published_is_published_by_the_next(store, stuck, monkeypatch):
    assert (stuck / "state.safetensors").read_text() == "mid-job" and (stuck / "metrics.json").exists()
    before = (stuck / "provenance.json").read_bytes()
    monkeypatch.undo()
    assert not claimed(store) and store.metrics(TRAIN) == DONE and store.damage(TRAIN, tensors=True) == []
    assert (store.path(TRAIN) / "provenance.json").read_bytes() == before
    assert not {"state.safetensors", "lock.json"} & set(os.listdir(store.path(TRAIN)))
    assert list(store.work.iterdir()) == []


def test_and_stays_where_it_is_while_it_cannot_be(store, stuck):
    before = {path.name: path.read_bytes() for path in stuck.iterdir()}
    for _ in range(2):
        with store.claim(TRAIN) as folder:
            assert folder not in (None, stuck)
        assert {path.name: path.read_bytes() for path in stuck.iterdir()} == before


@pytest.mark.parametrize("name", ["history.csv", "metrics.json", "SHA256SUMS", "checkpoint.safetensors"])
@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_text("altered")], ids=["gone", "altered"])
def test_what_was_altered_there_is_not_published(store, stuck, monkeypatch, name, change):
    """The job goes on from its saved state."""
    monkeypatch.undo()
    change(stuck / name)
    with store.claim(TRAIN) as folder:
        assert not store.done(TRAIN) and (folder / "state.safetensors").read_text() == "mid-job"


def test_status_of_every_kind(store):
    assert store.status(TRAIN) == ("waiting", "not run yet")
    with store.claim(TRAIN):
        store.fail(TRAIN, "out of luck")
        assert store.status(TRAIN)[0] == "running"
    assert store.status(TRAIN) == ("failed", "out of luck")
    finish(store, {"status": "diverged", "reason": "the loss is nan", "values": {}})
    assert store.status(TRAIN) == ("diverged", "the loss is nan") and store.done(TRAIN)


@pytest.mark.parametrize("content", ["", '{"reas', "[]", "{}", "\xff", "[" * 9999], ids=range(6))
def test_a_damaged_record_of_a_failure_blocks_nothing(store, content):
    with store.claim(TRAIN):
        store.fail(TRAIN, "out of luck")
    (store.workdir(TRAIN) / "failed.json").write_bytes(content.encode("latin-1"))
    state, reason = store.status(TRAIN)
    assert state == "failed" and "its reason cannot be read" in reason
    assert Schedule([TRAIN], store).next() == TRAIN
    finish(store)
    assert store.status(TRAIN) == ("done", "")


def test_a_new_attempt_forgets_the_failure(store):
    with store.claim(TRAIN):
        store.fail(TRAIN, "out of luck")
    with store.claim(TRAIN) as folder:
        assert not (folder / "failed.json").exists()


def test_numbers_that_are_none_become_null(tmp_path):
    write_json(tmp_path / "x.json", {"a": [float("nan"), 1.5], "b": {"c": float("-inf")}})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": [None, 1.5], "b": {"c": None}}


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"status": "done", "reason": ""}', "\xff"])
def test_a_damaged_result_is_told(store, content):
    finish(store)
    path = store.path(TRAIN) / "metrics.json"
    path.write_bytes(content.encode("latin-1"))
    for look in (store.metrics, store.status):
        with pytest.raises(UserError, match="sets it aside") as error:
            look(TRAIN)
        assert str(path) in str(error.value)


def test_a_results_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file" / "results"):
        with pytest.raises(UserError, match="choose another --results"):
            Store(root).check_writable()
        assert Store(root).status(TRAIN) == ("waiting", "not run yet")


RECOGNISED = {"classifier": "x", "recognised_percent": 12.5}
DISTANT = {"weights": "x", "lpips": 0.5, "lpips_worst_1_percent": 0.25}


@pytest.mark.parametrize(
    "read, name, first, second",
    [
        (Store.recognition, checksums.RECOGNITION, RECOGNISED, RECOGNISED | {"recognised_percent": 50.0}),
        (Store.lpips, checksums.LPIPS, DISTANT, DISTANT | {"lpips": 0.75}),
    ],
)
def test_a_kill_while_what_is_measured_later_is_written_costs_only_that(store, read, name, first, second):
    """The file is there, its checksum is not, or is an older one's: the result stays good, and is asked again."""
    finish(store)
    path = store.path(TRAIN) / name
    assert read(store, TRAIN) == {}
    for value in (first, second):
        write_json(path, value)  # killed before the checksum
        assert read(store, TRAIN) == {}
        assert store.damage(TRAIN, tensors=True) == [] and hygiene.verify(store)[0].state == "intact"
        store.add(TRAIN, path.name, value)
        assert read(store, TRAIN) == value
    path.write_text("{")
    assert read(store, TRAIN) == {} and store.damage(TRAIN, tensors=True) == []
    path.unlink()
    assert read(store, TRAIN) == {} and store.damage(TRAIN, tensors=True) == []


@pytest.mark.parametrize("name", ["metrics.json", "history.csv", "SHA256SUMS"])
def test_what_cannot_be_read_is_not_damaged(store, name, monkeypatch):
    finish(store)
    path = store.path(TRAIN) / name
    break_disk(monkeypatch, path)
    with pytest.raises(Unreadable, match=f"cannot read {path} .*nothing was changed") as error:
        store.damage(TRAIN, tensors=False)
    assert not isinstance(error.value, checksums.Damaged) and isinstance(error.value, UserError)
    (finding,) = hygiene.verify(store)
    assert finding.state == "unreadable" and str(path) in finding.problems[0]


def test_weights_that_cannot_be_read_are_not_damaged(store, monkeypatch):
    finish(store, before_end=lambda: (store.workdir(TRAIN) / "checkpoint.safetensors").write_bytes(b"weights"))
    break_disk(monkeypatch, store.path(TRAIN) / "checkpoint.safetensors")
    assert store.damage(TRAIN, tensors=False) == []
    for look in (store.checkpoint, lambda job: store.damage(job, tensors=True)):
        with pytest.raises(Unreadable):
            look(TRAIN)


# -- what may go


def removed(store, keep) -> set[str]:
    found = hygiene.waste(store, keep)
    assert all(hygiene.remove(store, item) for item in found)
    return {item.path.name for item in found}


def test_gc_leaves_what_engines_keep(store):
    for name in ("slurm", "0123456789ab", "ba9876543210.1"):
        (store.work / name).mkdir(parents=True)
        (store.work / name / "array-12.json").write_text("{}")
    (store.work / "ray-0123").write_text("a probe")
    assert removed(store, [TRAIN]) == {"0123456789ab", "ba9876543210.1"}
    assert (store.work / "slurm" / "array-12.json").exists()
    assert {path.name for path in store.work.iterdir()} == {"slurm", "ray-0123"}


def test_gc_leaves_what_is_not_ours(store):
    """Folders of somebody's own with a metrics.json, or with the name of a job, and hidden things in .work."""
    finish(store)
    ours = store.path(TRAIN)
    others = [ours.parent / "run-2026-01-05", store.root / "mnist" / "resnet" / "train-0123456789ab"]
    for folder in others:
        (folder / "notes").mkdir(parents=True)
        for name in ("metrics.json", "thesis_weights.bin", "notes/n.txt"):
            (folder / name).write_text("{}")
    others += [store.work / name for name in (".git", ".old-thing", "replaced-mine", "0123456789ab.bak")]
    for folder in others[2:]:
        folder.mkdir()
    (store.work / "0123456789ab").write_text("a file of somebody's")
    found = hygiene.waste(store, [])
    assert {item.path: item.stays for item in found} == {ours: ""} | dict.fromkeys(others[:4], "not ours")
    assert [item.path for item in found if hygiene.remove(store, item)] == [ours] and not ours.exists()
    assert all((folder / "notes" / "n.txt").exists() for folder in others[:2]) and all(map(os.path.isdir, others))
    assert (store.work / "0123456789ab").exists()


def test_gc_says_what_is_not_ours(copied):  # noqa: F811
    folder = copied.results / "mnist" / "resnet" / "run-2026-01-05"
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text("{}")
    words = ["--matrix", copied.matrix, "--data", copied.data, "--results", copied.results]
    outcome = call("store", "gc", "--keep-suite", "smoke", "--yes", *words)
    assert outcome.code == 0 and outcome.out.startswith(
        f"not ours, stays: {folder} (its name is not WHAT-KEY, 0.0 MiB)"
    )
    assert (folder / "metrics.json").exists()


def test_gc_keeps_what_was_set_aside_until_it_is_done_again(store):
    finish(store)
    aside = store.set_aside(TRAIN)
    assert removed(store, [TRAIN]) == set() and (aside / "metrics.json").exists()
    finish(store)
    assert removed(store, [TRAIN]) == {aside.name} and store.done(TRAIN)
    aside = store.set_aside(TRAIN)
    assert removed(store, []) == {aside.name}


def test_stray_files_beside_the_records_of_slurm(store):
    names = [f"benchmark-{number:016x}" for number in range(2)]
    slurm_queue.record(store, names[1], {"9_0": ["a", "b"]}, "")
    slurm_queue.record(store, names[0], {"9_0": ["b"]}, "east")  # the same id, after Slurm was installed anew
    (store.work / "slurm" / "array-copy.json").write_text('{"7_0": ["a"]}')
    found = slurm_queue.submitted(store)
    assert found == {
        "a": slurm_queue.Submitted("9_0", names[1], ""),
        "b": slurm_queue.Submitted("9_0", names[0], "east"),
    }


# -- a whole run


def test_a_killed_run_ends_as_an_undisturbed_one(finished, place):  # noqa: F811
    """kill -9 at a random moment of a real run; the same command afterwards gives the same bytes."""
    choice = ("--where", "cem=on,defense=dropout,split=infer")
    process = started(place.words("run", *choice), place.folder)
    deadline = time.monotonic() + 120
    while process.is_alive() and time.monotonic() < deadline:
        if list((place.results / ".work").glob("*/lock.json")):
            break
        time.sleep(0.01)
    time.sleep(random.uniform(0, 2))
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)

    again = place.call("run", *choice)
    assert again.code == 0, again.err
    undisturbed = finished.finished()
    ours = place.finished()
    assert len(ours) == 4 and all(undisturbed[name] == content for name, content in ours.items())
    assert list((place.results / ".work").iterdir()) == []  # neither locks nor halves stay


def test_damage_to_a_finished_result_stops_the_report_and_names_the_file(copied):  # noqa: F811
    path = sorted(copied.results.glob("photos/dropout/train-*/metrics.json"))[0]
    path.write_text("{")
    for command in ("status", "report"):
        outcome = copied.call(command)
        assert outcome.code == 2 and str(path) in outcome.err and "Traceback" not in outcome.err
