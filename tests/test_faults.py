"""Faults, one by one: what happens, and that the same command afterwards ends in the tables of an undisturbed run.

docs/RELIABILITY.md lists them. The soak, many more random kills, is
`BENCHMARK_KILLS=50 python -m pytest tests/test_faults.py -k random`.
"""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from benchmark import data
from benchmark.jobs.run_job import Machine, prepare_attack
from benchmark.matrix import expand as expansion
from benchmark.store.checksums import Damaged
from benchmark.store.store import Store
from benchmark.training.train import version
from tests.support.command_line import Place, break_disk, call, call_apart, copied, finished, place, started, workers_of  # noqa: F401 (fixtures)

KILLS = int(os.environ.get("BENCHMARK_KILLS", 5))
CHOICE = ("--where", "defense=dropout,attacker=decoder,split=infer")


def same_tables(place, finished, tmp_path, *choice):  # noqa: F811
    """The same bytes in every result and every table that does not time the hardware."""
    undisturbed, ours = finished.finished(), place.finished()
    assert ours
    for name, content in ours.items():
        if "efficiency" not in name:
            assert undisturbed[name] == content, name
    texts = []
    for which in (finished, place):
        folder = tmp_path / f"tables-{which.folder.name}"
        assert which.call("report", *choice, "--tables", folder).code == 0
        texts.append({path.name: path.read_text() for path in folder.glob("smoke*/photos-[ms]*.md")})
    assert texts[0] == texts[1] and texts[0]


# -- damage to what is stored


def flip(path: Path, place: float = 0.5) -> None:  # noqa: F811
    """Flip one bit of a file."""
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    path.write_bytes(content)


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.slow
def test_damaged_results_are_noticed_set_aside_and_computed_again(copied, finished, tmp_path):  # noqa: F811
    """A flipped bit, half a file, a file that is gone: of a job each, in all kinds of files."""
    damages = {"metrics.json": flip, "provenance.json": halve, "job.json": flip, "history.csv": Path.unlink}
    damages |= {"reconstructions.png": flip, "SHA256SUMS": halve}
    folders = sorted(copied.results.glob("photos/*/decoder-*"))
    for folder, (name, damage) in zip(folders, damages.items(), strict=False):
        damage(folder / name)
    outcome = copied.call("run")
    assert outcome.code == 0, outcome.err
    told = [line for line in outcome.err.splitlines() if "runs again; the old result is" in line]
    assert len(told) == len(damages) == len(list((copied.results / ".work").glob("replaced-*")))
    for folder, name in zip(folders, damages, strict=False):
        assert any(str(folder / name) in line for line in told), (folder, name, told)
    same_tables(copied, finished, tmp_path)


def test_weights_damaged_in_the_course_of_a_run_are_noticed_as_they_are_read(copied):  # noqa: F811
    """What is looked at before a run cannot show it."""
    (weights,) = copied.results.glob("photos/dropout/train-*/encoder.safetensors")
    cells = copied.cells("defense=dropout,cem=off,attacker=decoder,split=infer")
    (job,) = [cell.job for cell in cells if cell.kind == "attack"]
    machine = Machine(Store(copied.results), copied.data, torch.device("cpu"))
    prepare_attack(job, machine)
    flip(weights)
    with pytest.raises(Damaged, match="altered since it was written"):
        prepare_attack(job, machine)


def test_damaged_weights_are_noticed_where_they_are_needed(copied, finished, tmp_path):  # noqa: F811
    """A flipped bit, and a whole checkpoint of another attack: only the job's own checksums can tell that one."""
    (flipped,) = copied.results.glob("photos/dropout/decoder-infer-*/checkpoint.safetensors")
    (foreign,) = copied.results.glob("photos/bottleneck/decoder-infer-*/checkpoint.safetensors")
    foreign.write_bytes(flipped.read_bytes())
    flip(flipped)
    assert "runs again" not in copied.call("run").err  # nothing reads them
    for row in ("dropout", "bottleneck"):
        (needs,) = copied.results.glob(f"photos/{row}/gan-train-*/metrics.json")  # it starts from them
        needs.unlink()
    outcome = copied.call("run")
    assert outcome.code == 0, outcome.err
    for weights in (flipped, foreign):
        assert f"{weights} was altered since it was written: it runs again" in outcome.err
    same_tables(copied, finished, tmp_path)


