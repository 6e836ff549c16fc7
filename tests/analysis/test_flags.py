"""The flags of weak attacks, on frames written by hand."""

import math

import pandas as pd
import pytest

from benchmark.analysis import flags
from benchmark.analysis.frame import tidy
from benchmark.matrix.cells import Point

CELL = {"suite": "s", "dataset": "cifar10", "defense": "bottleneck", "cem": "off", "protocol": "corrected"}
CELL |= {"kind": "attack", "split": "train", "metric": "mse", "status": "done", "reason": "", "key": "k", "label": ""}


def row(attacker, value, seed=1, **changes):
    return CELL | {"attacker": attacker, "value": value, "seed": seed} | changes


def frame(*rows):
    return tidy(pd.DataFrame(rows))


def found(lines: pd.DataFrame):
    return [(line.attacker, round(line.percent, 3)) for line in lines.itertuples()]


@pytest.mark.parametrize(("mse", "flagged"), [(0.0096, False), (0.0095001, False), (0.0094, True), (0.0200, False)])
def test_more_than_five_percent_below_the_decoder(mse, flagged):
    lines = flags.decoder_beaten(frame(row("decoder", 0.01), row("informed", mse)))
    assert len(lines) == flagged
    if flagged:
        assert found(lines) == [("informed", 6.0)] and "6.0 % below the decoder's" in lines["text"][0]
        assert lines.iloc[0][flags.ROW].to_dict() == {name: CELL[name] for name in flags.ROW}


def test_the_strongest_is_named_and_what_sees_more_does_not_count():
    rows = [row("decoder", 0.01), row("informed", 0.009), row("kernel", 0.008)]
    rows += [row(name, 0.001) for name in ("queries16", "ensemble", "standard")]
    assert found(flags.decoder_beaten(frame(*rows))) == [("kernel", 20.0)]
    assert found(flags.decoder_beaten(frame(*rows[1:]))) == []  # without a decoder there is nothing to beat


def test_errors_are_compared_over_the_seeds_that_both_have():
    rows = [row("decoder", 0.01, 1), row("decoder", 0.04, 2), row("informed", 0.009, 1)]
    rows.append(row("informed", math.nan, 2, status="failed"))
    assert found(flags.decoder_beaten(frame(*rows))) == [("informed", 10.0)]
    rows += [row("informed", 0.001, 1, defense="dropout"), row("decoder", 0.01, 2, defense="dropout")]
    assert found(flags.decoder_beaten(frame(*rows))) == [("informed", 10.0)]


def test_rows_are_not_mixed():
    rows = [row("decoder", 0.01), row("informed", 0.001, cem="on"), row("decoder", 0.01, cem="on", split="infer")]
    assert len(flags.decoder_beaten(frame(*rows))) == 0


def test_a_network_that_a_closed_form_beats():
    rows = [row("ridge", 0.02), row("kernel", 0.016), row("decoder", 0.02), row("converged", 0.015)]
    rows += [row("whitebox", 0.04)]
    lines = flags.closed_form_wins(frame(*rows))
    assert found(lines) == [("decoder", 20.0), ("whitebox", 60.0)]
    assert lines["text"][0] == "kernel, a closed form, beats Dec.-based by 20.0 %"
    assert len(flags.closed_form_wins(frame(*rows[2:]))) == 0


def test_an_attack_that_was_not_shown_to_have_converged():
    rows = [row("decoder", 0.01), row("decoder", 1.0, 1, metric="converged"), row("gan", 1.0, metric="converged")]
    assert len(flags.still_falling(frame(*rows), {})) == 0
    rows += [row("decoder", 0.0, 2, metric="converged")]
    lines = flags.still_falling(frame(*rows), {})
    assert list(lines["attacker"]) == ["decoder"] and lines["percent"].isna().all()


@pytest.mark.parametrize(("last", "flagged"), [(0.0099, False), (0.0097, True), (0.011, False)])
def test_an_error_that_still_falls_with_the_budget(last, flagged):
    """10 epochs against 30: neither the text order of the numbers nor the smallest budget counts."""
    values = {3: 0.02, 10: 0.01, 30: last}
    swept = {f"b attacks.decoder.epochs={count}": Point("attacks.decoder.epochs", count) for count in values}
    rows = [row("decoder", value, suite=suite) for suite, value in zip(swept, values.values(), strict=True)]
    rows += [row("informed", 0.1 / count, suite=suite) for suite, count in zip(swept, values, strict=True)]  # not swept
    lines = flags.still_falling(frame(*rows), swept)
    assert found(lines) == ([("decoder", 3.0)] if flagged else [])
    if flagged:
        assert lines["suite"][0] == "b" and lines["text"][0].endswith("from budget 10 to 30")


def test_random_defences_are_scored_over_several_draws():
    rows = [row("decoder", 0.01, seed) for seed in (1, 2)] + [row("ridge", 0.01, seed) for seed in (1, 2, 3)]
    rows += [row("decoder", 0.01, defense="none")]
    lines = flags.few_draws(frame(*rows), random={"bottleneck"})
    assert list(lines["attacker"]) == ["decoder"] and "over 2 draws" in lines["text"][0]
    assert list(flags.few_draws(frame(*rows), random={"none"})["text"]) == ["a random defence, scored over 1 draw"]


def test_all_flags_together():
    rows = [row("decoder", 0.01), row("decoder", 0.0, metric="converged"), row("kernel", 0.005)]
    lines = flags.flags(frame(*rows), random={"bottleneck"}, swept={})
    assert list(lines.columns) == flags.COLUMNS
    assert list(lines["flag"]) == ["closed_form_wins", "decoder_beaten", "few_draws", "few_draws", "still_falling"]
    assert len(flags.flags(frame(row("decoder", 0.01, seed=1)), random=set(), swept={})) == 0
