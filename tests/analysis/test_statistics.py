"""The statistics against scipy, closed forms and simulated suites whose truth is known."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from benchmark.analysis.ablation import ablation
from benchmark.analysis.doubts import METRIC, at_chance
from benchmark.analysis.frame import COLUMNS
from benchmark.analysis.intervals import (
    bootstrap_aggregate,
    bootstrap_log_ratio,
    effect,
    holm,
    interquartile_mean,
)
from benchmark.analysis.paired import pairs
from benchmark.analysis.verdicts import NOT_SUPPORTED, SUPPORTED, UNDECIDED, aggregate, verdicts
from benchmark.departures import Departure
from benchmark.matrix.load import MatrixFile
from benchmark.report.verdicts import summary, texts
from tests.support.command_line import finished, place  # noqa: F401


def row(value, metric="mse", **changes) -> dict:
    base = {"suite": "s", "dataset": "cifar10", "defense": "bottleneck", "cem": "off", "protocol": "corrected"}
    attacker = {"kind": "train", "attacker": "", "split": ""} if metric in ("accuracy_percent", METRIC) else {}
    base |= {
        "kind": "attack",
        "attacker": "decoder",
        "split": "infer",
        "metric": metric,
        "seed": 0,
        "value": value,
    } | attacker
    return base | {"status": "done", "reason": "", "key": "k", "label": ""} | changes


def frame_of(rows) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=COLUMNS)


def simulated(rng, rows: int, seeds: int, gain: float, spread: float, suites: int = 1) -> pd.DataFrame:
    """MSE of `rows` defences in each suite; the log of a change has the standard deviation `spread` over seeds."""
    found = []
    for suite, number in itertools.product(range(suites), range(rows)):
        scale = 10 ** rng.uniform(-3, -1.5)
        for seed in range(seeds):
            for cem, factor in (("off", 1.0), ("on", 1 + gain)):
                value = scale * factor * math.exp(spread / math.sqrt(2) * rng.standard_normal())
                found.append(row(value, suite=f"s{suite}", defense=f"d{number}", cem=cem, seed=seed))
    return frame_of(found)


def test_what_is_the_same_at_several_points_of_a_sweep_is_counted_once():
    """A sweep over attackers' settings: at each point other attacks, and the same trainings."""
    points = {"s attacks.decoder.epochs=1": "attacks.decoder.epochs=1", "s attacks.decoder.epochs=3": "x=3"}
    rows = []
    for (suite, gain), seed, cem in itertools.product(zip(points, (1.2, 1.4), strict=True), (1, 2), ("off", "on")):
        key = f"{cem} {seed}"
        rows.append(row(90 + seed, "accuracy_percent", suite=suite, seed=seed, cem=cem, key=key))
        value = seed * (gain if cem == "on" else 1)
        rows.append(row(value, suite=suite, seed=seed, cem=cem, key=f"{key} {suite}"))
    lines = verdicts(frame_of(rows), points=points)
    assert lines[["suite", "metric", "point", "again"]].values.tolist() == [
        [suite, metric, "" if metric == "accuracy_percent" else points[suite], again]
        for suite, metric, again in (
            (list(points)[0], "accuracy_percent", False),
            (list(points)[0], "mse", False),
            (list(points)[1], "accuracy_percent", True),
            (list(points)[1], "mse", False),
        )
    ]
    assert [line.split(" of ")[1].split(" (")[0] for line in summary(lines).splitlines()] == ["1 rows", "2 rows"]
    text = texts(lines)
    assert list(text["point"]) == ["", "attacks.decoder.epochs=1", "x=3"]
    assert "point" not in texts(lines.assign(point=""))


def test_effect_agrees_with_scipy():
    changes = np.random.default_rng(0).normal(0.3, 1, 7)
    found = effect(changes)
    reference = stats.ttest_1samp(changes, 0)
    interval = reference.confidence_interval(0.95)
    assert (found.n, found.mean) == (7, pytest.approx(changes.mean()))
    assert (found.low, found.high) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert found.p == pytest.approx(reference.pvalue)
    assert found.size == pytest.approx((1 - 3 / 23) * changes.mean() / changes.std(ddof=1))


def test_two_seeds_have_an_interval_and_no_effect_size():
    """Hedges' correction would make any of them 0."""
    found = effect([0.8, 1.2])
    assert math.isnan(found.size) and found.low < 1 < found.high


