"""A job reads the images that its key names, or fails: others may have been prepared since the suite was expanded."""

import pytest
import torch

from benchmark import data
from benchmark.data.photos import Photos
from benchmark.errors import UserError
from benchmark.jobs.attempt import attempt
from benchmark.jobs.run_job import Machine
from benchmark.matrix.expand import expand
from benchmark.store.store import Store
from tests.engines.test_workers import Quiet


@pytest.fixture
def cells(matrix, tmp_path):
    """Of one row whose attacker has the data set photos too, as its own."""

    def one(value):
        value["suites"]["smoke"] |= {"defense": ["none"], "cem": ["off"], "efficiency": [], "split": ["train"]}
        value["suites"]["smoke"] |= {"attacker": ["decoder"]}
        value["suites"]["smoke"]["set"] |= {"knowledge.dataset": "photos", "train.epochs": 1}

    return expand(matrix(one), "smoke", tmp_path / "data")


@pytest.fixture
def machine(cells, tmp_path):
    return Machine(Store(tmp_path / "results"), tmp_path / "data", torch.device("cpu"))


def prepare_others(root, monkeypatch) -> None:
    """Prepare other images under the same name."""
    held, part = data.load("photos", root), {}
    for which in ("train", "test"):
        old = getattr(held, which)
        part[which] = data.ImageSet(255 - old.images, old.labels)
    for path in root.glob("photos.*"):
        path.unlink()
    monkeypatch.setattr(Photos, "read", lambda self, source=None: data.Parts(**part, class_names=held.class_names))
    assert data.prepare("photos", root).fingerprint != held.fingerprint


def test_a_training_fails_where_other_images_were_prepared_meanwhile(cells, machine, monkeypatch):
    job = cells[0].job
    prepare_others(machine.data_root, monkeypatch)
    outcome = attempt(job, machine, Quiet(), lambda: False)
    assert outcome.kind == "failed" and outcome.text.startswith("the data set photos in "), outcome.text
    assert "was prepared from other images since the run began" in outcome.text and "run again" in outcome.text
    assert not machine.store.done(job)


def test_an_attack_fails_where_the_attackers_images_are_others(cells, machine, monkeypatch):
    known = cells[1].job.config["knowledge"]
    assert machine.others(known).fingerprint == known["fingerprint"]
    assert machine.others(known | {"dataset": None}) is None
    prepare_others(machine.data_root, monkeypatch)
    with pytest.raises(UserError, match="was prepared from other images"):
        machine.others(known)


def test_images_that_are_loaded_stay_those_of_their_own_jobs(cells, machine, monkeypatch):
    config = cells[0].job.config
    first = machine.data(config)
    prepare_others(machine.data_root, monkeypatch)
    assert machine.data(config) is first
    anew = config | {"fingerprint": data.fingerprint("photos", machine.data_root)}
    assert machine.data(anew).fingerprint == anew["fingerprint"] != first.fingerprint


def test_a_job_names_all_the_images_that_it_reads(cells, matrix, tmp_path):
    train, attack = cells[0].job, cells[1].job
    assert train.images == attack.images == {"photos": data.fingerprint("photos", tmp_path / "data")}

    def other(value):
        value["suites"]["smoke"] |= {"attacker": ["decoder"], "sweep": {"knowledge.dataset": ["cifar10"]}}

    swept = expand(matrix(other), "smoke", tmp_path / "data")
    by_kind = {cell.kind: list(cell.job.images) for cell in swept}
    assert by_kind == {"train": ["photos"], "attack": ["photos", "cifar10"], "efficiency": []}
