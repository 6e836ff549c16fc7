"""The learning rates and CEM's factor of every epoch against the released code's schedulers."""

import pandas as pd
import pytest
import torch

from benchmark.data import DataSet, ImageSet
from benchmark.defenses import DEFENSES
from benchmark.matrix.load import MatrixFile
from benchmark.training.train import Recipe, Training
from tests.support.formula import ORACLES

RATES = pd.read_csv(ORACLES / "lr.csv")


def training(dataset: str, defense: str) -> Training:
    """The published cell, on a handful of images."""
    matrix = MatrixFile()
    settings = matrix.settings(dataset, defense, "on", [])
    size = 64 if dataset == "tinyimagenet" else 32
    part = ImageSet(torch.zeros(4, 3, size, size, dtype=torch.uint8), torch.arange(4))
    data = DataSet(dataset, 4, (0.5,) * 3, (0.25,) * 3, False, part, part, [], "0" * 64, True)
    quirks = matrix.matrix.protocols["published"]
    recipe = Recipe(settings.model, settings.train, DEFENSES.get(defense), settings.params, settings.cem, quirks, 125)
    return Training(recipe, data, torch.device("cpu"), "fp32")


@pytest.mark.parametrize("defense", ["ressfl", "patrol", "noise_arl"])
@pytest.mark.parametrize("dataset", ["cifar10", "tinyimagenet"])
def test_every_epoch(dataset, defense):
    task = training(dataset, defense)
    rows = RATES[RATES["epochs_total"] == task.epochs]
    assert len(rows) == task.epochs
    for row in rows.itertuples():
        task.defense.begin_epoch(row.epoch - 1)
        for step in (0, task.steps - 1):
            task._set_strengths(row.epoch - 1, step)
            assert task.optimizer.param_groups[0]["lr"].item() == pytest.approx(row.lr_model, rel=1e-9)
            on = row.epoch >= task.recipe.cem.start_epoch
            assert (task.cem_weight.item() if on else 0) == pytest.approx(row.cem_factor, rel=1e-6)  # a float32
        assert task.defense.optimizer.param_groups[0]["lr"].item() == pytest.approx(row.lr_adversary, rel=1e-9)
