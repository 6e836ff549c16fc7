"""What of a shorter run is held against the printed numbers: the gain of CEM and the order of rows."""

import pandas as pd
import pytest
from scipy.stats import spearmanr

from benchmark.analysis import names, published, transfer
from benchmark.analysis.diff import diff
from benchmark.report.diff_text import to_markdown, to_text


def produced(change, label="train.epochs 30 (published 240)") -> pd.DataFrame:
    """The printed numbers of CIFAR-10 as a run's, each changed by change(row)."""
    frame = published.reference()
    frame = frame[(frame["dataset"] == "cifar10") & (frame["status"] == "done")].copy()
    frame["value"] = [change(row) for row in frame.to_dict("records")]
    return frame.assign(suite="cifar10-short", label=label)


def test_the_same_factor_everywhere_leaves_gains_and_ranks():
    """All MSE three times as large, as of shorter attacks: every ratio and every order is that of the paper."""
    result = diff(published.reference(), produced(lambda row: row["value"] * (3 if row["metric"] == "mse" else 1)))
    mse = transfer.gains(result).query("metric == 'mse'")
    assert len(mse) == 2 * 2 * 7  # both attackers and splits; seven rows
    pd.testing.assert_series_equal(mse["reference"], mse["produced"], check_names=False)
    assert set(mse["same_sign"]) <= {True, None}
    order = transfer.ranks(result).query("metric == 'mse'")
    assert len(order) == 2 * 2 * 2 and (order["rho"] > 1 - 1e-9).all() and (order["rows"] == 7).all()


def test_a_gain_that_turns_round_is_told():
    def change(row):
        lower = row["metric"] == "mse" and row["cem"] == "on" and row["defense"] == "dropout"
        return row["value"] * (0.1 if lower else 1)

    result = diff(published.reference(), produced(change))
    found = transfer.gains(result).query("metric == 'mse' and defense == 'dropout'")
    assert not found["same_sign"].any() and (found["produced"] / found["reference"]).tolist() == pytest.approx(
        [0.1] * 4
    )
    text = to_text(result)
    (line,) = [
        line for line in text.splitlines() if "Dropout" in line and "decoder train" in line and "on / off" in line
    ]
    assert line.endswith("no")
    assert "What CEM changes, which may transfer" in to_markdown(result)


def test_rho_is_spearmans():
    shuffled = {name: place for place, name in enumerate(["patrol", *sorted(names.DEFENSES)])}
    result = diff(
        published.reference(),
        produced(lambda row: shuffled.get(row["defense"], 9.0) if row["metric"] == "mse" else row["value"]),
    )
    row = transfer.ranks(result).query(
        "metric == 'mse' and cem == 'off' and attacker == 'decoder' and split == 'train'"
    )
    cells = result.query("metric == 'mse' and cem == 'off' and attacker == 'decoder' and split == 'train'")
    cells = cells[cells["defense"].isin(names.DEFENSES)]
    assert row["rho"].item() == pytest.approx(spearmanr(cells["reference"], cells["produced"]).statistic)


def test_of_a_run_at_the_published_setting_absolute_values_are_enough():
    result = diff(published.reference(), produced(lambda row: row["value"], label=""))
    assert "may transfer" not in to_text(result) and "Spearman" not in to_markdown(result)
