"""Frontiers with known areas and gains, the sweep's cells, and the command on a tiny suite."""

import csv
import itertools
import math
import shutil

import numpy as np
import pandas as pd
import pytest

from benchmark.analysis.frame import COLUMNS, tidy
from benchmark.analysis.frontier import front, gain, hypervolume, log_gain, points
from benchmark.departures import Departure
from benchmark.errors import UserError
from benchmark.matrix.cells import Point
from benchmark.matrix.expand import expand, jobs
from benchmark.report.frontier import told_without_sweep
from tests.support.command_line import place  # noqa: F401 (fixture)

SWEEP = {"defenses.*.noise_std": [0.02, 0.04], "defenses.dropout.rate": [0.5]}


def curve(factor: float, count=6) -> np.ndarray:
    """Accuracies from 90 down to 70, errors from 0.01 up to 0.03, times the factor."""
    return np.stack([np.linspace(90, 70, count), factor * np.linspace(0.01, 0.03, count)], axis=1)


def test_the_front_leaves_out_what_is_beaten_in_both():
    settings = np.array([[80, 0.02], [90, 0.01], [79, 0.015], [80, 0.01], [70, 0.02], [60, 0.05]])
    assert front(settings).tolist() == [[90, 0.01], [80, 0.02], [60, 0.05]]
    everything = np.random.default_rng(0).random((200, 2))
    best = front(everything)
    beaten = (everything[:, None] < best[None]).all(axis=2).any(axis=1)
    on_it = (everything[:, None] == best[None]).all(axis=2).any(axis=1)
    assert np.array_equal(on_it, ~beaten)


def test_hypervolume_is_the_area_by_counting():
    settings = np.array([[90, 0.01], [80, 0.02], [60, 0.05], [5, 0.9]])
    # above chance at 10: strips of height 0.01, 0.01, 0.03 and widths 80, 70, 50; the last setting is below chance
    assert hypervolume(settings, 10) == pytest.approx(0.01 * 80 + 0.01 * 70 + 0.03 * 50)
    samples = np.random.default_rng(0).random((100_000, 2)) * [90, 0.05] + [10, 0]
    covered = (samples[:, None] <= settings[None, :3]).all(axis=2).any(axis=1).mean()
    assert hypervolume(settings, 10) == pytest.approx(covered * 90 * 0.05, rel=0.02)


def test_a_planted_gain_at_equal_accuracy_is_found_wherever_the_settings_lie():
    for count in (4, 9):  # the two sides do not have the same accuracies
        assert log_gain(curve(1.0, 6), curve(1.3, count)) == pytest.approx(math.log(1.3))
    shifted = curve(1.0) - [50, 0]
    assert math.isnan(log_gain(curve(1.0), shifted))  # no accuracy in common


def test_the_interval_covers_a_planted_gain_and_holds_zero_without_one():
    rng = np.random.default_rng(0)

    def noisy(factor):
        return np.stack([curve(factor) * (1 + [0, 0.03] * rng.standard_normal((6, 2))) for _ in range(12)])

    found = gain(noisy(1.0), noisy(1.3), 10)
    assert found.low < 30 < found.high and found.low > 15 and found.seeds == 12
    assert found.hypervolume == pytest.approx(1.3, rel=0.05)
    assert found.hypervolume_low < found.hypervolume < found.hypervolume_high < 1.4
    null = [gain(noisy(1.0), noisy(1.0), 10) for _ in range(20)]
    assert sum(item.low <= 0 <= item.high for item in null) >= 16
    one = gain(noisy(1.0)[:1], noisy(1.3)[:1], 10)
    assert math.isnan(one.low) and not math.isnan(one.percent)


def test_points_take_the_strongest_attacker_of_every_seed():
    rows = []
    for seed in (0, 1):
        for attacker, split, metric, value in [
            ("", "", "accuracy_percent", 80 + seed),
            ("decoder", "train", "mse", 0.02 - 0.015 * seed),
            ("gan", "train", "mse", 0.01),
            ("gan", "infer", "mse", 0.5),
        ]:
            rows.append(
                dict(suite="s a=1", dataset="cifar10", defense="d", cem="off", protocol="p", attacker=attacker)
                | dict(kind="attack" if attacker else "train")
                | dict(split=split, metric=metric, seed=seed, value=value, status="done", reason="", key="", label="")
            )
    found = points(tidy(pd.DataFrame(rows, columns=COLUMNS)), {"s a=1": Point("a", 1)})
    train = found[found["split"] == "train"].set_index("seed")
    assert train.loc["0", ["accuracy", "mse", "attacker"]].tolist() == [80, 0.01, "gan"]
    assert train.loc["1", ["accuracy", "mse", "attacker"]].tolist() == [81, pytest.approx(0.005), "decoder"]
    assert set(found["strength"]) == {"a=1"} and len(found) == 4


def test_an_attacker_that_was_not_run_on_every_setting_is_no_gain():
    """As a strong one on the side without CEM alone, which looked like CEM's gain."""
    rows = []
    for cem, (attacker, value) in itertools.product(("off", "on"), (("decoder", 0.02), ("converged", 0.015))):
        if (cem, attacker) != ("on", "converged"):
            cell = dict(suite="s a=1", dataset="cifar10", defense="d", cem=cem, protocol="p", seed=0, status="done")
            cell |= dict(reason="", key="", label="")
            rows.append(cell | dict(kind="attack", attacker=attacker, split="train", metric="mse", value=value))
            rows.append(cell | dict(kind="train", attacker="", split="", metric="accuracy_percent", value=80))
    frame = pd.DataFrame(rows, columns=COLUMNS).drop_duplicates()  # one accuracy a side
    found = points(tidy(frame), {"s a=1": Point("a", 1)})
    assert dict(zip(found["cem"], found["mse"], strict=True)) == {"off": 0.02, "on": 0.02}


