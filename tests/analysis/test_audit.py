"""The audit: nothing in clean tables, each planted misprint by its rule, and what is known of the real ones."""

import math
from decimal import Decimal

import pandas as pd
import pytest

from benchmark.analysis import published
from benchmark.analysis.audit import ROWS, RULES, audit
from benchmark.analysis.printed import SAME_RUNS, cells, decimals, mean, rounded, truncated
from tests.support.command_line import call

DATASET = {"1": "cifar10", "2": "tinyimagenet", "3": "facescrub", "S5": "cifar100"}


@pytest.fixture(scope="module")
def clean() -> dict:
    """Tables 1 and S1 without a contradiction; PSNR as measured per batch, some 0.02 dB above that of the mean."""
    printed = {}

    def put(table, defense, cem, attacker, split, metric, value):
        cell = (table, "cifar10", defense, cem, attacker, split, metric)
        printed[cell] = rounded(value, decimals(metric))

    for number, row in enumerate(ROWS):
        for cem, gain in (("off", 1.0), ("on", 1.17)):
            for table in ("1", "S1"):
                put(table, row, cem, "", "", "accuracy_percent", 90.13 - 0.71 * number)
            for attacker, factor in (("decoder", 1.0), ("gan", 1.11)):
                mse = 0.0103 * 1.31**number * gain * factor
                put("1", row, cem, attacker, "train", "mse", 0.93 * mse)
                put("1", row, cem, attacker, "infer", "mse", mse)
                put("S1", row, cem, attacker, "infer", "psnr_db", -10 * math.log10(mse) + 0.013 + 0.011 * (number % 2))
                put("S1", row, cem, attacker, "infer", "ssim", 0.9 - 3 * mse)
    return with_averages(printed)


def with_averages(printed: dict) -> dict:
    for cell in [cell for cell in printed if cell[2] == ROWS[0]]:
        members = [printed[(*cell[:2], row, *cell[3:])] for row in ROWS]
        printed[(*cell[:2], "average", *cell[3:])] = rounded(mean(members), decimals(cell[6]))
    return printed


def cell_of(table, defense, cem, attacker, split, metric, dataset="cifar10"):
    return (table, dataset, defense, cem, attacker, split, metric)


AVERAGE = cell_of("1", "average", "off", "decoder", "infer", "mse")
ARL = cell_of("S1", "noise_arl", "on", "decoder", "infer", "psnr_db")
ACCURACY = cell_of("1", "dropout", "on", "", "", "accuracy_percent")
MSE = cell_of("1", "patrol", "on", "gan", "train", "mse")


def found(printed: dict) -> set[tuple]:
    """(rule, cell) of every finding that is not a comment on the text, which clean() does not claim to fit."""
    return {(finding.rule, finding.cell) for finding in audit(printed) if finding.rule != "claimed"}


def test_clean_tables_have_no_finding(clean):
    assert found(clean) == set()


@pytest.mark.parametrize(
    ("rule", "cell", "change"),
    [
        ("averages", AVERAGE, lambda p: p[AVERAGE] + Decimal("0.0003")),
        ("averages", AVERAGE, lambda p: p[AVERAGE] * 10),
        ("psnr_of_mse", ARL, lambda p: p[ARL] + 2),
        ("printed_twice", ACCURACY, lambda p: p[ACCURACY] + Decimal("0.27")),
        ("averages", AVERAGE, lambda p: p[AVERAGE] / 10),
        ("cem_helps", MSE, lambda p: p[(*MSE[:3], "off", *MSE[4:])]),
        ("out_of_range", ACCURACY, lambda p: Decimal("870.9")),
        ("far_off", MSE, lambda p: p[MSE] * 10),
    ],
)
def test_a_planted_misprint_is_found_by_its_rule_at_its_cell(clean, rule, cell, change):
    assert (rule, cell) in found(clean | {cell: change(clean)})


def test_a_truncated_average_is_a_note_and_a_wrong_one_an_error(clean):
    cell = next(c for c in clean if c[2] == "average" and (e := exact(clean, c)) and truncated(e, 4) != rounded(e, 4))
    planted = clean | {cell: truncated(exact(clean, cell), decimals(cell[6]))}
    by_cell = {finding.cell: finding for finding in audit(planted) if finding.rule == "averages"}
    assert by_cell[cell].severity == "note" and "truncated" in by_cell[cell].why
    wrong = next(f for f in audit(clean | {AVERAGE: clean[AVERAGE] * 10}) if f.cell == AVERAGE)
    assert wrong.severity == "error" and "decimal point" in wrong.why


def exact(printed, cell):
    if cell[6] != "mse":
        return None
    return mean([printed[(*cell[:2], row, *cell[3:])] for row in ROWS])


def test_swapped_attackers_are_told_as_such(clean):
    other = (*ARL[:4], "gan", *ARL[5:])
    first, second = clean[ARL], clean[other]
    planted = clean | {ARL: second, other: first}
    texts = {finding.cell: finding.why for finding in audit(planted) if finding.rule == "psnr_of_mse"}
    assert "swapped" in texts[ARL] and "swapped" in texts[other]


def test_a_row_that_repeats_another_is_found(clean):
    planted = dict(clean)
    for cell, value in clean.items():
        if cell[2] == "ressfl" and cell[3] == "off" and cell[6] != "accuracy_percent":
            planted[(*cell[:2], "noise_arl", *cell[3:])] = value
    assert any(rule == "repeated_rows" and cell[2] == "noise_arl" for rule, cell in found(planted))


