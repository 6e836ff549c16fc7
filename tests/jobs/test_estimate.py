"""Estimates of work: every attacker and defence says what it costs, and known costs come out."""

import pytest

from benchmark.attacks import ATTACKS, Selection
from benchmark.defenses import DEFENSES
from benchmark.jobs import estimate
from benchmark.matrix.expand import expand
from benchmark.matrix.load import MatrixFile
from benchmark.models.macs import Scale

SCALE = Scale(feature=(8, 8, 8), image_size=32, encoder=10**6, fitted=1000, scored=100, epochs=10)


def params(registry, section, name):
    return registry.get(name).Params(**getattr(MatrixFile().matrix, section)[name])


@pytest.mark.parametrize("name", ATTACKS.names())
def test_every_attacker_has_a_cost_but_those_that_choose(name):
    cost = ATTACKS.get(name).flop(params(ATTACKS, "attacks", name), SCALE)
    assert (cost == 0) == issubclass(ATTACKS.get(name), Selection)


@pytest.mark.parametrize("name", DEFENSES.names())
def test_an_adversary_is_counted_in_every_defence_that_trains_one(name):
    cost = DEFENSES.get(name).extra_flop(params(DEFENSES, "defenses", name), SCALE)
    assert (cost > 0) == (name in ("ressfl", "noise_arl", "patrol", "infoscissors", "disco"))


def test_pretraining_costs_what_as_many_epochs_do():
    short = params(DEFENSES, "defenses", "ressfl").model_copy(update={"pretrain_epochs": 0})
    long = short.model_copy(update={"pretrain_epochs": 30})
    cost = DEFENSES.get("ressfl").extra_flop
    assert cost(long, SCALE) == pytest.approx(4 * cost(short, SCALE))


def test_a_white_box_attack_runs_the_encoder_there_and_back():
    settings = params(ATTACKS, "attacks", "whitebox").model_copy(update={"iterations": 3, "restarts": 1})
    assert ATTACKS.get("whitebox").flop(settings, SCALE) == 4e6 * 100 * 3 * 2


def test_no_job_of_the_shipped_suites_is_without_an_estimate(tmp_path):
    cells = [cell for suite in ("defenses-short", "corrected") for cell in expand(MatrixFile(), suite, tmp_path)]
    assert cells and all(estimate.work(cell.job) > 0 for cell in cells)
