"""The Slurm engine on a real Slurm of one node: the same tables, requeueing, what is submitted when."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import benchmark
from benchmark.errors import UserError
from benchmark.matrix.cells import Job
from tests.engines.conftest import ENVIRONMENT, LONGER

pytestmark = pytest.mark.engines


# -- what goes into which array


def suite(rows: int, start: int = 0) -> list[Job]:
    """Trainings, with a decoder attack and a GAN attack that starts from it each, and a job that times the hardware."""
    found = []
    for seed in range(start, start + rows):
        train = Job("train", {"dataset": "photos", "defense": {"name": "none"}, "cem": None, "seed": seed})
        first = Job("attack", {"attack": "decoder", "split": "infer"}, {"train": train})
        found += [train, first, Job("attack", {"attack": "gan", "split": "infer"}, {"train": train, "warm": first})]
    return [*found, Job("efficiency", {"dataset": "photos", "defense": {"name": "none"}})]


def shape(arrays) -> list[tuple]:
    return [([len(part) for part in array.parts], array.after, array.alone) for array in arrays]


def engine():
    return pytest.importorskip("benchmark.engines.slurm")


def two(job: Job) -> int:
    return 1 if job.kind == "efficiency" else 2


def test_levels_are_arrays_and_tasks_hold_as_many_trainings_as_run_at_once():
    jobs = suite(5)
    arrays = engine().pack(jobs, two)
    assert shape(arrays) == [([2, 2, 1], None, False), ([2, 2, 1], 0, False), ([2, 2, 1], 1, False), ([1], None, True)]
    given = [job for array in arrays for part in array.parts for job in part]
    assert sorted(map(jobs.index, given)) == list(range(16))
    for array in arrays[1:3]:  # a task comes after the task of the same index, which has the parents
        for index, part in enumerate(array.parts):
            parents = [parent for job in part for parent in job.parents.values()]
            before = arrays[0].parts[index] + arrays[1].parts[index]
            assert all(parent in before for parent in parents)


def test_what_is_done_already_needs_no_array():
    jobs = suite(3)
    assert shape(engine().pack(jobs[1:], two)) == [
        ([1], None, False),  # of the first, whose training is done, both attacks in two steps
        ([1], 0, False),
        ([2], None, False),
        ([2], 2, False),
        ([2], 3, False),
        ([1], None, True),
    ]
    assert engine().pack([], two) == []


@pytest.mark.parametrize(("room", "tasks"), [(100, 10), (9, 7), (7, 7), (6, 4), (4, 4), (3, 3), (2, 2)])
def test_a_small_room_is_kept(room, tasks):
    arrays = engine().pack(suite(5), two, room)
    assert sum(len(array.parts) for array in arrays) == tasks
    assert sum(len(part) for array in arrays for part in array.parts) == 16


def test_no_room_is_told():
    with pytest.raises(UserError, match="leaves room for 1 Slurm jobs, but 2 are needed"):
        engine().pack(suite(5), two, 1)


# -- on a real Slurm


def slurm_says(*words: str) -> str:
    return subprocess.run(words, env=ENVIRONMENT, check=True, capture_output=True, text=True).stdout


def counts(status: str) -> dict[str, int]:
    return {words[0]: int(words[1]) for line in status.splitlines() if len(words := line.split()) == 2}


def test_same_tables_from_packed_arrays_that_outlive_the_submitter(slurm, local, place):
    options = ("--engine", "slurm", "--device", "cpu", "--cells-per-gpu", 2)
    assert "submitted 8 jobs in 4 Slurm jobs" in place.run("run", *options)  # and the submitter is gone
    before = counts(place.run("status"))
    assert before["queued"] + before["running"] + before["done"] == 8 and before["failed"] == 0
    assert "submitted 0 jobs in 0 Slurm jobs" in place.run("run", *options, "--wait")
    assert counts(place.run("status"))["done"] == 8
    assert place.finished() == local.finished() and place.report() == local.report()
    (first, second) = sorted(slurm_records(place), key=lambda record: min(record))
    assert [len(keys) for keys in first.values()] == [2, 2] == [len(keys) for keys in second.values()]
    provenance = [json.loads(path.read_text()) for path in place.results.glob("*/*/*/provenance.json")]
    assert {record["cells_at_once"] for record in provenance} == {2}


def test_rows_are_finished_one_after_the_other(slurm, place):
    """An allocation at a time takes all the node's processors, so what begins next is Slurm's choice."""
    options = ("--engine", "slurm", "--device", "cpu", "--cells-per-gpu", 1, "--sbatch", "exclusive", "--wait")
    place.run("run", *options)
    ended = sorted(place.results.glob("*/*/*/metrics.json"), key=lambda path: path.stat().st_mtime_ns)
    rows = [path.parents[1].name for path in ended]
    assert rows[::2] == rows[1::2] and len(rows) == 8, rows


def slurm_records(place) -> list[dict]:
    """Slurm id of each task -> keys of its jobs, for each array."""
    paths = (place.results / ".work" / "slurm").glob("array-*.json")
    return [json.loads(path.read_text())["tasks"] for path in paths]


def test_at_the_signal_it_saves_and_comes_back(slurm, longer, place):
    place.run("run", *LONGER, "--engine", "slurm", "--device", "cpu")
    place.wait_for_epoch(3)
    (task,) = slurm_says("squeue", "--noheader", "--states=running", "--format=%i").split()
    slurm_says("scancel", "--signal=USR2", task)
    deadline = time.monotonic() + 60
    while "BeginTime" not in slurm_says("squeue", "--noheader", f"--jobs={task}", "--format=%r"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    place.run("run", *LONGER, "--engine", "slurm", "--wait")
    assert place.finished() == longer.finished()
    (log,) = place.results.glob("*/*/train-*/log.txt")
    assert "resumed at epoch" in log.read_text()


def test_only_what_is_missing_is_submitted_again(slurm, place):
    options = (*LONGER, "--engine", "slurm", "--device", "cpu", "--sbatch", "hold")
    assert "submitted 2 jobs in 2 Slurm jobs" in place.run("run", *options)
    assert "pending (JobHeldUser)" in place.run("status", *LONGER)
    assert "submitted 0 jobs" in place.run("run", *options)
    (newest, *_) = sorted(slurm_records(place), key=lambda record: -int(min(record)))
    slurm_says("scancel", *newest)  # the attack alone
    text = place.run("status", *LONGER)
    assert counts(text)["queued"] == counts(text)["waiting"] == 1
    assert "submitted 1 jobs in 1 Slurm jobs" in place.run("run", *options)
    following = place.start("run", *options, "--wait")
    while "submitted 0 jobs" not in following.stderr.readline():
        assert following.poll() is None
    slurm_says("scancel", "--me")
    out, err = following.communicate(timeout=300)
    assert following.returncode == 1 and err.count("its Slurm job ended without a result") == 4, err


def test_the_users_wishes_of_squeue_change_no_answer(slurm, place, monkeypatch):
    options = (*LONGER, "--engine", "slurm", "--device", "cpu", "--sbatch", "hold")
    place.run("run", *options)
    monkeypatch.setitem(ENVIRONMENT, "SQUEUE_STATES", "COMPLETED")
    monkeypatch.setitem(ENVIRONMENT, "SQUEUE_PARTITION", "nowhere")
    assert counts(place.run("status", *LONGER))["queued"] == 2
    assert "submitted 0 jobs" in place.run("run", *options)
    slurm_says("scancel", "--me")


def test_a_foreign_job_of_the_same_id(slurm, place):
    """As after a reinstallation of Slurm, whose ids begin anew: what the records name is somebody else's job now."""
    options = (*LONGER, "--engine", "slurm", "--device", "cpu", "--sbatch", "hold")
    place.run("run", *options)
    slurm_says("scancel", "--me")
    foreign = slurm_says("sbatch", "--parsable", "--hold", "--job-name=foreign", "--wrap=true").strip()
    for path in (place.results / ".work" / "slurm").glob("array-*.json"):
        content = json.loads(path.read_text())
        path.write_text(json.dumps(content | {"tasks": {foreign: sum(content["tasks"].values(), [])}}))
    assert counts(place.run("status", *LONGER))["waiting"] == 2
    assert "submitted 2 jobs in 2 Slurm jobs" in place.run("run", *options)
    slurm_says("scancel", "--me")


def test_a_refusal_is_one_sentence(slurm, place):
    text = place.run("run", "--engine", "slurm", "--device", "cpu", "--partition", "nowhere", code=2)
    assert text.splitlines()[-1].startswith("error: Slurm refused the jobs: ") and "partition" in text


def test_a_clone_with_a_shell_in_its_name(slurm, place, tmp_path):
    """The nodes run the code of the submitter's checkout, wherever that lies."""
    clone = tmp_path / "it's '$(touch pwned)' clone"
    shutil.copytree(Path(benchmark.__file__).parent, clone / "benchmark", ignore=shutil.ignore_patterns("__pycache__"))
    words = place.words("run", *LONGER[:2], "--engine", "slurm", "--device", "cpu", "--wait")
    words.remove("--cells-per-gpu"), words.remove(1)
    command = [sys.executable, "-m", "benchmark", *map(str, words)]
    done = subprocess.run(command, cwd=clone, env=ENVIRONMENT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list(tmp_path.rglob("pwned")) and not (Path.home() / "pwned").exists()
