"""The Ray engine on real clusters of this machine: the same tables, packing, lost workers and nodes, no shared disk."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from tests.engines.conftest import ENVIRONMENT, LONGER, killed_at_end, needed

pytestmark = [pytest.mark.engines, pytest.mark.usefixtures("ray_installed")]


def processes(*words: str) -> list[int]:
    """The processes whose command line has all of the words."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().decode(errors="replace").replace("\0", " ")
        except OSError:
            continue
        if all(word in line for word in words):
            found.append(int(path.parent.name))
    return found


def started_by(pid: int) -> list[int]:
    """What is left of the Ray that a driver has made on this machine."""
    return processes("session_", f"_{pid}/")


def test_same_tables_and_nothing_stays(local, place):
    with killed_at_end(place.start("run", "--engine", "ray", start_new_session=True)) as process:
        _, err = process.communicate(timeout=900)
        assert process.returncode == 0 and "Traceback" not in err, err
    assert not started_by(process.pid)
    assert re.search(r"^\[8/8\] .* left$", err, re.MULTILINE)  # progress and time left, as the local engine's
    assert place.finished() == local.finished() and place.report() == local.report()


def test_ctrl_c_saves_and_leaves_nothing_running(place):
    words = ("run", "--engine", "ray", "--where", "defense=bottleneck", "--set", "train.epochs=300")
    with killed_at_end(place.start(*words, start_new_session=True)) as process:
        place.wait_for_epoch(2, process)
        assert started_by(process.pid)
        working = place.working()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=300)
    assert process.returncode == 130 and "Traceback" not in err, err
    assert not started_by(process.pid) and not place.working()
    assert all((folder / "state.safetensors").is_file() for folder in working)


def test_a_killed_worker_is_replaced_and_goes_on(longer, place):
    with killed_at_end(place.start("run", *LONGER, "--engine", "ray", start_new_session=True)) as process:
        os.kill(place.holder(place.wait_for_epoch(3, process)), signal.SIGKILL)
        _, err = process.communicate(timeout=900)
    assert process.returncode == 0 and "its worker was lost; it begins again" in err, err
    assert place.finished() == longer.finished()


# -- clusters of several nodes, all on this machine


