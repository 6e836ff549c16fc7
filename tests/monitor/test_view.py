"""What a running suite shows: on a real terminal, on a low one, without one, and from another process."""

import os
import re
import time

import pytest
from rich.console import Console
from rich.text import Text

from benchmark.matrix.cells import Job
from benchmark.monitor.heartbeat import Heartbeat, write_json
from benchmark.monitor.progress import Display
from benchmark.monitor.view import Snapshot, clock, lines, picture
from benchmark.monitor.watch import Watcher
from benchmark.store.store import PROGRESS, Store
from tests.support.command_line import place  # noqa: F401 (fixture)
from tests.support.terminal import Terminal

BEAT = Heartbeat(
    "epoch 37/240", 36.5, 240, 12345.6, 4810.0, {"loss": 2.3456, "train_accuracy_percent": 45.12, "x": None}
)
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def job(seed: int) -> Job:
    return Job("train", {"dataset": "photos", "defense": {"name": "none"}, "cem": None, "seed": seed})


def drawn(snapshot: Snapshot, width: int = 80, height: int = 30) -> list[str]:
    console = Console(width=width, height=height, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(picture(snapshot, console))
    return capture.get().splitlines()


def test_a_picture_says_all_of_it_in_80_columns():
    counts = {"done": 31, "running": 1, "waiting": 78, "failed": 2}
    shown = drawn(
        Snapshot(counts, 0.284, 15120.0, [("cifar100 patrol+cem seed 125 train", BEAT)], [("a", "no memory")])
    )
    text = "\n".join(shown)
    assert max(map(len, shown)) <= 80
    for part in ("31 done", "1 running", "78 waiting", "2 failed", " 28 %", "4 h 12 min left", "epoch 37/240"):
        assert part in text
    for part in (" 15 %", "12,346 images/s", "1 h 20 min left", "loss 2.346", "train accuracy 45.12 %", "a: no memory"):
        assert part in text
    assert "None" not in text and "diverged" not in text


def test_a_low_or_narrow_terminal_gets_a_line_for_each_job():
    jobs = [(f"cifar100 noise_nopeek+cem seed {seed} decoder-infer", BEAT) for seed in range(12)]
    shown = drawn(Snapshot({"running": 12}, 0.5, None, jobs), width=60, height=20)
    assert len(shown) == 2 + 12 and max(map(len, shown)) <= 60
    assert len(drawn(Snapshot({"running": 12}, 0.5, None, jobs), height=50)) == 2 + 3 * 12


def test_nothing_that_failed_is_not_red():
    def counted(failed: int) -> Text:
        return picture(Snapshot({"done": 1, "failed": failed}, 0.5, 1.0), Console()).renderables[1]

    assert "red" not in str(counted(0).spans) and "red" in str(counted(1).spans)


def test_lines_say_the_same():
    first, second = lines(Snapshot({"done": 1, "running": 1, "failed": 0}, 0.5, 61.0, [("a", BEAT)]))
    assert first == "1 done, 1 running; 50 %, 1 min 01 s left"
    assert second.startswith("  a: epoch 37/240  12,346 images/s  1 h 20 min left  loss 2.346")


@pytest.mark.parametrize(("seconds", "text"), [(None, "?"), (11.6, "12 s"), (59.6, "1 min 00 s"), (3900, "1 h 05 min")])
def test_clock(seconds, text):
    assert clock(seconds) == text


def test_time_left_counts_what_a_resumed_job_had_done_before(monkeypatch):
    """Two equal jobs; the first resumes at 80 % and does another 10 % in 10 s: 1.1 jobs are left, 110 s."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    display = Display({job(1).key: 1.0, job(2).key: 1.0}, 2)
    display.begin(job(1))
    display.progress(job(1), Heartbeat("epoch 9/10", 8.0, 10))
    now[0] += 10
    display.progress(job(1), Heartbeat("epoch 10/10", 9.0, 10))
    assert display.eta() == pytest.approx(110)


def test_after_the_last_job_no_time_is_left(capsys):
    """`? left`, where it took less than the second that a rate needs."""
    display = Display({job(1).key: 0.0}, 1)
    display.begin(job(1))
    display.end(job(1), "MSE 0.0073")
    assert display.eta() == 0 and capsys.readouterr().err.endswith("; 0 s left\n")


def test_a_job_that_another_runner_finished_is_not_running_any_more():
    display = Display({job(1).key: 1.0, job(2).key: 1.0}, 2)
    display.begin(job(1))
    display.skip(job(1))
    assert not display.running and display.finished == 1


def test_a_watcher_reads_the_store_alone(tmp_path):
    jobs, store = [job(seed) for seed in range(5)], Store(tmp_path)
    finished, diverged, running, failed, _ = jobs
    for one, state in ((finished, "done"), (diverged, "diverged")):
        with store.claim(one):
            store.finish(one, {"status": state, "reason": "", "values": {}}, {})
    with store.claim(failed):
        store.fail(failed, "no memory")
    watcher = Watcher(jobs, {one.key: 1.0 for one in jobs}, store)
    with store.claim(running) as folder:
        write_json(folder / PROGRESS, vars(Heartbeat("epoch 1/2", 0.5, 2, 10.0, 30.0, {})))
        found = watcher.look()
    assert found.counts == {"done": 1, "running": 1, "waiting": 1, "diverged": 1, "failed": 1}
    assert found.failed == [(failed.title, "no memory")] and found.running[0][1].stage == "epoch 1/2"
    assert found.fraction == pytest.approx(2.25 / 5)
    assert found.seconds_left == pytest.approx(70)  # 0.75 jobs take 30 s; 1.75 are left, the failed one not among them
    after = watcher.look()
    assert after.counts["running"] == 0 and after.counts["waiting"] == 2 and after.seconds_left is None


def test_a_run_and_a_watcher_on_terminals(place):  # noqa: F811
    """A long job, its view where it runs and from another terminal; Ctrl-C ends both, and the run can go on."""
    where = ["--where", "defense=bottleneck,cem=off,kind=train", "--set", "train.epochs=100000"]
    environment = os.environ | {"TERM": "xterm-256color", "PYTHONUNBUFFERED": "1"}
    run, status = (place.words(command, *where) for command in ("run", "status"))
    with Terminal(run, environment, columns=90, lines=24) as runner:
        runner.wait_for("images/s", 240)
        with Terminal([*status, "--watch"], environment, columns=90, lines=24) as watcher:
            watcher.wait_for("images/s", 240)
            watcher.interrupt()
            assert watcher.wait(60) == 0
        runner.interrupt()
        assert runner.wait(240) == 130
    for terminal in (runner, watcher):
        text = ESCAPES.sub("", terminal.seen.decode())
        for part in ("1 running", "0 waiting", "/100000", "photos bottleneck seed 125 train", "train accuracy"):
            assert part in text, (part, text[-2000:])
        assert max(len(line.rsplit("\r", 1)[-1]) for line in text.replace("\r\n", "\n").splitlines()) <= 90
    assert "interrupted; run the same command" in runner.seen.decode()
    assert place.call("status", *where).out.split()[:2] == ["done", "0"]


def test_watch_without_a_terminal_ends_with_the_suite(place):  # noqa: F811
    where = ["--where", "defense=bottleneck,cem=off,kind=train"]
    store = Store(place.results)
    for cell in place.cells("defense=bottleneck,cem=off,kind=train"):
        with store.claim(cell.job):
            store.finish(cell.job, {"status": "done", "reason": "", "values": {}}, {})
    outcome = place.call("status", "--watch", *where)
    assert outcome.code == 0 and outcome.out.startswith("1 done; 100 %, 0 s left\ndone         1\n")
