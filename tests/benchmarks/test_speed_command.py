"""`measure speed`: the whole of it at small sizes, its arithmetic on known values, and the plain scripts."""

import math
import multiprocessing
import os
import subprocess
import sys
import time
import xml.etree.ElementTree
from contextlib import ExitStack
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmark.data.augment import apply, draw
from benchmark.errors import UserError
from benchmark.training.graph import allowed
from benchmarks import cases, cells, peaks, plain, stage, steps
from benchmarks.cells import Process, in_company, throughput
from benchmarks.measure import Case, interleave
from benchmarks.steps import SMALL
from tests.support.calls import breaks, dies, expects, naps
from tests.support.command_line import FORKS, call, forked  # noqa: F401 (fixture)
from tests.support.tape import Tape

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]


# -- the command


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("speed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells, "SPAWN", FORKS)  # their settings are looked at below
        outcome = call("measure", "speed", "--quick", "--rounds", 1, "--device", "cpu", "--tables", folder)
    assert outcome.code == 0, outcome.err
    names = ["speed.csv", "speed.md", "speed.png", "speed.svg"]
    assert sorted(Path(line).name for line in outcome.out.splitlines()) == names
    return folder / "speed"


@pytest.mark.slow
def test_every_kind_of_step_is_timed(written):
    table = pd.read_csv(written / "speed.csv", keep_default_na=False)
    here = table[table["variant"] == "here"]
    for group, what in (
        ("training", "training"),
        ("training", "training, CEM scalar"),
        ("training", "training, CEM diagonal"),
        ("training", "training, CEM full"),
        ("training", "training, adversary"),
        ("attacks", "decoder attack"),
        ("attacks", "GAN attack"),
        ("pieces", "augmentation"),
        ("pieces", "clustering, once an epoch"),
        ("pieces", "refit, CEM full"),
    ):
        row = here[(here["group"] == group) & (here["what"] == what)]
        assert len(row) == 1 and float(row["images_per_second"].iloc[0]) > 0
    assert {"channels_last off", "convolutions of our own off", "device augmentation off", "everything off"} <= set(
        table["variant"]
    )
    assert {"classes", "components", "images"} <= {what.split()[-1] for what in table["what"]}
    assert (table["group"] == "cells").any()
    company = table[table["group"] == "company"]
    assert {"training", "decoder attack", "GAN attack"} <= set(company["what"])
    assert (company["times_as_fast"].astype(float) > 0).all()
    roofline = table[table["gflop"] != ""]
    assert len(roofline) == 8 and (roofline["share_of_matrix_peak"].astype(float) > 0).all()
    steps_compared = table[table["compared_with"] == "plain script"]
    ratio = steps_compared["times_as_fast"].astype(float)
    assert len(ratio) == 8 and (ratio > 0).all()


def test_the_table_and_the_plot_say_how_and_with_units(written):
    text = (written / "speed.md").read_text()
    for word in ("quick run", f"torch {torch.__version__.split('+')[0]}", "Load", "GFLOP/s", "images/s", "an epoch"):
        assert word in text
    assert xml.etree.ElementTree.parse(written / "speed.svg").getroot().tag.endswith("svg")
    assert (written / "speed.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("options", [("--rounds", 0), ("--rounds", 101), ("--device", "tpu"), ("--device", "cuda:99")])
def test_bad_options_are_told_in_a_sentence(tmp_path, options):
    outcome = call("measure", "speed", "--quick", "--tables", tmp_path, *options)
    assert outcome.code == 2 and outcome.err.startswith("error: ") and outcome.err.count("\n") == 1


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "measure", lambda *_: pytest.fail("measured"))
    (tmp_path / "file").write_text("")
    outcome = call("measure", "speed", "--quick", "--tables", tmp_path / "file")
    assert outcome.code == 2 and "cannot write" in outcome.err


@pytest.mark.slow
def test_an_installed_package_without_the_repository_says_so(tmp_path):
    """And the repository's own package finds the cases from any folder, as the script `benchmark` is called."""
    package = ROOT / "benchmark"
    for place, told in ((tmp_path / "alone", "come with the repository"), (ROOT, "there is no such group")):
        if place != ROOT:
            place.mkdir()
            (place / "benchmark").symlink_to(package)
        words = ["measure", "speed", "--only", "nothing", "--tables", str(tmp_path / "tables")]
        start = (
            f"import sys; sys.path[0] = {str(place)!r}; sys.argv[1:] = {words}; from benchmark.cli import main; main()"
        )
        done = subprocess.run([sys.executable, "-c", start], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 2 and told in done.stderr, done.stderr


def test_interrupted_it_writes_nothing_and_leaves_no_process(tmp_path, monkeypatch):
    started = []

    def stop(*_):
        started.append(Process(CPU, settled=False))
        with started[0]:
            raise KeyboardInterrupt

    monkeypatch.setattr(stage, "interleave", stop)
    outcome = call("measure", "speed", "--quick", "--tables", tmp_path)
    assert outcome.code == 130 and "nothing was written" in outcome.err
    assert not list(tmp_path.rglob("speed.*")) and not started[0].process.is_alive()


def test_only_some_groups_go_to_a_folder_of_their_own_and_one_that_is_not_there_is_told(tmp_path):
    outcome = call(
        "measure", "speed", "--quick", "--rounds", 1, "--device", "cpu", "--tables", tmp_path, "--only", "scaling"
    )
    assert outcome.code == 0, outcome.err
    assert not (tmp_path / "speed" / "speed.md").exists()
    text = (tmp_path / "speed" / "scaling" / "speed.md").read_text()
    assert "## How cost grows" in text and "## Steps" not in text
    outcome = call("measure", "speed", "--quick", "--tables", tmp_path, "--only", "scaling,growth")
    assert outcome.code == 2 and "growth" in outcome.err and "company" in outcome.err


def test_what_was_measured_before_an_interruption_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "_timed", lambda *_: None)

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, "_cells", stop)
    outcome = call("measure", "speed", "--quick", "--device", "cpu", "--tables", tmp_path)
    assert outcome.code == 130 and str(tmp_path / "speed") in outcome.err
    assert "GFLOP/s" not in (tmp_path / "speed" / "speed.md").read_text()