def test_one_seed_has_no_interval_and_equal_runs_no_effect():
    assert math.isnan(effect([0.2]).low) and math.isnan(effect([0.2]).p)
    assert effect([0.0, 0.0, 0.0]).p == 1
    with pytest.raises(ValueError, match="at least one"):
        effect([])


def test_holm_by_hand_and_against_bonferroni():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, math.nan, 0.9])[1] is not None and math.isnan(holm([0.5, math.nan, 0.9])[1])
    p = np.random.default_rng(1).uniform(size=20)
    assert (np.array(holm(p)) <= np.minimum(1, 20 * p) + 1e-12).all() and (np.array(holm(p)) >= p).all()


def test_interquartile_mean():
    assert interquartile_mean([1, 2, 3, 1000]) == 2.5
    assert interquartile_mean([5]) == 5
    values = np.random.default_rng(2).normal(size=40)
    assert interquartile_mean(values) == pytest.approx(stats.trim_mean(values, 0.25))


def test_bootstrap_covers_the_true_ratio_over_images():
    rng, truth, hits = np.random.default_rng(3), math.log(1.2), 0
    for trial in range(60):
        base = rng.lognormal(0, 1, 300)
        off, on = base * rng.lognormal(0, 0.2, 300), 1.2 * base * rng.lognormal(0, 0.2, 300)
        low, high = bootstrap_log_ratio([off], [on], seed=trial)
        hits += low <= truth <= high
    assert 50 <= hits <= 60  # 95 % of 60 is 57; fewer than 50 has a probability below 1e-4


def test_bootstrap_over_seeds_is_wider_than_over_images_alone():
    rng = np.random.default_rng(4)
    off = [rng.uniform(1, 2, 500) for _ in range(4)]
    on = [values * factor for values, factor in zip(off, (1.0, 1.5, 0.8, 1.3), strict=True)]
    low, high = bootstrap_log_ratio(off, on)
    assert low < math.log(0.95) < math.log(1.3) < high
    alone = bootstrap_log_ratio(off[:1], on[:1])
    assert alone == (pytest.approx(0), pytest.approx(0))


def test_aggregate_resamples_seeds_within_rows():
    rows = [np.array([0.1, 0.1, 0.1]), np.array([0.3, 0.3, 0.3])]
    assert bootstrap_aggregate(rows) == (pytest.approx(0.2), pytest.approx(0.2))


def test_pairs_join_seeds_and_name_what_is_lost():
    rows = [row(0.01, seed=s) for s in (1, 2, 3)] + [row(0.02, cem="on", seed=s) for s in (1, 2)]
    rows += [row(math.nan, cem="on", seed=3, status="diverged"), row(0.5, cem="full", seed=1)]
    found = {pair.cem: pair for pair in pairs(frame_of(rows))}
    assert set(found) == {"on", "full"}
    assert found["on"].changes() == pytest.approx({"1": math.log(2), "2": math.log(2)}) and found["on"].lost == ("3",)
    assert found["on"].failed == ("3",) and found["full"].failed == ()
    told = verdicts(frame_of(rows)).set_index("cem")["reason"]
    assert told["on"].endswith("; without seed 3, which failed or diverged")
    assert told["full"].endswith("; without seed 2, 3, which lacks a side")
    assert set(found["full"].base) == {"1"} and found["full"].lost == ("2", "3")
    rows += [row(50 + s, metric="accuracy_percent", cem=c, seed=s) for s in (1, 2) for c in ("off", "on")]
    accuracy = next(pair for pair in pairs(frame_of(rows)) if pair.metric == "accuracy_percent")
    assert accuracy.changes() == {"1": 0, "2": 0}


@pytest.mark.parametrize("seeds", [3, 5])
def test_without_an_effect_suites_with_a_false_verdict_stay_at_the_nominal_rate(seeds):
    lines = verdicts(simulated(np.random.default_rng(seeds), 7, seeds, gain=0.0, spread=0.3, suites=200))
    wrong = (lines.groupby("suite")["p_holm"].min() < 0.05).sum()
    # binomial(200, 0.05): more than 20 has a probability of 0.1 %
    assert wrong <= 20


