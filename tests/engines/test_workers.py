"""Several jobs at once: how many, in which order, and what becomes of them when a worker dies or memory runs out."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmark.engines.concurrency import WINDOW, Growing, Share, on_cpu, parse, room, share
from benchmark.engines.drain import ASK, SPAWN, _graceful_stop, drain
from benchmark.engines.scheduler import Schedule
from benchmark.engines.workers import Workers
from benchmark.errors import UserError
from benchmark.jobs.attempt import Outcome
from benchmark.jobs.stages import Stages
from benchmark.matrix.cells import Job
from benchmark.store.store import Store
from benchmark.training import device
from tests.support.command_line import forked, place, started, workers_of  # noqa: F401 (fixtures)


def train(seed: int) -> Job:
    return Job("train", {"dataset": "photos", "defense": {"name": "none"}, "cem": None, "seed": seed})


def attack(parent: Job) -> Job:
    return Job("attack", {"attack": "decoder", "split": "infer"}, {"train": parent})


TIMED = Job("efficiency", {"dataset": "photos", "defense": {"name": "none"}})


class Quiet:
    """A display that remembers its lines."""

    def __init__(self):
        self.lines = []

    def line(self, text):
        self.lines.append(text)

    def __getattr__(self, name):
        return lambda *_, **__: None


# -- how many


@pytest.mark.parametrize(
    ("cores", "threads", "jobs"), [(1, 1, 1), (2, 1, 2), (3, 3, 1), (4, 4, 1), (8, 4, 2), (64, 4, 16)]
)
def test_on_a_cpu_every_job_has_its_own_cores(monkeypatch, cores, threads, jobs):
    monkeypatch.setattr(device, "cores", lambda: cores)
    assert device.threads() == threads and on_cpu(cores, threads) == jobs


def test_the_option():
    assert parse("auto") is None and parse("3") == 3
    for text in ("0", "-1", "two", "", "1.5"):
        with pytest.raises(UserError, match="--cells-per-gpu"):
            parse(text)
    assert share(8, torch.device("cpu"), 3).limit == 3


def test_room_leaves_a_tenth_and_counts_the_context():
    assert room(10_000, 1_400) == 4 and room(1_000, 1_400) == 0


def grown(speed, ceiling=16, memory=None) -> Growing:
    """Let a stub device decide: `speed(K)` is each of K jobs' epochs/s."""
    now = [0.0]
    growing, epochs = Growing(ceiling, clock=lambda: now[0]), 0.0
    for _ in range(1000):
        now[0] += 0.5
        epochs += 0.5 * speed(growing.limit)
        for key in range(growing.limit):
            growing.seen(str(key), epochs, memory)
        growing.stepping &= {str(key) for key in range(growing.limit)}
    return growing


@pytest.mark.parametrize("limit", [1, 2, 4, 8])
def test_auto_finds_how_many_jobs_a_device_carries(limit):
    growing = grown(lambda k: min(1.0, limit / k))
    assert growing.limit == limit and growing.settled


def test_auto_keeps_to_its_ceiling_and_to_the_memory():
    assert grown(lambda k: 1.0, ceiling=3).limit == 3
    assert grown(lambda k: 1.0, memory=(1_000.0, 5_000.0)).limit == 1


def test_auto_goes_back_when_the_job_it_measures_ends():
    growing = Growing(8, clock=iter([0.0, WINDOW]).__next__)
    growing.seen("a", 3.0, None)
    growing.seen("a", 8.0, None)
    assert growing.limit == 2
    growing.ended("a")
    assert growing.limit == 1 and not growing.settled


# -- the schedule and the loop, with stub places


class Stub:
    """Runs `share.limit` jobs at once; the oldest ends first, as `outcomes` says (else it is done)."""

    ahead = False

    def __init__(self, store, several, outcomes=()):
        self.store, self.several, self.outcomes = store, several, dict(outcomes)
        self.running, self.begun, self.most = [], [], 0

    def free(self):
        return len(self.running) < self.several.limit

    def start(self, job):
        self.running.append(job)
        self.begun.append(job)
        self.most = max(self.most, len(self.running))

    def wait(self, seconds):
        job = self.running.pop(0)
        outcome = next(iter(self.outcomes.get(job.key, [])), Outcome("done"))
        self.outcomes[job.key] = self.outcomes.get(job.key, [])[1:]
        if outcome.kind == "done":
            folder = self.store.path(job)
            folder.mkdir(parents=True)
            (folder / "metrics.json").write_text('{"status": "done", "reason": "", "values": {}}')
        return [(job, outcome)]

    def relieve(self, job):
        if not self.running:
            return ""
        self.several.at_most(len(self.running))
        return f"{self.several.limit} at once"