# -- timing


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def timed(seconds: dict[str, float], rounds: int):
    """Cases whose calls take so many seconds of a clock; the order in which they were called."""
    clock, order = Clock(), []

    def make(name):
        def run():
            order.append(name)
            clock.now += seconds[name]

        return lambda: run

    made = [Case("g", name, "here", 10, make(name)) for name in seconds]
    interleave(made, rounds, CPU, lambda text, done: None, clock=clock)
    return made, order


def test_cases_take_turns_and_begin_with_another_each_round():
    made, order = timed({"a": 1.0, "b": 2.0, "c": 3.0}, 3)
    assert order == list("aabbcc" + "abc" + "bca" + "cab")  # twice to warm up
    assert [case.seconds for case in made] == [[1.0] * 3, [2.0] * 3, [3.0] * 3]
    assert [case.rate for case in made] == [10, 5, 10 / 3]


def test_short_calls_are_repeated_and_long_ones_not_timed_for_ever():
    made, order = timed({"short": 0.001, "long": 100.0}, 6)
    assert order.count("short") == 2 + 6 * 50
    assert order.count("long") == 2 + 3  # three rounds at least
    assert made[0].seconds == pytest.approx([0.001] * 6)


def test_ratios_are_of_the_fastest():
    plan = cases.plan(CPU, "fp32", quick=True)
    found = stage.Findings(plan, 2, True, {}, peaks={"fp32": 100.0}, bandwidth=10.0)
    found.timed = [
        Case("g", "w", "plain script", 4, None, seconds=[8.0, 6.0]),
        Case("g", "w", "here", 4, None, base="plain script", seconds=[2.0, 9.0], flop=50.0, traffic=5.0),
    ]
    found.cells = {1: 2.0, 2: 3.0}
    table = stage.frame(found).set_index(["group", "variant"])
    assert table.loc[("g", "here"), "times_as_fast"] == 3
    assert table.loc[("g", "here"), "share_of_matrix_peak"] == 0.25
    assert table.loc[("g", "here"), "share_of_bandwidth"] == 0.25
    assert table.loc[("cells", "2"), "times_as_fast"] == 1.5
    assert math.isnan(table.loc[("g", "plain script"), "times_as_fast"])


# -- counting


def test_flop_agree_with_torchs_own_counter_and_with_a_formula(one_thread):
    step = steps.training_step(SMALL, CPU, "fp32", "full")
    step()
    with FlopCounterMode(display=False) as reference:
        step()
    flop, traffic = peaks.count(step)
    assert flop == reference.get_total_flops() > 0
    a, b = torch.rand(30, 40), torch.rand(40, 50)
    assert peaks.count(lambda: a @ b) == (2 * 30 * 40 * 50, 4 * (30 * 40 + 40 * 50 + 30 * 50))
    assert traffic > 4 * sum(p.numel() for p in steps.training(SMALL, CPU, "fp32").model.parameters())