def test_a_known_effect_is_found_in_every_row():
    lines = verdicts(simulated(np.random.default_rng(0), rows=7, seeds=5, gain=0.3, spread=0.03))
    assert set(lines["verdict"]) == {SUPPORTED} and len(lines) == 7
    assert lines["change"].to_numpy() == pytest.approx(30, abs=8)
    assert ((lines["low"] < 30) & (lines["high"] > 30)).mean() > 0.7


def test_power_is_that_of_the_t_test():
    """One row, five seeds, an effect of one standard deviation of the changes: the noncentral t's power."""
    count, spread = 300, 0.2
    frame = simulated(np.random.default_rng(6), 1, 5, math.expm1(spread), spread, suites=count)
    found = (verdicts(frame)["verdict"] == SUPPORTED).mean()
    critical = stats.t.ppf(0.975, 4)
    expected = stats.nct.sf(critical, 4, math.sqrt(5))
    assert found == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / count))


def judged(off, on, metric="mse"):
    rows = [row(value, metric, seed=s) for s, value in enumerate(off)]
    rows += [row(value, metric, cem="on", seed=s) for s, value in enumerate(on)]
    return verdicts(frame_of(rows)).iloc[0]


def test_verdicts_of_single_rows():
    assert judged([0.01], [0.05])["verdict"] == UNDECIDED  # one seed, whatever the change
    assert judged([0.01, 0.011, 0.0105], [0.008, 0.0089, 0.0083])["verdict"] == NOT_SUPPORTED
    flat = judged([0.01, 0.0101, 0.0099, 0.01], [0.01001, 0.01009, 0.00991, 0.00999])
    assert flat["verdict"] == NOT_SUPPORTED and "excluded" in flat["reason"]
    assert judged([0.01, 0.02, 0.01], [0.02, 0.01, 0.01])["verdict"] == UNDECIDED
    assert judged([0.5, 0.5, 0.51], [0.4, 0.41, 0.4], "ssim")["verdict"] == SUPPORTED
    assert judged([20, 20.1, 20.2], [21, 21.2, 21.1], "psnr_db")["verdict"] == NOT_SUPPORTED


@pytest.mark.parametrize("on_side, verdict", [(0.0, UNDECIDED), (1.0, SUPPORTED)])
def test_an_attack_that_learnt_nothing_shows_nothing(on_side, verdict):
    """Nothing on either side; where one of them learnt something, the change stands."""
    rows = [row(0.05 + 0.0001 * seed, seed=seed) for seed in range(3)]
    rows += [row(0.06 + 0.0001 * seed, cem="on", seed=seed) for seed in range(3)]
    rows += [row(0.0, "beats_mean_image", seed=seed) for seed in range(3)]
    rows += [row(on_side, "beats_mean_image", cem="on", seed=seed) for seed in range(3)]
    line = verdicts(frame_of(rows)).iloc[0]
    assert line["verdict"] == verdict and ("mean image" in line["reason"]) == (verdict == UNDECIDED)
    assert line["change"] > 15 and len(verdicts(frame_of(rows))) == 1


@pytest.mark.parametrize("guessing", ["on", "off"])
def test_a_classifier_at_chance_on_either_side_shows_nothing(guessing):
    """As when CEM, or the defence alone, makes all features alike: nothing can be rebuilt from them."""
    rows = [row(0.0075, seed=seed) for seed in range(3)]
    rows += [row(0.061 + 0.0001 * seed, cem="on", seed=seed) for seed in range(3)]
    cells = itertools.product(("off", "on"), range(3))
    rows += [row(10 if cem == guessing else 87, "accuracy_percent", cem=cem, seed=seed) for cem, seed in cells]
    lines = verdicts(frame_of(rows)).set_index("metric")
    assert lines["verdict"]["mse"] == UNDECIDED and "at chance" in lines["reason"]["mse"]
    assert aggregate(frame_of(rows)).empty


