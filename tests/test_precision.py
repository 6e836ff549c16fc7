"""bf16 against fp32, paired by seed: on simulated frames whose truth is known, and through the command line."""

import numpy as np
import pandas as pd
import pytest
from command_line import call
from scipy import stats
from test_statistics import frame_of, row

from benchmark.matrix.expand import expand
from benchmark.matrix.load import MatrixFile
from benchmark.report.frame import COLUMNS
from benchmark.statistics import precision
from benchmark.statistics.precision import compare


def simulated(seeds: int, factor: float, points: float, noise: float = 0.0) -> pd.DataFrame:
    rng, rows = np.random.default_rng(0), []
    for seed in range(seeds):
        mse, accuracy = 0.02 * rng.uniform(0.8, 1.2), rng.uniform(60, 70)
        for protocol, by, more in (("fp32", 1.0, 0.0), ("bf16", factor, points)):
            jitter = noise * rng.standard_normal() if protocol == "bf16" else 0
            rows.append(row(mse * by * np.exp(jitter), protocol=protocol, seed=seed))
            rows.append(row(accuracy + more + jitter, "accuracy_percent", protocol=protocol, seed=seed))
    return frame_of(rows)


def test_a_planted_change_is_found_in_its_unit():
    lines = compare(simulated(5, 1.02, -0.5)).set_index("metric")
    assert lines.loc["mse", "change"] == pytest.approx(2.0)  # percent
    assert lines.loc["accuracy_percent", "change"] == pytest.approx(-0.5)
    assert (lines["seeds"] == 5).all() and (lines["p_holm"] == 0).all()  # the same in every seed
    assert lines.loc["accuracy_percent", "bf16"] - lines.loc["accuracy_percent", "fp32"] == pytest.approx(-0.5)


def test_interval_and_spread_are_those_of_scipy():
    frame = simulated(6, 1.0, 0.0, noise=0.3)
    line = compare(frame).set_index("metric").loc["accuracy_percent"]
    values = frame[frame["metric"] == "accuracy_percent"].pivot(index="seed", columns="protocol", values="value")
    changes = values["bf16"] - values["fp32"]
    interval = stats.t.interval(0.95, 5, changes.mean(), stats.sem(changes))
    assert (line["low"], line["high"]) == pytest.approx(interval)
    assert line["spread_over_seeds"] == pytest.approx(values["fp32"].std())
    assert line["low"] < 0 < line["high"] and line["p_holm"] > 0.05


def test_only_seeds_that_have_both_enter():
    frame = simulated(4, 1.1, 1.0)
    frame.loc[(frame["protocol"] == "bf16") & (frame["seed"] == 2), ["status", "value"]] = ["failed", np.nan]
    assert (compare(frame)["seeds"] == 3).all()
    assert compare(frame[frame["protocol"] == "fp32"]).empty
    assert compare(pd.DataFrame(columns=COLUMNS)).empty


def test_the_suite_differs_in_the_arithmetic_alone(tmp_path):
    """fp32 and bf16 are the published protocol; the pairs of jobs differ in train.precision and nothing else."""
    protocols = MatrixFile().matrix.protocols
    assert protocols["fp32"] == protocols["bf16"] == protocols["published"]
    cells = [cell for cell in expand(MatrixFile(), "precision", tmp_path) if cell.attacker == "none"]
    configs = {(cell.protocol, cell.seed): cell.job.config for cell in cells}
    seeds = {seed for _, seed in configs}
    assert len(seeds) >= 3
    for seed in seeds:
        one, other = configs["fp32", seed], configs["bf16", seed]
        assert one["train"].pop("precision") == "fp32" and other["train"].pop("precision") == "bf16"
        assert one == other


def test_the_command_writes_the_tables(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "tidy_frame", lambda cells, store: simulated(5, 1.02, -0.5))
    monkeypatch.setattr(precision, "devices", lambda cells, store: [{"device": "a <machine>"}])
    outcome = call("precision", "--tables", tmp_path, "--data", tmp_path, "--results", tmp_path)
    assert outcome.code == 0, outcome.err
    text = (tmp_path / "precision" / "precision.md").read_text()
    assert "+2.00 %" in text and "a &lt;machine&gt;" in text and "train.epochs" in text
    assert "train.precision" not in text
    lines = pd.read_csv(tmp_path / "precision" / "precision.csv")
    assert set(lines["metric"]) == {"mse", "accuracy_percent"}


def test_nothing_run_yet_is_told(tmp_path):
    outcome = call("precision", "--tables", tmp_path, "--data", tmp_path, "--results", tmp_path)
    assert outcome.code == 2 and "run the suite `precision` first" in outcome.err