def test_what_cannot_be_read_is_not_computed_again(copied, monkeypatch):  # noqa: F811
    (path,) = copied.results.glob("photos/dropout/train-*/history.csv")
    break_disk(monkeypatch, path)
    outcome = copied.call("run")
    assert outcome.code == 2 and f"cannot read {path}" in outcome.err and "Traceback" not in outcome.err, outcome.err
    assert path.is_file() and not list((copied.results / ".work").glob("replaced-*"))
    outcome = call("store", "verify", "--results", copied.results)
    assert outcome.code == 1 and f"unreadable: cannot read {path}" in outcome.out
    assert outcome.out.endswith(
        "21 intact (0 of them without their weights), 0 with no checksums, 0 damaged, 1 unreadable\n"
    )
    monkeypatch.undo()
    assert "22 of 22 jobs are in the store already" in copied.call("run").err


def test_a_result_from_before_there_were_checksums_is_a_result(copied):  # noqa: F811
    for path in copied.results.glob("*/*/*/SHA256SUMS"):
        path.unlink()
    assert "22 of 22 jobs are in the store already" in copied.call("run").err


def forge(path: Path) -> None:
    """Another fingerprint, by one character."""
    path.write_text(re.sub('"fingerprint": ".', '"fingerprint": "x', path.read_text()))


@pytest.mark.parametrize(
    ("name", "damage"),
    [("photos.safetensors", flip), ("photos.safetensors", halve), ("photos.json", halve), ("photos.json", forge)],
)
def test_damaged_data_is_noticed_set_aside_and_prepared_again(tmp_path, capsys, name, damage):
    data.load("photos", tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    damage(tmp_path / name)
    data.load("photos", tmp_path)
    assert "photos" in (err := capsys.readouterr().err) and "set aside and prepared anew" in err
    assert (tmp_path / f"{name}.damaged").exists()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.suffix != ".damaged"} == before


def test_a_mid_job_state_of_another_version_of_the_code(place, finished, tmp_path, monkeypatch):  # noqa: F811
    """The state lacks what this version saves: set aside and told; the run after it starts the job over."""
    from benchmark.training import checkpoint, loop

    one = ("--where", "defense=dropout,cem=off,attacker=decoder,split=infer")
    real, whole = loop.run, checkpoint.save

    def interrupted(task, path, monitor):
        monitor.stopping = lambda: True
        return real(task, path, monitor)

    def older(path, state):
        if "parts" in state:
            state["parts"].popitem()
        whole(path, state)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "run", interrupted)
        patch.setattr(checkpoint, "save", older)
        assert place.call("run", *one).code == 130
    outcome = place.call("run", *one)
    assert outcome.code == 1 and "does not fit this version of the program" in outcome.err
    assert "Traceback" not in outcome.err and list((place.results / ".work").glob("*/state.safetensors.damaged"))
    assert place.call("run", *one).code == 0
    same_tables(place, finished, tmp_path, *one)


def test_two_versions_of_the_code_on_one_store(copied, finished, tmp_path, monkeypatch):  # noqa: F811
    """Each version finds its own results and leaves the other's alone."""
    one = ("--where", "defense=dropout,cem=off,attacker=decoder,split=infer")
    before = copied.finished()
    with monkeypatch.context() as patch:
        patch.setattr(expansion, "version", lambda arch: version(arch) + 1)
        assert "waiting      2" in copied.call("status", *one).out
        assert copied.call("run", *one).code == 0
        assert "done         2" in copied.call("status", *one).out
    after = copied.finished()
    assert len(after) == len(before) + 2 and {name: after[name] for name in before} == before
    for name in set(after) - set(before):
        shutil.rmtree(copied.results / name)
    same_tables(copied, finished, tmp_path)


# -- plug-ins