def drained(tmp_path, jobs, limit, outcomes=()):
    store, several, display = Store(tmp_path), Share(limit), Quiet()
    schedule, place = Schedule(jobs, store), Stub(store, several, outcomes)  # noqa: F811
    drain(schedule, place, display, SimpleNamespace(value=0))
    return schedule, place, several, display


def test_parents_come_first_and_timed_jobs_alone(tmp_path):
    a, b = train(1), train(2)
    jobs = [a, attack(a), TIMED, b, attack(b)]
    schedule, stub, *_ = drained(tmp_path, jobs, 2)
    assert stub.begun == [a, b, attack(a), attack(b), TIMED] and stub.most == 2
    assert not schedule.failures


@pytest.mark.parametrize("limit", [1, 2, 3, 8])
def test_rows_are_finished_one_after_the_other(tmp_path, limit):
    """Five rows with an attack, one that starts from it and one more, given in the order of two suites that share the
    trainings. A training begins only where all that its forerunners' rows have left waits for something under way."""
    trainings = [train(seed) for seed in range(5)]
    first = {job.key: attack(job) for job in trainings}
    jobs = [job for parent in trainings for job in (parent, first[parent.key])]
    for parent in trainings:
        warm = {"train": parent, "warm_start": first[parent.key]}
        jobs += [Job("attack", {"attack": "gan", "split": "infer"}, warm)]
        jobs += [Job("attack", {"attack": "decoder", "split": "train"}, {"train": parent})]
    store, several = Store(tmp_path), Share(limit)
    schedule, stub = Schedule(jobs, store), Stub(store, several)
    begin, free_for_attack = stub.start, []

    def start(job):
        ready = [other for other in schedule.waiting if all(map(store.done, other.parents.values()))]
        free_for_attack.extend(other for other in ready if job.kind == "train" and other.kind == "attack")
        begin(job)

    stub.start = start
    drain(schedule, stub, Quiet(), SimpleNamespace(value=0))
    assert len(stub.begun) == 20 and stub.most == min(limit, 8) and not free_for_attack
    last = [max(n for n, job in enumerate(stub.begun) if job.parents.get("train", job) == row) for row in trainings]
    assert last == sorted(last)
    if limit == 1:
        assert [job.parents.get("train", job) for job in stub.begun] == [row for row in trainings for _ in range(4)]


def test_ahead_a_job_is_given_out_with_its_parents_and_comes_back_where_they_do_not_end(tmp_path):
    a, b = train(1), train(2)
    store, several = Store(tmp_path), Share(4)
    schedule, stub = Schedule([attack(a), a, TIMED, attack(b), b], store, ahead=True), Stub(store, several)
    assert [schedule.next() for _ in range(4)] == [a, attack(a), b, attack(b)] and schedule.next() is None
    schedule = Schedule([a, attack(a)], store, ahead=True)
    stub = Stub(store, several, {a.key: [Outcome("held")], attack(a).key: [Outcome("early")]})
    drain(schedule, stub, Quiet(), SimpleNamespace(value=0))
    assert stub.begun[:2] == [a, attack(a)] and sorted(map(stub.begun.count, (a, attack(a)))) == [2, 2]
    assert not schedule.failures


def test_a_failure_takes_only_its_children_along(tmp_path):
    a, b = train(1), train(2)
    schedule, stub, *_ = drained(tmp_path, [a, attack(a), b], 2, {a.key: [Outcome("failed", "broke", "log")]})
    assert stub.begun == [a, b]
    assert [(job, reason.split(" ")[0]) for job, reason, _ in schedule.failures] == [(a, "broke"), (attack(a), "needs")]


def test_want_of_memory_is_tried_again_with_fewer_and_then_told(tmp_path):
    a, b = train(1), train(2)
    schedule, stub, several, display = drained(tmp_path, [a, b], 2, {a.key: [Outcome("memory", "full")]})
    assert stub.begun == [a, b, a] and several.limit == 1 and not schedule.failures
    assert "again with 1 at once" in display.lines[0]
    again = drained(tmp_path / "again", [a, b], 2, {a.key: [Outcome("memory", "full")] * 9})
    assert [(job, reason) for job, reason, _ in again[0].failures] == [(a, "full")]


def test_an_interrupt_starts_nothing_more(tmp_path):
    store, several = Store(tmp_path), Share(2)
    schedule, stub, stop = Schedule([train(n) for n in range(4)], store), None, SimpleNamespace(value=0)
    stub = Stub(store, several)
    begin = stub.start
    stub.start = lambda job: (begin(job), setattr(stop, "value", 1))
    with pytest.raises(KeyboardInterrupt):
        drain(schedule, stub, Quiet(), stop)
    assert len(stub.begun) == 1


