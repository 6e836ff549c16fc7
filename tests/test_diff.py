"""Differences against the printed numbers and against an earlier run."""

import math

import pandas as pd
import pytest

from benchmark.errors import UserError
from benchmark.report import published
from benchmark.report.diff import diff, exit_status, read_reference, summary, to_markdown, to_text
from benchmark.report.render import write_tables


def cell(frame: pd.DataFrame, metric="mse", defense="bottleneck", split="infer", attacker="decoder") -> pd.Series:
    wanted = {"dataset": "cifar10", "defense": defense, "cem": "off", "attacker": attacker}
    wanted |= {"split": split, "metric": metric}
    return (frame[list(wanted)] == pd.Series(wanted)).all(axis=1)


@pytest.fixture
def run() -> pd.DataFrame:
    """A run that hit every printed CIFAR-10 number, under a suite's own name."""
    frame = published.reference()
    return frame[frame["dataset"] == "cifar10"].assign(suite="cifar10").reset_index(drop=True)


def test_published_against_itself_is_within():
    result = diff(published.reference(), published.reference())
    assert set(result["verdict"]) == {"within", "not judged"}
    assert set(result[result["verdict"] == "not judged"]["metric"]) == {"inference_ms"}
    assert exit_status(result) == 0
    assert summary(result) == "527 of 527 cells within tolerance, 4 not judged"


def test_only_the_cells_of_the_suite_are_judged(run):
    result = diff(published.reference(), run)
    assert len(result) == len(run) and set(result["dataset"]) == {"cifar10"}
    assert list(result["defense"][:2]) == ["none", "none"] and exit_status(result) == 0


@pytest.mark.parametrize(
    ("place", "inside", "outside"),
    [
        (
            {"metric": "accuracy_percent", "attacker": "none", "split": "validation"},
            90.87 - 1.0,
            90.87 + 1.01,
        ),
        ({"metric": "mse"}, 0.0041 * 1.2, 0.0041 * 0.79),
        ({"metric": "ssim"}, 0.863 - 0.05, 0.863 + 0.051),
        ({"metric": "psnr_db"}, 23.82 + 1.0, 23.82 - 1.01),
        ({"metric": "mmac", "attacker": "none", "split": "encoder", "defense": "others"}, 21.9 * 1.05, 20.8),
    ],
)
def test_default_tolerances(run, place, inside, outside):
    for value, verdict in ((inside, "within"), (outside, "beyond")):
        run.loc[cell(run, **place), "value"] = value
        result = diff(published.reference(), run)
        planted = result[cell(result, **place)].iloc[0]
        assert planted["verdict"] == verdict
        assert planted["difference"] == pytest.approx(value - planted["reference"])
        assert planted["relative"] == pytest.approx(value / planted["reference"] - 1)
        assert exit_status(result) == (verdict == "beyond")
    line = summary(result)
    assert line.startswith(f"{len(run) - 5} of {len(run) - 4} cells within tolerance, 1 beyond, 4 not judged")
    assert "largest deviation: cifar10" in line and place["metric"] in line


def test_times_are_not_judged(run):
    run.loc[run["metric"] == "inference_ms", "value"] = 1.0
    assert exit_status(diff(published.reference(), run)) == 0
    assert exit_status(diff(published.reference(), run, {"inference_ms": 0.1})) == 1


def test_tolerances_can_be_overridden(run):
    run.loc[cell(run), "value"] = 0.0050
    assert exit_status(diff(published.reference(), run)) == 1
    assert exit_status(diff(published.reference(), run, {"mse": 0.25})) == 0
    run.loc[cell(run), "value"] = 0.0041 + 1e-12
    assert exit_status(diff(published.reference(), run)) == 0
    assert exit_status(diff(published.reference(), run, {"mse": 0})) == 1
    for bad in ({"mse": -1}, {"mse": math.nan}, {"mse": "much"}, {"mse": True}, {"colour": 1.0}):
        with pytest.raises(UserError, match="mse|colour"):
            diff(published.reference(), run, bad)