def test_chance_is_that_of_the_images_used():
    """Twelve of FaceScrub's 530 people, 190 test pictures: 1 / 12 and three standard errors are 14.3 %."""
    sample = [Departure("data.classes", 12, 530), Departure("data.test", 190, 4170)]
    assert at_chance("facescrub", 14.3, sample) and not at_chance("facescrub", 14.4, sample)
    assert not at_chance("facescrub", 8.33)
    fewer = [Departure("data.test_images", 512, None)]
    assert at_chance("cifar10", 13.9, fewer) and not at_chance("cifar10", 13.9)
    rows = [row(0.01, cem=cem, seed=s) for s in range(3) for cem in ("off", "on")]
    for cem, seed in itertools.product(("off", "on"), range(3)):
        rows += [row(12, "accuracy_percent", cem=cem, seed=seed), row(0.0, METRIC, cem=cem, seed=seed)]
    assert "at chance" in verdicts(frame_of(rows)).set_index("metric")["reason"]["mse"]


def test_accuracies_that_all_change_alike_do_not_say_how_much_they_spread():
    """As with 190 test pictures, of which each seed loses one."""
    for change in (0.0, 100 / 190, 200 / 190):
        line = judged([91, 92], [91 - change, 92 - change], "accuracy_percent")
        assert line["verdict"] == UNDECIDED and "steps" in line["reason"]


def test_accuracy_is_unchanged_only_where_the_interval_says_so():
    metric = "accuracy_percent"
    assert judged([70, 70.1, 70.2], [70.1, 70.1, 70.3], metric)["verdict"] == SUPPORTED
    assert judged([70, 70.1, 70.2], [66, 66.2, 66.1], metric)["verdict"] == NOT_SUPPORTED
    assert judged([70, 70.1, 70.2], [69, 71, 70], metric)["verdict"] == UNDECIDED  # not significant is not equal


def test_per_image_values_enter_where_they_were_kept():
    rows = [row(0.01, cem=cem, seed=s, key=f"{cem}{s}") for s in (0, 1) for cem in ("off", "on")]
    off = np.linspace(0.01, 0.02, 100)

    def images(one, other, metric):
        assert (one[:-1], other[:-1], metric) == ("off", "on", "mse")
        return off, off * np.where(np.arange(100) < 75, 1.5, 0.9)

    line = verdicts(frame_of(rows), images).iloc[0]
    assert line["images_harder_percent"] == 75 and 0 < line["image_low"] < line["image_high"]
    assert math.isnan(verdicts(frame_of(rows), lambda *_: None).iloc[0]["image_low"])


def test_aggregate_is_the_interquartile_mean_of_the_gains():
    gains = aggregate(simulated(np.random.default_rng(8), rows=8, seeds=3, gain=0.2, spread=0.02)).iloc[0]
    assert gains["low"] < gains["gain_percent"] < gains["high"]
    assert gains["gain_percent"] == pytest.approx(20, abs=2) and (gains["rows"], gains["seeds"]) == (8, 3)


def test_the_aggregate_leaves_out_what_shows_nothing_and_names_points():
    rows = []
    for defense, gain, seed in itertools.product(("bottleneck", "dropout"), (1.5,), range(3)):
        blind = defense == "dropout"
        cell = {"defense": defense, "seed": seed}
        rows += [row(0.062 if blind else 0.01, **cell), row(0.062 if blind else 0.01 * gain, cem="on", **cell)]
        rows += [row(float(not blind), "beats_mean_image", cem=cem, **cell) for cem in ("off", "on")]
    (line,) = aggregate(frame_of(rows), {"s": "attacks.decoder.epochs=3"}).to_dict("records")
    assert (line["rows"], line["left_out"], line["point"]) == (1, 1, "attacks.decoder.epochs=3")
    assert line["gain_percent"] == pytest.approx(50)


def test_further_attackers_do_not_move_the_verdicts_on_the_paper():
    printed = simulated(np.random.default_rng(9), rows=3, seeds=3, gain=0.2, spread=0.1)
    further = simulated(np.random.default_rng(10), rows=3, seeds=3, gain=0.0, spread=0.1).assign(attacker="informed")
    alone, both = verdicts(printed), verdicts(pd.concat([printed, further], ignore_index=True))
    pd.testing.assert_frame_equal(both[both["attacker"] != "informed"].reset_index(drop=True), alone)
    gains = aggregate(pd.concat([printed, further], ignore_index=True))
    pd.testing.assert_frame_equal(gains[gains["family"] == "paper"].reset_index(drop=True), aggregate(printed))
    assert set(gains["family"]) == {"paper", "further"}
    lines = summary(both).splitlines()
    assert len(lines) == 2 and lines[1].startswith("CEM raises MSE (further attackers): ")