def test_where_graphs_are_on_an_eager_build_is_counted(monkeypatch):
    """A replay shows no operator; on a GPU nine of the ten steps of the GAN attack are replays."""
    monkeypatch.delenv("BENCHMARK_GRAPHS", raising=False)
    built = []

    def make():
        built.append(allowed())
        return lambda: torch.rand(2, 3) @ torch.rand(3, 4)

    for device in ("cuda", "cpu"):
        case = Case(cases.ATTACKS, "GAN attack", cases.HERE, 1, make)
        stage._inspect(cases.plan(torch.device(device), "fp32", quick=True), case, lambda: None)
        assert case.flop == (48 if device == "cuda" else 0)
    assert built == [False] and allowed() and "BENCHMARK_GRAPHS" not in os.environ


def test_traffic_of_views_in_place_and_picked_rows():
    a, rows = torch.rand(100, 10), torch.tensor([3, 4])
    assert peaks.count(lambda: a.view(10, 100).mT)[1] == 0
    assert peaks.count(lambda: a.add_(1))[1] == 2 * a.nbytes
    assert peaks.count(lambda: a[rows])[1] == 2 * (rows.nbytes + 2 * 10 * 4)  # not the 100 rows
    assert peaks.count(lambda: torch.add(a, a, out=a))[1] > 0
    assert peaks.count(lambda: nn.functional.relu(a))[1] == 2 * a.nbytes


def test_operators_that_other_threads_would_run_are_counted():
    before = torch.get_num_threads()
    step = steps.decoder_step(SMALL, CPU, "fp32")
    step()
    counts = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        counts.append(peaks.count(step)[0])
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    assert counts[0] == counts[1] > 0


def test_as_delivered_convolutions_are_torchs_own():
    adversary = steps.training(SMALL, CPU, "fp32", defense="noise_arl", kind=steps.TorchsOwn)
    for network in (adversary.model, adversary.defense):
        convs = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
        assert convs and {type(conv) for conv in convs} <= {nn.Conv2d, nn.ConvTranspose2d}


def test_peaks_are_positive():
    assert peaks.matrix_peak(CPU, torch.float32, 64, 2) > 0
    assert peaks.bandwidth(CPU, 1, 2) > 0


# -- the plain scripts and the steps with a feature off do the same


def test_the_plain_augmentation_is_the_batched_one():
    images = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8, generator=steps.generator(CPU))
    draws = draw(40, steps.generator(CPU), True)
    arrays = images.permute(0, 2, 3, 1).numpy()
    one_by_one = [plain.augmented(array, *(d.item() for d in own)) for array, *own in zip(arrays, *draws, strict=True)]
    assert torch.equal(torch.stack(one_by_one), apply(images, *draws, True))