def test_seeds_are_averaged_and_lost_ones_are_not(run):
    here = cell(run)
    seeds = [run[here].assign(seed=str(seed), value=value) for seed, value in enumerate([0.0010, 0.0041, 0.0072])]
    several = pd.concat([run[~here], *seeds])
    planted = diff(published.reference(), several)
    planted = planted[cell(planted)].iloc[0]
    assert planted["produced"] == pytest.approx(0.0041) and planted["verdict"] == "within"

    lost = run[here].assign(seed="3", value=7.0, status="diverged", reason="loss not finite")
    result = diff(published.reference(), pd.concat([several, lost]))
    planted = result[cell(result)].iloc[0]
    assert planted["produced"] == pytest.approx(0.0041) and planted["verdict"] == "diverged"
    assert planted["reason"] == "mean of 3 of 4 seeds; diverged: loss not finite"
    assert exit_status(result) == 1


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        ("missing", "missing"),
        ("running", "missing"),
        ("failed", "failed"),
        ("diverged", "diverged"),
        ("done", "diverged"),
    ],
)
def test_cells_without_a_value(run, status, verdict):
    run.loc[cell(run), ["value", "status"]] = [math.nan, status]
    result = diff(published.reference(), run)
    planted = result[cell(result)].iloc[0]
    assert planted["verdict"] == verdict and math.isnan(planted["produced"])
    assert exit_status(result) == 1 and f"1 {verdict}" in summary(result)
    for text in (to_text(result), to_markdown(result)):
        assert "nan" not in text and verdict in text


def test_an_earlier_run_is_a_reference(run, tmp_path):
    write_tables(run, tmp_path)
    for path in (tmp_path, tmp_path / "results.csv"):
        assert exit_status(diff(read_reference(path), run, dict.fromkeys(["mse", "ssim", "psnr_db"], 0))) == 0
    # the earlier run failed there: nothing to hold the cell against
    earlier = run.copy()
    earlier.loc[cell(run), ["value", "status", "reason"]] = [math.nan, "failed", "disk full"]
    result = diff(earlier, run)
    assert result[cell(result)].iloc[0][["verdict", "reason"]].tolist() == [
        "not judged",
        "no reference: failed: disk full",
    ]
    # a cell that the same suite had and has no more
    result = diff(run, run[~cell(run)])
    assert result[cell(result)].iloc[0]["verdict"] == "missing" and exit_status(result) == 1


def test_protocols_meet_their_own(run):
    both = pd.concat([run, run.assign(protocol="corrected", value=run["value"] * 3)])
    assert exit_status(diff(published.reference(), both)) == 0
    assert set(diff(both, both)["protocol"]) == {"published", "corrected"}
    alone = diff(published.reference(), run.assign(protocol="corrected"))
    assert set(alone["protocol"]) == {"corrected"} and exit_status(alone) == 0


def test_reference_errors(run, tmp_path):
    with pytest.raises(UserError, match="there is no reference"):
        read_reference(tmp_path)
    bad = tmp_path / "results.csv"
    bad.write_bytes(b"\xff\xfe\x00a,b")
    with pytest.raises(UserError, match="cannot read|lacks the columns"):
        read_reference(bad)
    for text, message in [
        ("", "cannot read"),
        ("a,b\n1,2\n", "lacks the columns suite, dataset"),
        (run[:0].to_csv(index=False), "has no rows"),
        (run[:1].assign(value="lots").to_csv(index=False), "not a number"),
    ]:
        bad.write_text(text)
        with pytest.raises(UserError, match=message):
            read_reference(bad)
    with pytest.raises(UserError, match="no rows in common"):
        diff(published.reference(), run.assign(dataset="photos"))


def test_reductions_are_in_the_header(run):
    reduced = diff(published.reference(), run.assign(label="2 epochs, 512 images"))
    assert to_text(reduced).startswith("Reduced: the results are not at the published setting: 2 epochs, 512 images\n")
    assert "2 epochs, 512 images" in to_markdown(reduced)
    assert "Reduced" not in to_text(diff(published.reference(), run))


def test_markdown_escapes_and_keeps_its_columns(run):
    hostile = run.assign(dataset="a_b|<script>", suite="x")
    text = to_markdown(diff(hostile.assign(suite="y"), hostile))
    assert "<script>" not in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
