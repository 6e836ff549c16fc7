"""What is asked of squeue and made of its answer. A script stands in for it, as one node has no several clusters; the
real one is asked in tests/engines/test_slurm.py."""

import json
import os

import pytest

from benchmark.engines import slurm_queue
from benchmark.errors import UserError
from benchmark.store.store import Store

NAMES = [f"benchmark-{number:016x}" for number in range(3)]


@pytest.fixture
def squeue(tmp_path, monkeypatch):
    """Puts a squeue on the path that answers with `answer`, and tells how it was called."""
    folder, calls = tmp_path / "bin", tmp_path / "calls"
    folder.mkdir()
    script = f'#!/bin/sh\necho "$@" "$SQUEUE_STATES$SQUEUE_PARTITION$SLURM_CLUSTERS" >> {calls}\n'

    def answer(text: str, code: int = 0):
        (folder / "squeue").write_text(f"{script}cat <<'EOT'\n{text}EOT\nexit {code}\n")
        (folder / "squeue").chmod(0o755)
        return calls

    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return answer


@pytest.fixture
def store(tmp_path) -> Store:
    store = Store(tmp_path / "results")
    store.check_writable()
    return store


def test_a_job_of_the_same_id_is_not_ours(store, squeue):
    """Ids that began anew: one of ours that is long over, and one of somebody else's work."""
    slurm_queue.record(store, NAMES[0], {"12_0": ["a"], "12_1": ["b"]}, "")
    squeue(f"12_0|PENDING|Priority|other\n12_1|RUNNING|None|{NAMES[1]}\n")
    assert slurm_queue.queued(store) == {}
    squeue(f"12_0|PENDING|Priority|{NAMES[0]}\n12_1|RUNNING|None|x|{NAMES[0]}\n")
    assert slurm_queue.queued(store) == {"a": slurm_queue.Entry("12_0", "PENDING", "Priority")}


def test_the_last_submission_counts_whatever_its_id(store, squeue):
    slurm_queue.record(store, NAMES[1], {"900": ["a"]}, "")
    slurm_queue.record(store, NAMES[0], {"7": ["a"]}, "")  # after the ids began anew
    squeue(f"900|PENDING|Priority|{NAMES[1]}\n7|RUNNING|None|{NAMES[0]}\n")
    assert slurm_queue.queued(store)["a"].task == "7"
    assert slurm_queue.log(store, slurm_queue.submitted(store)["a"]).parent.name == NAMES[0]


def test_the_queue_of_the_cluster_is_asked(store, squeue, monkeypatch):
    monkeypatch.setenv("SQUEUE_STATES", "COMPLETED")
    monkeypatch.setenv("SQUEUE_PARTITION", "x")
    monkeypatch.setenv("SLURM_CLUSTERS", "west")
    slurm_queue.record(store, NAMES[0], {"1": ["a"]}, "east,north")
    slurm_queue.record(store, NAMES[1], {"2": ["b"]}, "")
    calls = squeue(f"CLUSTER: east\n1|RUNNING|None|{NAMES[0]}\nCLUSTER: north\n\n2|RUNNING|None|{NAMES[1]}\n")
    assert set(slurm_queue.queued(store)) == {"a", "b"}
    asked = calls.read_text().splitlines()
    assert len(asked) == 2 and sum("--clusters=east,north" in line for line in asked) == 1
    assert all(line.endswith("%j ") or line.endswith("north ") for line in asked)  # and of the environment, nothing


@pytest.mark.parametrize(
    "content",
    [b"[", b"[]", b"{}", b'{"tasks": 1}', b"[" * 100_000, b"\xff", b'{"a":' * 50_000]
    + [json.dumps({"name": "x", "clusters": "", "submitted": 1, "tasks": tasks}).encode() for tasks in ({"1": 2}, [])],
)
def test_records_that_are_none(store, content):
    (store.work / "slurm").mkdir()
    (store.work / "slurm" / f"array-{NAMES[0]}.json").write_bytes(content)
    with pytest.raises(UserError, match="cannot read .*; delete it"):
        slurm_queue.queued(store)


def test_a_queue_that_does_not_answer(store, squeue):
    slurm_queue.record(store, NAMES[0], {"1": ["a"]}, "")
    squeue("", code=1)
    with pytest.raises(UserError, match="cannot read the Slurm queue"):
        slurm_queue.queued(store)