def test_the_loader_gives_every_image_once():
    data = steps.data(SMALL, CPU)
    loader = plain.Loader(data, 8, CPU, augment=False)
    batches = [loader.next() for _ in range(len(data.train) // 8)]
    seen = torch.cat([x01 for x01, _, _ in batches])
    wanted = data.train.images.float() / 255
    assert torch.equal(seen.flatten(1).sum(1).sort().values, wanted.flatten(1).sum(1).sort().values)
    x01, x, _ = batches[0]
    torch.testing.assert_close(x, (x01 - 0.5) / 0.25)


@pytest.mark.parametrize("name", ["training", "training_cem", "adversarial", "decoder", "gan"])
def test_the_plain_scripts_learn(name):
    step = cases.run_script(name, SMALL, CPU)
    losses = [step() for _ in range(3)]
    assert all(map(math.isfinite, losses)) and len(set(losses)) == 3


@pytest.mark.parametrize("kind", [steps.Contiguous, steps.Plain])
def test_a_training_in_contiguous_memory_gives_the_same_loss(kind, monkeypatch):
    """With the same augmented images: the features change the time and not the result."""
    images = torch.rand(SMALL.batch, 3, 32, 32, generator=steps.generator(CPU))
    monkeypatch.setattr(plain, "augment", lambda arrays, rng: images.clone())
    monkeypatch.setattr("benchmark.training.train.augment", lambda *_: images.clone())
    losses = []
    for chosen in (steps.Training, kind):
        task = steps.training(SMALL, CPU, "fp32", kind=chosen)
        torch.manual_seed(0)
        task.step(1, 0)
        losses.append(task.totals[0].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    memory = [p for p in task.model.parameters() if p.dim() == 4 and p.shape[2] > 1]
    assert all(p.is_contiguous() for p in memory)


def test_our_own_convolutions_change_a_short_run_by_rounding_alone():
    """Several steps of a training with an adversary and of both attacks, beside torch's own operators."""
    kinds = (nn.Conv2d, nn.ConvTranspose2d)
    for build, networks in (
        (lambda: steps.training(SMALL, CPU, "fp32", defense="noise_arl"), ("model", "defense")),
        (lambda: steps.attack("decoder", SMALL, CPU, "fp32"), ("decoder",)),
        (lambda: steps.attack("gan", SMALL, CPU, "fp32"), ("generator",)),
    ):
        found = []
        for torchs_own in (False, True):
            task = build()
            for name in networks if torchs_own else ():
                plain.as_delivered(getattr(task, name), kinds)
            torch.manual_seed(0)
            for index in range(4):
                task.step(1, index)
            network = getattr(task, networks[0])
            found.append(torch.cat([value.flatten().double() for value in network.state_dict().values()]))
        ours, theirs = found
        start = build()
        moved = torch.cat([v.flatten().double() for v in getattr(start, networks[0]).state_dict().values()]) - theirs
        assert (ours - theirs).norm() < 1e-2 * moved.norm()
        assert not torch.equal(ours, theirs)  # it was another way


def test_features_computed_at_every_step_give_the_attack_the_same_images():
    call_it = steps.decoder_step_with_encoder(SMALL, CPU, "fp32")
    call_it()
    call_it()


# -- graphs, without a GPU: the steps that are timed on one are captured and replayed


@pytest.mark.parametrize("build", [steps.training, lambda *a: steps.attack("decoder", *a)], ids=["training", "decoder"])
def test_timed_steps_can_be_captured(build):
    task = build(SMALL, CPU, "fp32")
    task.captured.backend = Tape()
    step = steps.stepper(task, 1)
    for _ in range(6):
        step()
    assert task.captured.used and task.captured.obstacle == ""


def test_graphs_are_a_feature_on_cuda_alone(monkeypatch):
    for device, there in (("cpu", False), ("cuda", True)):
        plan = cases.plan(torch.device(device), "bf16", quick=True)
        apart = cases.as_delivered(ExitStack(), plan)  # starts its process with the first call
        variants = {case.variant for case in cases.GROUPS[cases.FEATURES](plan, apart)}
        assert ("graphs off" in variants) == there and "bf16 off" in variants
        assert ("settings of the process off" in variants) != there
    monkeypatch.setattr(stage, "cores", lambda: 8)
    assert stage.cells_at_once(torch.device("cuda")) == (1, 2, 4, 8)


# -- processes


def test_several_processes_share_the_device_and_end(forked):  # noqa: F811
    found = dict(throughput(CPU, (1, 2), 0.3, naps, 0.1))
    assert 0 < found[1] <= 10 and 1.2 * found[1] < found[2] <= 20  # they sleep at the same time, on any machine
    with Process(CPU, settled=False) as process:
        nap = process.build(naps, 0.2)
        start = time.perf_counter()
        process.call(nap)
        assert time.perf_counter() - start >= 0.2
    assert not process.process.is_alive()


def test_company_is_there_while_it_is_measured_and_gone_afterwards(forked):  # noqa: F811
    with Process(CPU, settled=True) as process:
        alone, beside = in_company(process, 1, 0.3, naps, 0.05)
    assert 10 < alone <= 20 and 5 < beside <= 20  # who sleeps needs no core
    assert not multiprocessing.active_children()


def test_only_scripts_as_delivered_spin():
    for settled, wanted in ((False, cells.SPINS), (True, None)):
        with Process(CPU, settled=settled) as process:
            process.call(process.build(expects, wanted))
    assert "GOMP_SPINCOUNT" not in os.environ and os.environ["OMP_WAIT_POLICY"] == "passive"


@pytest.mark.parametrize(("build", "words"), [(breaks, "RuntimeError: out of memory"), (dies, "exit status 3")])
def test_what_fails_in_a_process_is_told(forked, build, words):  # noqa: F811
    with Process(CPU, settled=False) as process, pytest.raises(UserError, match=words):
        process.build(build)


def test_no_answer_in_time_is_told(forked, monkeypatch):  # noqa: F811
    monkeypatch.setattr(cells, "ANSWER", 0.0)
    with Process(CPU, settled=False) as process, pytest.raises(UserError, match="no answer in time"):
        process.build(naps, 1)