PLUGIN = """
import torch

from benchmark.defenses import DEFENSES, Defense


@DEFENSES.register("fault")
class Fault(Defense):
    def loss(self, batch):
        {body}
"""


@pytest.fixture
def plugin(place, tmp_path, monkeypatch):  # noqa: F811
    """Runs the suite with a defence from a file whose loss is `body`, in a process of its own."""
    monkeypatch.delenv("BENCHMARK_PLUGINS", raising=False)

    def change(matrix, smoke):
        matrix["defenses"]["fault"] = {"noise_std": 0.025}
        smoke |= {"defense": ["fault"], "cem": ["off"], "seed": [1, 2], "efficiency": []}

    place.edit(change)

    def run(body, *more):
        (tmp_path / "fault.py").write_text(PLUGIN.format(body=body))
        words = [
            "--plugin",
            tmp_path / "fault.py",
            *place.words("run", "--where", "attacker=decoder,split=infer", *more),
        ]
        return call_apart(*words)

    run.place = place
    return run


def test_a_defence_that_raises_and_is_mended(plugin):
    outcome = plugin("raise RuntimeError('the defence broke')")
    assert outcome.code == 1 and "Traceback" not in outcome.err
    assert outcome.err.count("RuntimeError: the defence broke (log: ") == 2  # both seeds were tried
    outcome = plugin("return None")
    assert outcome.code == 0, outcome.err
    assert len(plugin.place.finished()) == 4


ODD = {  # what a loss does, and the reason that its job is to have
    "SystemExit: 0": "raise SystemExit(0)",
    "SystemExit": "__import__('sys').exit()",
    "GeneratorExit": "raise GeneratorExit",
    "CancelledError: x": "raise __import__('asyncio').CancelledError('x')",
    "Own: x": "raise type('Own', (BaseException,), {})('x')",
    "OSError: x": "raise OSError('x')",
    "OSError: [Errno 28] No space left on device": "raise OSError(28, 'No space left on device')",
    "Mute: its message cannot be had": "raise type('Mute', (Exception,), {'__str__': lambda self: 1 / 0})()",
    "Quit: its message cannot be had": "raise type('Quit', (Exception,), {'__str__': lambda self: exit(0)})()",
    "ValueError: half a pair \\xff": r"raise ValueError('half a pair \ud800 \x1b \udcff')",
    "loss: a line another": r"raise __import__('benchmark').errors.UserError('loss: a line\nanother')",
}


def fault_and_another(count: int):
    """A change of the matrix: so many seeds of the defence from the file, and one of another row."""

    def change(matrix, smoke):
        matrix["defenses"]["fault"] = {"noise_std": 0.025}
        smoke |= {"defense": ["fault", "bottleneck"], "cem": ["off"], "seed": list(range(count)), "efficiency": []}
        smoke["exclude"] = [{"defense": "bottleneck", "seed": list(range(1, count))}]

    return change


def test_whatever_a_defence_raises_is_its_jobs_failure(plugin):
    """The others (the further seeds, and the row of another defence) are tried, and the exit status is 1."""
    plugin.place.edit(fault_and_another(len(ODD)))
    cases = "".join(f"\n        if turn == {number}:\n            {body}" for number, body in enumerate(ODD.values()))
    outcome = plugin(f"turn = Fault.turn = getattr(Fault, 'turn', -1) + 1{cases}", "--cells-per-gpu", 1)
    assert outcome.code == 1 and "Traceback" not in outcome.err, outcome.err
    for seed, reason in enumerate(ODD):
        assert f"failed: photos fault seed {seed} train: {reason} (log: " in outcome.err, (reason, outcome.err)
    assert "\x1b" not in outcome.err and f"{2 * len(ODD)} of {2 * len(ODD) + 2} jobs failed" in outcome.err
    assert len(plugin.place.finished()) == 2  # the other row


@pytest.mark.parametrize("reason", ["SystemExit: 0", "Mute: its message cannot be had"])
@pytest.mark.slow
def test_whatever_a_defence_raises_in_a_worker(plugin, reason):
    plugin.place.edit(fault_and_another(1))
    outcome = plugin(ODD[reason], "--cells-per-gpu", 2)
    assert outcome.code == 1 and "Traceback" not in outcome.err, outcome.err
    assert f" train: {reason} (log: " in outcome.err and "2 of 4 jobs failed" in outcome.err, outcome.err
    assert len(plugin.place.finished()) == 2