def test_the_cells_of_a_sweep_are_told_apart_and_share_what_is_the_same(matrix, tmp_path):
    def change(value):
        value["suites"]["smoke"] |= {"sweep": SWEEP, "defense": ["bottleneck", "dropout"], "efficiency": []}

    cells = expand(matrix(change), "smoke", tmp_path)
    plain = expand(matrix(), "smoke", tmp_path, {"defense": ["bottleneck", "dropout"]})
    assert {cell.suite for cell in plain} == {"smoke"} and {cell.strength for cell in plain} == {None}
    identity = [(c.suite, c.dataset, c.defense, c.cem, c.protocol, c.attacker, c.split, c.seed) for c in cells]
    assert len(set(identity)) == len(identity) == len({job.key for job in jobs(cells)})
    by_strength = {cell.strength: set() for cell in cells}
    for cell in cells:
        assert cell.suite == f"smoke {cell.strength.path}={cell.strength.value}"
        by_strength[cell.strength].add(cell.defense)
    assert by_strength == {
        Point("defenses.*.noise_std", 0.02): {"bottleneck", "dropout"},
        Point("defenses.*.noise_std", 0.04): {"bottleneck", "dropout"},
        Point("defenses.dropout.rate", 0.5): {"dropout"},  # it is of that row alone
    }
    for cell in cells:
        if cell.defense == "bottleneck":
            assert cell.job.cell["defense"]["params"]["noise_std"] == cell.strength.value


def test_a_sweep_of_nothing_that_exists_names_its_line(matrix, tmp_path):
    file = matrix(lambda value: value["suites"]["smoke"].update(sweep={"defenses.*.noise": [1]}))
    with pytest.raises(UserError, match=r"line \d+: no member of 'defenses' has a parameter 'noise'"):
        expand(file, "smoke", tmp_path)


@pytest.mark.parametrize(
    ("point", "its_own", "others"),
    [
        ("defenses.*.noise_std", "defense.noise_std", "defense.rate"),
        ("defenses.dropout.rate", "defense.rate", "attacks.x.rate"),
        ("cem.on.weight", "cem.weight", "defense.weight"),
        ("attacks.decoder.epochs", "attacks.decoder.epochs", "train.epochs"),
        ("attacks.*.epochs", "attacks.gan.epochs", "train.epochs"),
        ("train.epochs", "train.epochs", "attacks.gan.epochs"),
    ],
)
def test_a_caption_leaves_out_what_the_sweep_changes_and_nothing_else(point, its_own, others):
    departures = (Departure(its_own, 1, 2), Departure(others, 1, 2))
    assert told_without_sweep([departures], [Point(point, 1)]) == [f"{others} 1 (published 2)"]


def test_a_sweep_over_the_precision(matrix, tmp_path):
    cells = expand(
        matrix(lambda value: value["suites"]["smoke"].update(sweep={"train.precision": ["fp32", "bf16"]})),
        "smoke",
        tmp_path,
        {"defense": ["dropout"]},
    )
    found = {cell.strength.value: cell.job.config["train"]["precision"] for cell in cells if cell.kind == "train"}
    assert found == {"fp32": "fp32", "bf16": "bf16"} and {cell.protocol for cell in cells} == {"published"}


@pytest.mark.usefixtures("no_pdfs")
def test_from_the_matrix_to_the_plot(place):  # noqa: F811
    def change(matrix, smoke):
        smoke |= {"defense": ["bottleneck"], "attacker": ["decoder"], "split": ["infer"], "efficiency": []}
        smoke["sweep"] = {"defenses.*.noise_std": [0.02, 0.5]}

    place.edit(change)
    outcome = place.call("report")
    assert outcome.code == 2 and "run the suite first" in outcome.err
    assert place.call("run").code == 0
    outcome = place.call("report", "--plots")
    assert outcome.code == 0, outcome.err
    folder = place.tables / "smoke"
    with open(folder / "frontier.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert {(line["cem"], line["strength"]) for line in lines} == {
        (cem, f"defenses.*.noise_std={value}") for cem in ("off", "on") for value in (0.02, 0.5)
    }
    assert all(float(line["mse"]) > 0 for line in lines)
    text = (folder / "frontier.md").read_text()
    assert "Bottleneck+CEM" in text and "train.epochs 2 (published 240)" in text
    assert "noise\\_std 0.5 (published" not in text  # the sweep's own changes are in the rows
    figure = folder / "frontier-photos-published-infer.svg"
    drawn = figure.read_text()
    assert drawn.lstrip().startswith("<?xml")
    assert place.call("report").code == 0 and figure.read_text() == drawn  # no date, no random ids
    assert len(list(folder.glob("photos-mse*.md"))) == 2  # a table for each point
    for attack in place.results.glob("photos/*/decoder-*"):
        shutil.rmtree(attack)
    outcome = place.call("report")
    assert outcome.code == 0 and "no frontier yet" in outcome.err
    assert not (folder / "frontier.md").exists()  # the folder with more in it was moved aside