def test_ablation_tells_what_a_protocol_does_to_values_and_to_the_gain():
    """MSE doubles without the quirk whatever CEM does, and CEM's gain falls from 50 % to 20 %."""
    rows = []
    for seed, defense in itertools.product((1, 2, 3), ("bottleneck", "dropout")):
        scale = 0.01 * seed * (2 if defense == "dropout" else 1)
        for protocol, factor, gain in (("published", 1, 1.5), ("without_q1", 2, 1.2)):
            cell = {"protocol": protocol, "defense": defense, "seed": seed}
            rows += [row(scale * factor, **cell), row(scale * factor * gain, cem="on", **cell)]
    lines = ablation(frame_of(rows)).set_index(["what", "cem"])
    value, gain = lines.loc[("value", "off")], lines.loc[("gain", "on")]
    assert (value["change"], value["rows"], value["seeds"]) == (pytest.approx(100), 2, 3)
    assert gain["change"] == pytest.approx(100 * (1.2 / 1.5 - 1)) == gain["low"]
    lost = [item if item["seed"] != 3 else item | {"status": "failed"} for item in rows]
    assert set(ablation(frame_of(lost))["seeds"]) == {2}
    assert ablation(frame_of(rows[:2])).empty
    gone = [item | {"status": "diverged"} if item["defense"] == "dropout" else item for item in rows]
    assert set(ablation(frame_of(gone))["rows"]) == {1}  # the other row stays


def test_the_ablation_suite_turns_each_quirk_off_alone():
    protocols = MatrixFile().matrix.protocols
    for number in range(1, 7):
        quirks = protocols[f"without_q{number}"].model_dump()
        assert [name for name, on in quirks.items() if not on] == [name for name in quirks if f"q{number}_" in name]


def test_the_report_says_the_verdicts_first(finished, tmp_path):  # noqa: F811
    outcome = finished.call("report", "--tables", tmp_path)
    *answer, last = outcome.out.splitlines()
    assert outcome.code == 0 and outcome.err == ""  # of an ablation and a frontier, nothing: it is no such suite
    chance = "(accuracy at chance in one seed or more: there is little in the feature to rebuild from)"
    assert f"CEM raises MSE: 0 supported, 0 not supported, 8 undecided of 8 rows {chance}" in answer
    unchanged = "CEM leaves accuracy unchanged: 0 supported, 0 not supported, 2 undecided of 2 rows"
    assert f"{unchanged} (one seed says nothing about the spread between trainings)" in answer
    written = [path for path in (tmp_path / "smoke").rglob("*") if path.is_file()]
    assert last == f"{tmp_path / 'smoke' / 'report.html'}: open this; {len(written)} files in {tmp_path / 'smoke'}"
    assert not {"ablation.md", "frontier.md"} & {path.name for path in written}
    lines = pd.read_csv(tmp_path / "smoke" / "verdicts.csv")
    assert (lines["verdict"] == UNDECIDED).all() and lines["images_harder_percent"].notna().any()
    assert "one seed" in (tmp_path / "smoke" / "verdicts.md").read_text()
    outcome = finished.call("report", "--where", "cem=off", "--tables", tmp_path)
    assert outcome.code == 0 and outcome.err == "" and "supported" not in outcome.out
    assert not (tmp_path / "smoke-where-cem-off" / "verdicts.md").exists()


def test_the_report_has_the_ablation_of_a_suite_with_several_protocols(place):  # noqa: F811
    def change(matrix, smoke):
        smoke |= {"defense": ["bottleneck"], "attacker": ["decoder"], "split": ["infer"], "efficiency": []}
        smoke |= {"protocol": ["published", "corrected"], "overrides": []}
        smoke["set"]["model.arch"] = "resnet20"

    place.edit(change)
    assert place.call("run", "--where", "protocol=published").code == 0
    outcome = place.call("report")
    assert outcome.code == 0 and "no ablation yet" in outcome.err and outcome.err.count("\n") == 1
    assert place.call("run").code == 0
    outcome = place.call("report")
    assert outcome.code == 0 and outcome.err == ""
    lines = pd.read_csv(place.tables / "smoke" / "ablation.csv")
    assert set(lines["protocol"]) == {"corrected"} and set(lines["what"]) == {"value", "gain"}
    assert "# Ablation of the protocol" in (place.tables / "smoke" / "ablation.md").read_text()