@pytest.mark.parametrize(
    "where",
    [
        "@classmethod\n    def model_options(cls, params):\n        {body}\n",  # the networks, and the estimate before
        "def end_epoch(self, epoch, model, optimizer):\n        {body}\n",
        "def __init__(self, params, setting):\n        {body}\n",
    ],
)
def test_a_defence_that_ends_the_program_elsewhere(plugin, monkeypatch, where):
    monkeypatch.setattr(f"{__name__}.PLUGIN", PLUGIN.replace("def loss(self, batch):\n        {body}\n", where))
    outcome = plugin("raise SystemExit(0)")
    assert outcome.code == 1 and "Traceback" not in outcome.err, outcome.err
    assert outcome.err.count("SystemExit: 0 (log: ") == 2


@pytest.mark.parametrize("error", ["SystemExit(0)", "GeneratorExit", "OSError('x')", "KeyError(b'x')"])
def test_parameters_of_a_plug_in_that_fail(finished, tmp_path, monkeypatch, error):  # noqa: F811
    """Nothing runs, and that is told: exit status 2."""
    monkeypatch.delenv("BENCHMARK_PLUGINS", raising=False)
    (tmp_path / "x.py").write_text(
        f"""
from pydantic import model_validator
from benchmark.defenses import DEFENSES, Defense

@DEFENSES.register("strict")
class Strict(Defense):
    class Params(Defense.Params):
        @model_validator(mode="before")
        @classmethod
        def check(cls, value):
            raise {error}
"""
    )
    place = Place(tmp_path, finished.data).edit(  # noqa: F811
        lambda matrix, smoke: matrix["defenses"].update(strict={"noise_std": 0.1})
    )
    outcome = call_apart("--plugin", tmp_path / "x.py", *place.words("run"))
    assert outcome.code == 2 and "Traceback" not in outcome.err, outcome.err
    assert error.partition("(")[0] in outcome.err and "matrix.yaml, line" in outcome.err


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ("torch.OutOfMemoryError('CUDA out of memory.')", "the memory of cpu does not suffice for it"),
        ("__import__('benchmark').errors.TooLarge('it needs 9 GiB')", "it needs 9 GiB"),
    ],
)
@pytest.mark.slow
def test_a_gpu_without_memory_gets_fewer_jobs_and_then_one_clear_failure(plugin, error, told):
    """Simulated: the defence raises what CUDA or we raise. Two at once, then one, then it is told, each job once."""
    outcome = plugin(f"raise {error}", "--cells-per-gpu", 2)
    assert outcome.code == 1 and "Traceback" not in outcome.err, outcome.err
    assert "again with 1 at once" in outcome.err
    failed = [line for line in outcome.err.splitlines() if line.startswith("failed: ") and " train: " in line]
    assert len(failed) == 2 and all(told in line for line in failed)
    assert plugin("return None", "--cells-per-gpu", 2).code == 0 and len(plugin.place.finished()) == 4


def test_a_loss_that_is_not_a_number_is_a_result_with_its_epoch(plugin):
    outcome = plugin("return batch.z.sum() * float('nan')")
    assert outcome.code == 0, outcome.err
    results = [json.loads(content) for content in plugin.place.finished().values()]
    assert {result["status"] for result in results} == {"diverged"} and len(results) == 4
    assert all("the loss is nan in epoch 1 of 2" in result["reason"] for result in results)


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("x.py", "raise ValueError('no')", "does not load: ValueError: no"),
        ("x.py", "import nothing_of_the_kind", "does not load: ModuleNotFoundError"),
        ("x.py", "def (", "does not load: SyntaxError"),
        ("x.py", "exit(0)", "does not load: SystemExit: 0"),
        ("x.py", "raise OSError('x')", "does not load: OSError: x"),
        ("x.txt", "", "give the path of a .py file"),
        (None, "", "give the path of a .py file"),
        (
            "x.py",
            "from benchmark.defenses import *\n@DEFENSES.register('dropout')\nclass Dropout(Defense): pass",
            "two classes register the defence 'dropout'",
        ),
    ],
)
def test_plug_in_files_that_do_not_load(finished, tmp_path, monkeypatch, name, content, text):  # noqa: F811
    monkeypatch.delenv("BENCHMARK_PLUGINS", raising=False)
    path = tmp_path / (name or "nowhere.py")
    if name:
        path.write_text(content)
    outcome = call("--plugin", path, *finished.words("status"))
    assert outcome.code == 2 and text in outcome.err and str(path) in outcome.err and "Traceback" not in outcome.err


