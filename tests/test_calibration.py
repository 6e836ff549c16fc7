"""The search on rows whose response is known, and the command on a tiny suite with a planted strength."""

import csv
import math

import pytest
import yaml

from benchmark.analysis.search import candidates, distance, rungs, search
from benchmark.departures import Departure
from benchmark.errors import UserError
from benchmark.matrix.expand import expand
from benchmark.matrix.load import DEFAULT, MatrixFile, parse_set, read_strengths
from benchmark.matrix.schema import Calibration, Range
from tests.support.command_line import call, place  # noqa: F401 (fixture)

ACCURACY, MSE = ("accuracy_percent",), ("mse", "decoder", "train")
NOISE = {"noise_std": Range(low=0.002, high=0.3)}


def settings(**changes) -> Calibration:
    base = {"candidates": 9, "keep": 3, "rungs": [0.1, 0.3], "seed": 0, "ranges": {}}
    return Calibration(**base | changes)


def response(noise: float, epochs: int = 240):
    """More noise: less accuracy, a larger error. Few epochs: 30 points less accuracy, half the error."""
    short = 1 - epochs / 240
    return {ACCURACY: 92 - 40 * noise - 30 * short, MSE: 0.01 * (noise / 0.025) ** 0.8 * (1 - 0.5 * short)}


def run(targets, anchor=0.025, config=None, evaluate=None):
    calls = []

    def plain(many, epochs):
        calls.append((len(many), epochs))
        return [response(one["noise_std"], epochs) for one in many]

    best, done = search({"noise_std": anchor}, NOISE, targets, 240, config or settings(), evaluate or plain)
    return best, done, calls


@pytest.mark.parametrize("planted", [0.005, 0.03, 0.15])
def test_a_planted_strength_is_found_though_short_trainings_are_worse(planted):
    best, done, _ = run(response(planted), config=settings(candidates=27))
    assert best.epochs == 240
    assert best.strengths["noise_std"] == pytest.approx(planted, rel=0.2)
    everything = [item["noise_std"] for item in candidates({"noise_std": 0.025}, NOISE, settings(candidates=27))]
    nearest = min(everything, key=lambda noise: distance(response(noise), response(planted)))
    assert best.strengths["noise_std"] == nearest  # halving has lost nothing here
    assert best.distance <= min(item.distance for item in done if item.epochs == 240)


def test_the_search_is_bounded_and_narrows():
    _, done, calls = run(response(0.1))
    full = [count for count, epochs in calls if epochs == 240]
    assert [epochs for _, epochs in calls[:3]] == rungs(settings(), 240) == [24, 72, 240]  # the anchor's
    assert [(item.rung, item.epochs) for item in done].count((0, 24)) == 9
    assert [(item.rung, item.epochs) for item in done].count((1, 72)) == 3 + 1  # the anchor, for the correction
    assert sum(full) <= 2 and len(done) <= 9 + (3 + 1) + 2


def test_the_anchor_wins_where_it_is_right_and_failures_lose():
    best, _, _ = run(response(0.025))
    assert best.strengths == {"noise_std": 0.025} and best.distance == 0

    def fragile(many, epochs):
        return [None if one["noise_std"] > 0.03 else response(one["noise_std"], epochs) for one in many]

    best, done, _ = run(response(0.1), evaluate=fragile)
    assert best.strengths["noise_std"] <= 0.03 and math.isfinite(best.distance)
    assert any(item.values is None and item.distance == math.inf for item in done)


def test_distance_is_one_at_the_edge_of_the_tolerances():
    targets = {ACCURACY: 90.0, MSE: 0.01, ("mse", "gan", "train"): 0.02}
    assert distance(targets, targets) == 0
    assert distance(targets | {ACCURACY: 91.0}, targets) == pytest.approx(1)
    assert distance({ACCURACY: 90, MSE: 0.012, ("mse", "gan", "train"): 0.024}, targets) == pytest.approx(1)
    assert distance({ACCURACY: 90, MSE: 0.012, ("mse", "gan", "train"): 0.02}, targets) == pytest.approx(math.sqrt(0.5))
    assert distance({ACCURACY: 90}, targets) == math.inf


def test_candidates_stay_in_range_and_are_the_same_again():
    ranges = {"noise_std": Range(low=0.01, high=1), "rate": Range(low=0.1, high=0.9, scale="linear")}
    drawn = candidates({"noise_std": 5.0, "rate": 0.0}, ranges, settings(candidates=101))
    assert drawn == candidates({"noise_std": 5.0, "rate": 0.0}, ranges, settings(candidates=101))
    assert drawn[0] == {"noise_std": 5.0, "rate": 0.0}  # as it stands in the matrix, wherever that is
    for one in drawn[1:]:
        assert 0.01 <= one["noise_std"] <= 1 and 0.1 <= one["rate"] <= 0.9
    assert sorted(one["noise_std"] for one in drawn[1:])[49] == pytest.approx(
        0.1, rel=0.1
    )  # the middle, on the log scale