@contextmanager
def cluster(folder: Path):
    """A head that runs no jobs; yields its address and a function that adds a node."""
    port, environment = free_port(), ENVIRONMENT | {"RAY_USAGE_STATS_ENABLED": "0"}
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
    # sockets have short names only, so not below pytest's folder
    session = Path(f"/tmp/benchmark-ray-{port}")
    nodes: list[subprocess.Popen] = []

    def start(*words, before=(), **more) -> subprocess.Popen:
        command, out = [*before, *ray, *map(str, words)], subprocess.STDOUT
        with open(folder / f"node-{len(nodes)}.log", "w") as log:
            process = subprocess.Popen(command, env=environment | more, stdout=log, stderr=out, start_new_session=True)
        nodes.append(process)
        return process

    def add(*words, **more) -> subprocess.Popen:
        return start(f"--address=127.0.0.1:{port}", *words, **more)

    try:
        start("--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false", f"--temp-dir={session}")
        wait_until(lambda: connects(port), "the head of the cluster")
        yield f"127.0.0.1:{port}", add
    finally:
        for node in nodes:
            for pid in (node.pid, *processes(str(session))):
                kill(pid)
            node.wait()
        shutil.rmtree(session, ignore_errors=True)


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def connects(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def wait_until(true, what: str, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"waited for {what} in vain"
        time.sleep(0.1)


def wait_for_node(address: str, resource: str) -> None:
    """Until the cluster has some of the resource."""
    look = (
        "import ray, sys, time\nray.init(sys.argv[1])\n"
        "while sys.argv[2] not in ray.cluster_resources(): time.sleep(0.2)"
    )
    subprocess.run([sys.executable, "-c", look, address, resource], env=ENVIRONMENT, check=True, timeout=300)


def test_a_lost_node_is_made_up_for(longer, place, tmp_path):
    with cluster(tmp_path) as (address, add):
        first = add("--num-cpus=1", "--node-name=first")
        words = ("run", *LONGER, "--engine", "ray", "--device", "cpu", "--address", address)
        with killed_at_end(place.start(*words, start_new_session=True)) as process:
            worker = place.holder(place.wait_for_epoch(3, process))
            os.killpg(first.pid, signal.SIGKILL)
            # left alone, the worker would finish its job before it sees that its raylet is gone
            for process_of_it in (*processes("raylet/raylet", "first"), worker):
                kill(process_of_it)
            add("--num-cpus=1", "--node-name=second")
            _, err = process.communicate(timeout=900)
    assert process.returncode == 0 and "its worker was lost; it begins again" in err, err
    assert place.finished() == longer.finished()


def test_a_gpu_is_shared_and_results_come_back_without_a_shared_disk(local, place, tmp_path):
    """The node has a GPU by its own word alone, and in its mount namespace neither results nor data."""
    apart = ("unshare", "--mount") if os.getuid() == 0 else ("unshare", "--map-root-user", "--mount")
    needed("the right to make a mount namespace", subprocess.run([*apart, "true"], check=False).returncode == 0)
    away = tmp_path / "away"
    away.mkdir()
    place.results.mkdir()
    hide = f"mount -t tmpfs none '{place.results}' && mount -t tmpfs none '{place.data}' && exec \"$@\""
    with cluster(tmp_path) as (address, add):
        add("--num-cpus=4", "--num-gpus=1", before=(*apart, "sh", "-c", hide, "sh"), TMPDIR=str(away))
        # where the device is not named, the engine asks for GPUs if the cluster has one when the run begins
        wait_for_node(address, "GPU")
        words = ("run", "--engine", "ray", "--address", address, "--cells-per-gpu", 2)
        # trainings too long to end before the second has begun, then stopped: each job has a folder of its own
        with killed_at_end(place.start(*words, "--set", "train.epochs=3000", start_new_session=True)) as process:
            wait_until(lambda: len(set(away.glob("benchmark-*/.work/[!.]*/lock.json"))) >= 2, "two jobs at once")
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=300)
        assert process.returncode == 130, err
        place.run(*words)
    records = [json.loads(path.read_text()) for path in place.results.glob("*/*/*/provenance.json")]
    assert {record["cells_at_once"] for record in records} == {2}
    assert place.finished() == local.finished() and place.report() == local.report()


def test_rows_are_finished_one_after_the_other(place, tmp_path):
    """Where one job runs at a time, at most one training is begun before a row's attack that Ray could have taken."""
    with cluster(tmp_path) as (address, add):
        add("--num-cpus=1")
        wait_for_node(address, "CPU")
        place.run("run", "--engine", "ray", "--device", "cpu", "--address", address)
    ended = sorted(place.results.glob("*/*/*/metrics.json"), key=lambda path: path.stat().st_mtime_ns)
    kinds = [path.parent.name.partition("-")[0] for path in ended]
    rows = [path.parents[1].name for path in ended]
    assert sorted(kinds) == ["decoder"] * 4 + ["train"] * 4
    for place_of_training, (kind, row) in enumerate(zip(kinds, rows, strict=True)):
        if kind == "train":
            attacked = next(n for n, other in enumerate(rows) if other == row and n > place_of_training)
            assert kinds[place_of_training + 1 : attacked].count("train") <= 1, list(zip(rows, kinds, strict=True))


def test_no_cluster_is_one_sentence(place):
    text = place.run("run", "--engine", "ray", "--address", f"127.0.0.1:{free_port()}", code=2)
    assert text.splitlines()[-1].startswith("error: no Ray cluster at --address 127.0.0.1:")


def test_an_error_from_the_hub_is_its_sentence(monkeypatch):
    from ray.exceptions import RayTaskError

    from benchmark.engines import ray as engine
    from benchmark.errors import UserError

    def wrapped(_):
        raise RayTaskError("data", "its trace", UserError("data is missing")).as_instanceof_cause()

    monkeypatch.setattr(engine.ray, "get", wrapped)
    outcome = engine._work(None, None, 1, MagicMock())
    assert (outcome.kind, outcome.text) == ("failed", "data is missing")


def test_a_node_without_the_attackers_images_gets_both_data_sets(tmp_path, monkeypatch):
    """It has the cell's own data set, but not the one that the attacker knows."""
    from benchmark import data
    from benchmark.data import store as prepared
    from benchmark.engines import ray as engine
    from benchmark.matrix.cells import Job

    held = data.load("photos", tmp_path / "driver")
    data.load("photos", tmp_path / "node")
    files = {"photos": [path.read_bytes() for path in prepared.paths("photos", tmp_path / "driver")]}
    files["cifar10"] = [b"tensors", b"facts"]
    asked, hub = [], MagicMock()

    def sent(name):
        asked.append(name)
        names = [path.name for path in prepared.paths(name, tmp_path)]
        return dict(zip(names, files[name], strict=True))

    hub.data.remote = sent
    monkeypatch.setattr(engine.ray, "get", lambda found: found)
    train = Job("train", {"dataset": "photos", "fingerprint": held.fingerprint})
    attack = Job("attack", {"knowledge": {"dataset": "cifar10", "fingerprint": "0" * 64}}, {"train": train})
    spec = engine._Spec(tmp_path, tmp_path / "node", "cpu", "mark")
    assert engine._data_root(train, spec, hub) == tmp_path / "node" and not asked
    engine._fetched.cache_clear()
    for _ in range(2):
        root = engine._data_root(attack, spec, hub)
        assert root != tmp_path / "node" and asked == ["photos", "cifar10"]
    assert data.load("photos", root).fingerprint == held.fingerprint
    assert all(path.is_file() for path in prepared.paths("cifar10", root))
    engine._fetched.cache_clear()