def test_a_defence_that_is_worse_than_none_is_found(clean):
    plain = cell_of("1", "none", "off", "decoder", "infer", "mse")
    where = cell_of("1", "bottleneck", "off", "decoder", "infer", "mse")
    assert ("defence_helps", where) in found(clean | {plain: clean[where] + Decimal("0.001")})
    assert found(clean | {plain: Decimal("0.0014")}) == set()


def test_an_attacker_with_more_images_that_does_worse_is_a_note(clean):
    where = cell_of("1", "distcorr", "off", "gan", "infer", "mse")
    train = (*where[:5], "train", "mse")
    planted = clean | {train: clean[where] + Decimal("0.0004")}
    assert ("train_is_easier", where) in found(planted)


def test_psnr_computed_from_a_rounded_mse_is_found_and_a_measured_one_is_not(clean):
    assert not any(rule == "psnr_is_derived" for rule, _ in found(clean))
    planted = {}
    for table, other in SAME_RUNS.items():
        for number, row in enumerate(ROWS):
            for cem, gain in (("off", 1), ("on", 1.3)):
                cell = cell_of(table, row, cem, "gan", "infer", "mse", DATASET[table])
                planted[cell] = rounded(0.0021 * gain * 1.2**number, 4)
                psnr = rounded(-10 * math.log10(planted[cell]), 2)
                planted[(other, *cell[1:6], "psnr_db")] = psnr
    assert sum(rule == "psnr_is_derived" for rule, _ in found(planted)) == 4


def test_a_claim_that_follows_from_no_reading_of_the_table_is_found(clean):
    claims = {finding.cell[5:]: finding for finding in audit(clean) if finding.rule == "claimed"}
    assert claims["infer", "mse"].severity == "inconsistent" and claims["infer", "mse"].expected == "17.0"


@pytest.fixture(scope="module")
def real() -> list:
    return audit(cells(published.load()))


@pytest.mark.parametrize(
    ("rule", "table", "defense", "attacker", "metric", "text"),
    [
        ("psnr_of_mse", "S2", "noise_arl", "decoder", "psnr_db", "14.19 to 14.21"),
        ("psnr_of_mse", "S2", "noise_arl", "gan", "psnr_db", "swapped"),
        ("averages", "S3", "average", "", "accuracy_percent", "51.6600"),
        (
            "printed_twice",
            "S3",
            "bottleneck",
            "",
            "accuracy_percent",
            "52.25, from which the printed average follows",
        ),
        ("psnr_is_derived", "S2", "", "decoder", "psnr_db", "12 of 14"),
        ("claimed", "S5", "average", "both", "mse", "it is that of the GAN-based attack alone"),
        ("claimed", "S5", "average", "both", "mse", "it is that of the Dec.-based attack alone"),
        ("averages", "S5", "average", "gan", "mse", "0.009186"),
        ("averages", "S5", "average", "gan", "mse", "0.009771"),
        ("averages", "3", "average", "gan", "mse", "decimal point"),
        ("claimed", "S1", "average", "both", "psnr_db", "17.56 from the printed averages"),
        ("claimed", "1", "average", "both", "mse", "23.8"),
        ("claimed", "1", "average", "both", "mse", "12.6"),
        ("claimed", "2", "average", "both", "mse", "19.1"),
        ("claimed", "2", "average", "both", "mse", "17.4"),
        ("claimed", "3", "average", "both", "mse", "49.0"),
        ("claimed", "3", "average", "both", "mse", "40.3"),
        ("claimed", "S5", "average", "both", "mse", "43.1"),
        ("claimed", "S5", "average", "both", "mse", "36.6"),
        ("sizes", "S6", "others", "", "server_params_m", "9.774994"),
        ("sizes", "S6", "patrol", "", "encoder_params_m", "0.083723 million parameters: truncated, not rounded"),
    ],
)
def test_what_is_known_of_the_printed_tables_is_found(real, rule, table, defense, attacker, metric, text):
    wanted = (rule, table, defense, attacker, metric)
    assert any((f.rule, f.cell[0], f.cell[2], f.cell[4], f.cell[6]) == wanted and text in f.why for f in real)


def test_most_averages_are_truncated(real):
    """Of those where truncating and rounding differ, against an independent count with pandas."""
    frame = published.load()
    rows, printed = frame[frame["defense"].isin(ROWS)], frame[frame["defense"] == "average"]
    key = ["table", "cem", "attacker", "split", "metric"]
    joined = printed.merge(rows.groupby(key)["value"].mean().rename("mean").reset_index(), on=key)
    digits = joined["metric"].map(decimals)
    scale = 10.0**digits
    floor = (joined["mean"] * scale + 1e-6).map(math.floor) / scale
    wrong = (joined["value"] - floor).abs() < 1e-9
    wrong &= (joined["mean"] - joined["value"]) * scale > 0.5 + 1e-6
    assert sum(f.rule == "averages" and "truncated" in f.why for f in real) == wrong.sum() > 15


def test_the_command_writes_the_findings(tmp_path):
    outcome = call("audit", "--tables", tmp_path)
    assert outcome.code == 0 and "averages" in outcome.out
    written = pd.read_csv(tmp_path / "audit" / "audit.csv", dtype=str)
    errors = (written["severity"] == "error").sum()
    assert f"{errors} of the printed numbers are wrong" in outcome.out and set(written["rule"]) <= {
        rule.__name__ for rule in RULES
    }
    assert r"\begin{longtable}" in (tmp_path / "audit" / "audit.tex").read_text()
    assert "16.27" in (tmp_path / "audit" / "audit.md").read_text()