@pytest.mark.parametrize("changes", [{"low": 0.3}, {"low": 0.0}, {"low": -1.0}])
def test_a_range_that_is_none_is_refused(matrix, changes):
    def change(value):
        value["calibration"]["ranges"]["bottleneck"]["noise_std"] |= changes

    with pytest.raises(UserError, match="low must be below high"):
        matrix(change)


def test_a_range_of_an_unknown_parameter_names_the_known_ones(matrix):
    def change(value):
        value["calibration"]["ranges"]["dropout"]["ratee"] = {"low": 0.1, "high": 0.2}

    with pytest.raises(UserError, match="unknown name 'ratee'; did you mean 'rate'"):
        matrix(change)


def test_found_strengths_change_their_own_row_alone_with_and_without_cem(tmp_path):
    path = tmp_path / "found.yaml"
    row = {"dataset": "cifar10", "defense": "dropout", "protocol": "published"}
    found = {"where": row, "set": {"defenses.dropout.rate": 0.5}, "found": {"distance": 0.3}}
    path.write_text(yaml.safe_dump({"strengths": [found]}))
    cells = expand(MatrixFile(DEFAULT), "all", tmp_path, None, parse_set([f"@{path}"]))
    changed = {
        (cell.dataset, cell.defense, cell.cem)
        for cell in cells
        if Departure("defense.rate", 0.5, 0.2) in cell.departures
    }
    assert changed == {("cifar10", "dropout", "off"), ("cifar10", "dropout", "on")}
    assert all(cell.departures for cell in cells if (cell.dataset, cell.defense) == ("cifar10", "dropout"))


@pytest.mark.parametrize(
    "text, message",
    [
        ("[1]", "must be a mapping"),
        ("strengths: [{set: {}}]", "the key 'strengths.0.where' is missing"),
        ("strengths: [{where: {}, set: {}, sett: {}}]", "unknown key"),
    ],
)
def test_a_file_of_another_form_is_told_in_one_sentence(tmp_path, text, message):
    path = tmp_path / "found.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_strengths(path)
    with pytest.raises(UserError, match="cannot read the file of strengths"):
        parse_set([f"@{tmp_path / 'nowhere.yaml'}"])


def test_the_command_finds_the_setting_that_an_earlier_run_had(place):  # noqa: F811
    """Targets from a run at rate 0.9, which is among the candidates: it is found, and a second call trains nothing."""

    def change(matrix, smoke):
        smoke |= {"defense": ["dropout"], "cem": ["off", "on"], "efficiency": []}
        ranges = {"dropout": {"noise_std": {"low": 0.02, "high": 0.03}}}
        matrix["calibration"] = {"candidates": 2, "keep": 2, "rungs": [], "seed": 0, "ranges": ranges}

    place.edit(change)
    only = ("--where", "attacker=decoder,split=train")
    drawn = candidates(
        {"noise_std": 0.025},
        MatrixFile(place.matrix).matrix.calibration.ranges["dropout"],
        MatrixFile(place.matrix).matrix.calibration,
    )[1]
    planted = ("--set", f"defenses.dropout.noise_std={drawn['noise_std']}")
    for command in ("run", "report"):
        outcome = place.call(command, *only, *planted, "--where", "cem=off")
        assert outcome.code == 0, outcome.err
    target = place.folder / "target"
    place.written().rename(target)
    words = place.words("calibrate", *only, "--against", target, "--tables", place.tables, "--cells-per-gpu", 1)
    outcome = call(*words)
    assert outcome.code == 0, outcome.err
    answer, last = outcome.out.splitlines()
    assert answer.startswith(
        f"photos dropout published: defenses.dropout.noise_std {drawn['noise_std']:g} (distance 0,"
    )
    assert last.startswith(f"use it: --set @{place.tables / 'smoke' / 'strengths.yaml'} ")
    written = yaml.safe_load((place.tables / "smoke" / "strengths.yaml").read_text())["strengths"]
    assert written[0]["where"] == {"dataset": "photos", "defense": "dropout", "protocol": "published"}
    assert written[0]["set"] == {"defenses.dropout.noise_std": drawn["noise_std"]}
    assert written[0]["found"]["distance"] == 0  # the very same jobs
    assert written[0]["found"]["rungs_epochs"] == [2] and written[0]["found"]["seeds"] == [125]
    with open(place.tables / "smoke" / "calibration.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["epochs"] for line in lines] == ["2", "2"]
    before = place.finished()
    assert call(*words).code == 0 and place.finished() == before
    # the CEM row is now a prediction at the found strengths
    cells = place.cells(changes=[f"@{place.tables / 'smoke' / 'strengths.yaml'}"])
    assert {cell.job.cell["defense"]["params"]["noise_std"] for cell in cells} == {drawn["noise_std"]}


def test_a_suite_with_a_sweep_is_refused(place):  # noqa: F811
    place.edit(lambda matrix, smoke: smoke.update(sweep={"attacks.decoder.epochs": [1, 2]}))
    outcome = place.call("calibrate", "--tables", place.tables)
    assert outcome.code == 2 and "the suite 'smoke' sweeps a setting" in outcome.err