# -- real processes


def dying(link, stop, results, data_root, device):
    """A worker that is killed by its job of seed 1 and does the others."""
    with suppress(EOFError):
        while True:
            job, _ = link.recv()
            if job.config["seed"] == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            link.send(("outcome", Outcome("done")))


def test_a_worker_that_is_killed_fails_its_job_alone(forked, tmp_path):  # noqa: F811
    store, several = Store(tmp_path), Share(2)
    machine = SimpleNamespace(store=store, data_root=tmp_path, device=torch.device("cpu"))
    stop, schedule = SPAWN.RawValue("b", 0), Schedule([train(1), train(2), train(3)], store)
    with Workers(machine, Quiet(), stop, several, dying) as workers:
        drain(schedule, workers, Quiet(), stop)
        processes = [worker.process for worker in workers.workers]
    ((job, reason, _),) = schedule.failures
    assert job == train(1) and "killed by SIGKILL" in reason
    assert store.status(job) == ("failed", reason)
    assert not any(process.is_alive() for process in processes)


CHOICE = ("--where", "defense=bottleneck,attacker=decoder,split=infer")


def test_results_do_not_depend_on_how_many_run_at_once(forked, place, tmp_path):  # noqa: F811
    assert place.call("run", *CHOICE).code == 0
    alone = place.finished()
    outcome = place.call("run", *CHOICE, "--cells-per-gpu", 2, "--results", tmp_path / "two")
    assert outcome.code == 0, outcome.err
    both = {
        str(path.parent.relative_to(tmp_path / "two")): path.read_bytes()
        for path in (tmp_path / "two").glob("*/*/*/metrics.json")
        if "efficiency" not in str(path)
    }
    assert both == {name: content for name, content in alone.items() if "efficiency" not in name} and len(both) == 4


@pytest.mark.slow
def test_ctrl_c_ends_every_worker_and_saves(place):  # noqa: F811
    choice = (*CHOICE, "--set", "train.epochs=40", "--cells-per-gpu", 2)
    process = started(place.words("run", *choice), place.folder, first=os.setsid)
    deadline, logs = time.monotonic() + 120, []
    while time.monotonic() < deadline and process.is_alive() and len(logs) < 2:
        logs = [log for log in (place.results / ".work").glob("*/log.txt") if "epoch 2/" in log.read_text()]
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    err = (place.folder / "err").read_text()
    assert process.exitcode == 130 and "Traceback" not in err, err
    with pytest.raises(ProcessLookupError):  # no worker is left of its session
        os.killpg(process.pid, 0)
    folders = list((place.results / ".work").iterdir())
    assert len(folders) == 2
    for folder in folders:
        assert (folder / "state.safetensors").is_file() and not (folder / "lock.json").exists()


def test_a_signal_is_told_by_the_loop_not_by_its_handler(tmp_path):
    """It can come while a line is being printed, which a second one would break."""
    store, several, display = Store(tmp_path), Share(2), Quiet()
    schedule, stub = Schedule([train(n) for n in range(4)], store), Stub(store, several)
    display.stopping = lambda: display.line("stopping")

    def start(job):
        stub.begin(job)
        if not stop.value:
            os.kill(os.getpid(), signal.SIGTERM)
            assert display.lines == [] and stop.value == signal.SIGTERM

    stub.begin, stub.start = stub.start, start
    with _graceful_stop(ASK) as stop, pytest.raises(KeyboardInterrupt):
        drain(schedule, stub, display, stop)
    assert set(display.lines) == {"stopping"} and len(stub.begun) == 1


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the workers in /proc")
def test_ctrl_c_does_not_reach_a_worker_that_still_loads(place):  # noqa: F811
    """A terminal sends it to all; the workers end when the run does, without a word."""
    process = started(place.words("run", *CHOICE, "--cells-per-gpu", 2), place.folder, first=os.setsid)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len(workers_of(process.pid)) < 2:
        time.sleep(0.01)
    assert len(workers_of(process.pid)) == 2
    os.killpg(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 130 and "Traceback" not in (place.folder / "err").read_text()


# -- stages


def test_stages_add_up_and_unknown_use_of_the_gpu_is_null():
    with Stages(torch.device("cpu")) as stages:
        for name in ("fit", "save", "fit"):
            with stages(name):
                pass
    record = stages.record()
    assert list(record["stage_seconds"]) == ["fit", "save"] and record["gpu_utilisation_percent"] is None