# -- disks


@contextlib.contextmanager
def mounted(folder: Path, options: str):
    """A file system in memory at `folder`; skips where that is not allowed."""
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("only root may mount a file system, and not in every container")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_full_disk(place, finished, tmp_path):  # noqa: F811
    with mounted(place.results, "size=700k"):
        outcome = place.call("run", *CHOICE)
        assert outcome.code == 2 and "Traceback" not in outcome.err, outcome.err
        assert "free space or choose another --results" in outcome.err and outcome.err.count("\n") == 2
        subprocess.run(["mount", "-o", "remount,size=100m", place.results], check=True)
        assert place.call("run", *CHOICE).code == 0
        same_tables(place, finished, tmp_path, *CHOICE)


def test_a_read_only_store(finished, tmp_path):  # noqa: F811
    """It can be reported from, and a run says that it cannot write."""
    place = Place(tmp_path / "place", finished.data).edit()  # noqa: F811
    with mounted(place.results, "size=100m"):
        subprocess.run(["cp", "-r", f"{finished.results}/.", place.results], check=True)
        subprocess.run(["mount", "-o", "remount,ro", place.results], check=True)
        outcome = place.call("run")
        assert outcome.code == 2 and "cannot write the results folder" in outcome.err
        assert place.call("status").code == 0 and "done        22" in place.call("status").out
        same_tables(place, finished, tmp_path)


# -- kills

# Python's own words, in a worker whose runner was killed between starting it and telling it what to do
UNTOLD = re.compile(
    r'Traceback \(most recent call last\):\n  File "<string>", line 1, in <module>\n(?:  .*\n)+?'
    r"    preparation_data = reduction\.pickle\.load\(from_parent\)\n(?:  .*\n)*EOFError: Ran out of input\n"
)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the workers in /proc")
@pytest.mark.slow
def test_random_kills_change_nothing(place, finished, tmp_path):  # noqa: F811
    """Two runners on one store, one of them with workers. Again and again one of the processes is killed with SIGKILL
    at a random moment, and begun again, until the suite is done; round after round until there were enough kills."""
    choice, killed = random.Random(time.time_ns()), {"runner": 0, "worker": 0}
    commands = [place.words("run", *CHOICE), place.words("run", *CHOICE, "--cells-per-gpu", 2)]
    while sum(killed.values()) < KILLS:
        running = [None, None]
        while len(place.finished()) < 4:
            for number, words in enumerate(commands):
                if not (running[number] and running[number].is_alive()):
                    running[number] = started(words, place.folder)
            time.sleep(choice.uniform(0, 3))
            if (done := sum(killed.values())) == KILLS:
                continue
            which = "worker" if done % 2 else "runner"  # a worker takes its time to be there
            targets = workers_of(running[1].pid) if which == "worker" else [process.pid for process in running]
            with contextlib.suppress(ProcessLookupError, IndexError):
                os.kill(choice.choice(targets), signal.SIGKILL)
                killed[which] += 1
        for process in running:
            process.join(120)
        outcome = place.call("run", *CHOICE)
        assert outcome.code == 0, outcome.err
        assert "Traceback" not in UNTOLD.sub("", (place.folder / "err").read_text())
        same_tables(place, finished, tmp_path, *CHOICE)
        assert list((place.results / ".work").iterdir()) == []
        shutil.rmtree(place.results)
    print(f"killed {killed}")
