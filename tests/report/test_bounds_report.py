"""The bounds from a suite's jobs to its tables, and the rank correlations against scipy."""

import csv
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from benchmark.analysis.bounds import bounds_rows, ranks
from benchmark.analysis.frame import COLUMNS
from benchmark.analysis.ranks import associations, correlations
from benchmark.bounds.measure import bounds_of
from benchmark.config import Bounds, Quirks
from benchmark.data import DataSet, ImageSet, normalise, to_unit
from benchmark.defenses import DEFENSES, Setting
from benchmark.jobs.run_job import ALL_OFF
from benchmark.matrix.load import DEFAULT, MatrixFile
from benchmark.report.bounds import write_bounds
from tests.support.command_line import place  # noqa: F401 (fixture)

PARAMS = Bounds(components=2, released_components=2, released_threshold=0.125, images=20, jacobian_images=2)


def row(metric, value, split="", attacker="", **changes) -> dict:
    base = {"suite": "s", "dataset": "cifar10", "defense": "bottleneck", "cem": "off", "protocol": "published"}
    base |= {
        "kind": "attack" if attacker else "bounds",
        "attacker": attacker,
        "split": split,
        "metric": metric,
        "seed": 0,
        "value": value,
    }
    return base | {"status": "done", "reason": "", "key": "k", "label": ""} | changes


def frame_of(rows) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=COLUMNS)


def test_rank_correlations_agree_with_scipy_ties_included():
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = rng.integers(0, 6, 12).astype(float), rng.standard_normal(12)
        times = rng.integers(0, 3, (2, 12))
        for found, count in zip(correlations(a, b, times).T, times, strict=True):
            again = [np.repeat(side, count) for side in (a, b)]
            expected = [stats.spearmanr(*again).statistic, stats.kendalltau(*again).statistic]
            assert found.tolist() == pytest.approx(expected)
    assert np.isnan(correlations(np.ones(5), rng.standard_normal(5), np.ones((1, 5)))).all()


def test_the_interval_of_a_rank_correlation():
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(8), 2)
    a = rng.standard_normal(16)
    for found in associations(a, a + 0.1 * rng.standard_normal(16), groups):
        assert found.value > 0.8 and 0.6 < found.low <= found.value <= found.high <= 1
    covered = 0
    for seed in range(60):  # nothing is there: the interval holds 0 about as often as it says
        rho, _ = associations(*np.random.default_rng(seed).standard_normal((2, 16)), np.arange(16))
        covered += rho.low <= 0 <= rho.high
    assert covered >= 51  # 60 * 0.95 = 57, less three standard deviations
    rho, _ = associations([1, 2, 3, 4], [1, 2, 4, 3], ["a", "a", "b", "b"])
    assert rho.value == pytest.approx(0.8) and math.isnan(rho.low)  # two defences: no interval
    assert math.isnan(associations([1, 2, 3], [1, 2, 3], "abc")[0].value)


def suite_rows():
    """Four defences, CEM off and on; more information, less error; the GAN is the strongest on the train split."""
    for index, defense in enumerate(("bottleneck", "distcorr", "dropout", "patrol")):
        for cem, gain in (("off", 0.0), ("on", 0.5)):
            cell = {"defense": defense, "cem": cem}
            error = 0.01 * (1 + index + gain)
            yield row("eq7_nats", 500 - 50 * (index + gain), **cell)
            yield row("image_dims", 3072, **cell)
            yield row("van_trees_mse", error / 10, **cell)
            yield row("mi_upper_nats", 700.0, **cell)
            yield row("mse", 2 * error, "train", "decoder", **cell)
            yield row("mse", error, "train", "gan", **cell)
            yield row("mse", 0.001 / error, "infer", "decoder", **cell)


def test_rows_take_the_strongest_attacker_and_ratios_to_the_row_without_cem():
    lines = bounds_rows(frame_of(suite_rows())).set_index(["defense", "cem"])
    assert len(lines) == 8
    on = lines.loc[("distcorr", "on")]
    assert (on["attacker_train"], on["mse_train"]) == ("gan", pytest.approx(0.025))
    assert on["mse_train_ratio"] == pytest.approx(2.5 / 2)
    assert on["theory_ratio"] == pytest.approx(math.exp(2 * 25 / 3072))
    assert math.isnan(lines.loc[("distcorr", "off"), "theory_ratio"])
    assert math.isnan(on["logdet_nats"])


def test_an_attacker_that_was_not_run_on_every_row_does_not_count():
    without = [line for line in suite_rows() if (line["cem"], line["attacker"]) != ("on", "gan")]
    lines = bounds_rows(frame_of(without)).set_index(["defense", "cem"])
    assert set(lines["attacker_train"]) == {"decoder"}
    assert lines.loc[("distcorr", "on"), "mse_train_ratio"] == pytest.approx(2.5 / 2)


def test_ranks_have_the_sign_that_theory_gives_them():
    order = ranks(bounds_rows(frame_of(suite_rows()))).set_index(["split", "quantity"])
    for quantity in ("eq7_nats", "van_trees_mse"):
        assert order.loc[("train", quantity), "spearman"] == pytest.approx(1)
        assert order.loc[("infer", quantity), "kendall"] == pytest.approx(-1)  # that attacker fares the other way round
        assert order.loc[("train", quantity), "rows"] == 8
    assert math.isnan(order.loc[("train", "mi_upper_nats"), "spearman"])  # does not vary
    assert order.loc[("train", "logdet_nats"), "rows"] == 0


