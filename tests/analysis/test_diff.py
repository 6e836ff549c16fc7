"""Differences against the printed numbers and against an earlier run."""

import math
import os
import re

import pandas as pd
import pytest

from benchmark.analysis import published
from benchmark.analysis.diff import diff, exit_status, read_reference, summary
from benchmark.analysis.verdicts import verdicts
from benchmark.errors import UserError
from benchmark.report.diff_text import to_markdown, to_text
from benchmark.report.render import write_tables
from tests.support.command_line import call
from tests.support.terminal import Terminal


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
    assert set(result[result["verdict"] == "not judged"]["metric"]) == {"encoder_inference_ms", "server_inference_ms"}
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
            {"metric": "accuracy_percent", "attacker": "", "split": ""},
            90.87 - 1.0,
            90.87 + 1.01,
        ),
        ({"metric": "mse"}, 0.0041 * 1.2, 0.0041 * 0.79),
        ({"metric": "ssim"}, 0.863 - 0.05, 0.863 + 0.051),
        ({"metric": "psnr_db"}, 23.82 + 1.0, 23.82 - 1.01),
        ({"metric": "encoder_mmac", "attacker": "", "split": "", "defense": "others"}, 21.9 * 1.05, 20.8),
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
    run.loc[run["metric"].str.endswith("inference_ms"), "value"] = 1.0
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
    write_tables(run, verdicts(run), tmp_path)
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


def test_each_reduction_stands_once_in_the_header(run):
    attacks = run["kind"] == "attack"
    assert attacks.any() and not attacks.all()
    labels = run.assign(label="2 epochs; 512 images").assign(
        label=lambda frame: frame["label"].where(~attacks, "2 epochs; 512 images; 1 query")
    )
    reduced, header = diff(published.reference(), labels), "1 query; 2 epochs; 512 images\n"
    assert to_text(reduced).startswith(f"Reduced: the results are not at the published setting: {header}")
    assert header in to_markdown(reduced)
    assert "Reduced" not in to_text(diff(published.reference(), run))


def test_markdown_escapes_and_keeps_its_columns(run):
    hostile = run.assign(dataset="a_b|<script>", suite="x")
    text = to_markdown(diff(hostile.assign(suite="y"), hostile))
    assert "<script>" not in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1


# -- for people


def test_a_comment_has_the_summary_first_and_what_is_beyond_in_sight(run):
    run.loc[cell(run), "value"] = 0.0100
    text = to_markdown(diff(published.reference(), run))
    seen, hidden = text.split("<details>")
    assert seen.startswith(f"❌ **{len(run) - 5} of {len(run) - 4} cells within tolerance, 1 beyond, 4 not judged;")
    rows = [line for line in seen.splitlines() if line.startswith("| CIFAR10") or line.startswith("| cifar10")]
    assert len(rows) == 1 and "Bottleneck" in rows[0] and "beyond" in rows[0]
    assert hidden.count("\n| cifar10") == len(run) and hidden.rstrip().endswith("</details>")
    assert f"All {len(run)} cells" in hidden
    assert to_markdown(diff(published.reference(), published.reference())).startswith("✅")


def test_the_worst_comes_first_in_units_of_its_tolerance(run):
    run.loc[cell(run), "value"] *= 1.5  # 2.5 tolerances
    run.loc[cell(run, metric="ssim"), "value"] -= 0.5  # 10 tolerances
    seen = to_markdown(diff(published.reference(), run)).split("<details>")[0]
    rows = [line for line in seen.splitlines() if line.startswith("| cifar10")]
    assert ["ssim" in row for row in rows] == [True, False]


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_a_comment_is_never_longer_than_github_takes(run, factor):
    """Ten thousand cells, with long names."""
    many = pd.concat([run.assign(protocol=f"p{number}_{'x' * 40}") for number in range(60)])
    text = to_markdown(diff(many, many.assign(value=many["value"] * factor)))
    assert 60_000 < len(text) <= 65_536
    shown = text.split("<details>")[1].count("\n| cifar10")
    left = int(re.search(r"(\d+) more do not fit", text).group(1))
    assert shown + left == len(many) and shown > 50
    assert text.count("<details>") == text.count("</details>") == 1 and text.endswith("</details>\n")


def test_two_runs_are_compared_without_a_suite(run, tmp_path):
    write_tables(run, verdicts(run), tmp_path / "a")
    changed = run.copy()
    changed.loc[cell(run), "value"] *= 1.3
    write_tables(changed, verdicts(changed), tmp_path / "b")
    same = call("diff", tmp_path / "a", tmp_path / "a" / "results.csv")
    assert same.code == 0 and "0 beyond" not in same.out
    outcome = call("diff", tmp_path / "a", tmp_path / "b", "--markdown", tmp_path / "c.md")
    assert outcome.code == 1 and "1 beyond" in outcome.out and "+30.0 %" in outcome.out
    assert "\033" not in outcome.out  # not a terminal
    assert (tmp_path / "c.md").read_text().startswith("❌")
    assert call("diff", tmp_path / "a", tmp_path / "b", "--tolerance", "mse=0.4").code == 0
    refused = call("diff", tmp_path / "a", tmp_path / "b", "--where", "cem=on")
    assert refused.code == 2 and "leave --where" in refused.err
    nothing = call("diff", tmp_path / "a", tmp_path)
    assert nothing.code == 2 and "there is no reference" in nothing.err


@pytest.mark.parametrize("plain", [False, True])
def test_a_terminal_gets_colour_unless_it_asks_not_to(run, tmp_path, plain):
    write_tables(run, verdicts(run), tmp_path / "a")
    run.loc[cell(run), "value"] *= 1.3
    write_tables(run, verdicts(run), tmp_path / "b")
    words = ["diff", tmp_path / "a", tmp_path / "b"]
    environment = os.environ | {"TERM": "xterm-256color"} | ({"NO_COLOR": "1"} if plain else {})
    with Terminal(words, environment, columns=80) as terminal:
        assert terminal.wait(240) == 1
    raw = terminal.read().decode()
    assert ("\033[" in raw) != plain
    text = re.sub(r"\033\[[0-9;]*m", "", raw)
    assert "1 beyond" in text.splitlines()[-1]
    line = next(line for line in text.splitlines() if "beyond" in line and "Bottleneck" in line)
    assert "+30.0 %" in line
    if not plain:
        assert "\033[1;31m✗ beyond 20 %" in raw and "\033[32m✓ within" in raw
        assert max(map(len, text.splitlines()[:-1])) <= 80