def test_a_suite_without_bounds_writes_no_files(tmp_path):
    assert write_bounds(frame_of([row("mse", 0.1, "train", "gan")]), tmp_path) == []
    assert not list(tmp_path.iterdir())


class Going:
    def stopping(self) -> bool:
        return False


def bounds(defense: str, data: DataSet, **params):
    """Of a small encoder on images of 8 px under that defence, without quirks."""
    parts = [ImageSet(part.images[:, :, ::4, ::4], part.labels) for part in (data.train, data.test)]
    images = replace(data, train=parts[0], test=parts[1])
    torch.manual_seed(0)
    encoder = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3, stride=2, padding=1), torch.nn.Sigmoid())
    model = SimpleNamespace(encoder=encoder)
    setting = Setting(3, 8, (2, 4, 4), (2,), 1, Quirks(**ALL_OFF), torch.device("cpu"), {})
    kind, declared = DEFENSES.get(defense), MatrixFile(DEFAULT).matrix.defenses[defense]
    with torch.no_grad():
        train, test = (encoder(normalise(to_unit(p.images), data.mean, data.std)).flatten(1) for p in parts)
    return bounds_of(model, kind(kind.Params(**declared | params), setting), images, train, test, PARAMS, 3, Going())


def test_without_noise_or_with_another_channel_there_are_no_values_but_a_reason(tiny_images):
    values, reason = bounds("bottleneck", tiny_images, noise_std=0.0)
    assert values == {} and reason.startswith("no noise")
    values, reason = bounds("noise_nopeek", tiny_images, distribution="laplace")
    assert values == {} and "not the feature with Gaussian noise" in reason
    assert "mi_lower_nats" in bounds("noise_nopeek", tiny_images)[0]


def test_a_mask_keeps_upper_bounds_of_information_alone(tiny_images):
    """Without quirk q3 the attacker sees the masked feature, which tells less than the noisy one."""
    values, reason = bounds("dropout", tiny_images)
    assert "mi_lower_nats" not in values and "dropout changes the noisy feature" in reason
    assert {"eq7_nats", "mi_upper_nats", "van_trees_mse"} <= set(values)
    assert all(math.isfinite(value) for value in values.values())
    assert 0 < values["van_trees_mse"] <= values["linearised_mse"]


def test_more_noise_means_less_information_and_a_larger_error(tiny_images):
    found = [bounds("bottleneck", tiny_images, noise_std=noise)[0] for noise in (0.01, 0.1, 1.0)]
    for name in ("eq7_nats", "logdet_nats", "mi_lower_nats", "mi_upper_nats", "released_objective", "dfil"):
        low, middle, high = (values[name] for values in found)
        assert low >= middle >= high and low > high, name  # at the ends are the ceiling of one, the floor of another
    for name in ("van_trees_mse", "linearised_mse"):
        assert found[0][name] < found[1][name] < found[2][name]


@pytest.mark.slow
def test_from_the_matrix_to_the_table(place):  # noqa: F811
    before = {cell.job.key for cell in place.cells()}

    def change(matrix, smoke):
        smoke |= {"bounds": True, "defense": ["none", "bottleneck"], "efficiency": []}
        smoke |= {"attacker": ["decoder"], "split": ["infer"]}
        smoke["set"] |= {"bounds.jacobian_images": 1}

    place.edit(change)
    outcome = place.call("run")
    assert outcome.code == 0, outcome.err
    cells = place.cells("kind=train,kind=bounds")
    assert {cell.job.key for cell in cells if cell.kind == "train" and cell.defense == "bottleneck"} <= before
    outcome = place.call("report")
    assert outcome.code == 0, outcome.err
    folder = place.written()
    with open(folder / "bounds.csv", newline="") as file:
        lines = {(line["defense"], line["cem"]): line for line in csv.DictReader(file)}
    assert set(lines) == {("none", "off"), ("bottleneck", "off"), ("bottleneck", "on")}
    assert lines[("none", "off")]["reason"].startswith("no noise") and not lines[("none", "off")]["eq7_nats"]
    for cem in ("off", "on"):
        line = lines[("bottleneck", cem)]
        assert 0 < float(line["mi_lower_nats"]) <= math.log(20) + 1e-9
        assert float(line["mi_lower_nats"]) < float(line["mi_upper_nats"]) + float(line["mi_upper_half_width_nats"])
        assert 0 < float(line["logdet_nats"]) < float(line["eq7_nats"])
        # of a single image's Jacobian the two are the same, by different formulas
        assert float(line["van_trees_mse"]) == pytest.approx(float(line["linearised_mse"]))
        assert 0 < float(line["van_trees_mse"]) < float(line["mse_infer"])
    text = (folder / "bounds.md").read_text()
    assert "Bottleneck+CEM" in text and "no noise: the mutual information is infinite" in text
    assert "fewer than 4 rows" in text  # of two rows no rank correlation
    assert "\\toprule" in (folder / "bounds.tex").read_text()
    assert "0 jobs" not in place.call("run").err  # all cached: nothing runs again
