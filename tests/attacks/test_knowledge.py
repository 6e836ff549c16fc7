"""What an attacker has: shares of its images, another data set's, in keys, in what is fitted, and in one table."""

import json

import pandas as pd
import pytest
import torch

from benchmark import data
from benchmark.attacks.splits import known
from benchmark.config import Knowledge
from benchmark.data import ImageSet
from benchmark.matrix.expand import expand
from benchmark.matrix.load import MatrixFile
from tests.support.command_line import place  # noqa: F401 (a fixture)

SWEEP = {"knowledge.share": [0.25, 1], "knowledge.dataset": ["smiles"]}
POINTS = ["knowledge.dataset=smiles", "knowledge.share=0.25", "knowledge.share=1"]  # as the matrix file has them

SMILES = """
import torch

from benchmark.data.base import DATASETS, Parts, Source
from benchmark.data.tensors import ImageSet


@DATASETS.register("smiles")
class Smiles(Source):
    classes, image_size, nominal = 2, 32, (40, 8)
    mean, std, crop, embedded = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), True, True
    publishable = False

    def read(self, source):
        draw = torch.Generator().manual_seed(7)
        parts = (
            ImageSet(
                torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=draw),
                torch.arange(count) % 2,
            )
            for count in (40, 8)
        )
        return Parts(*parts, ["a", "b"])
"""


def images(count: int, classes: int = 3) -> ImageSet:
    return ImageSet(
        torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2), torch.arange(count) % classes
    )


def test_shares_are_balanced_nested_and_gone_over_more_often():
    whole = images(90)
    parts = {share: known(whole, Knowledge(share=share), None) for share in (0.1, 0.5, 1.0)}
    assert {share: (len(part), passes) for share, (part, passes) in parts.items()} == {
        0.1: (9, 10),
        0.5: (45, 2),
        1.0: (90, 1),
    }
    assert [part.labels.bincount().tolist() for part, _ in parts.values()] == [[3] * 3, [15] * 3, [30] * 3]
    few, more = (set(parts[share][0].images[:, 0, 0, 0].tolist()) for share in (0.1, 0.5))
    assert few < more
    assert len(known(whole, Knowledge(share=1e-9), None)[0]) == 1


def test_as_many_of_another_set(tiny_images):
    found, passes = known(images(30), Knowledge(dataset="tiny"), tiny_images)
    assert len(found) == 30 and passes == 1 and found.images.shape[1:] == (3, 32, 32)
    found, passes = known(images(200), Knowledge(dataset="tiny"), tiny_images)  # which has 48
    assert len(found) == 48 and passes == 4
    found, passes = known(images(40), Knowledge(share=0.5, dataset="tiny"), tiny_images)
    assert len(found) == 20 and passes == 2


def test_keys_know_of_it_only_where_it_is_another(matrix, tmp_path):
    def sweep(value):
        value["suites"]["smoke"] |= {"defense": ["bottleneck"], "efficiency": [], "split": ["infer"]}
        value["suites"]["smoke"] |= {"sweep": {"knowledge.share": [0.5, 1], "knowledge.dataset": ["cifar10"]}}

    def plain(value):
        sweep(value)
        del value["suites"]["smoke"]["sweep"]

    cells, before = (expand(matrix(change), "smoke", tmp_path) for change in (sweep, plain))
    assert {cell.job.key for cell in cells if cell.kind == "train"} == {
        cell.job.key for cell in before if cell.kind == "train"
    }
    by_point = {}
    for cell in cells:
        if cell.kind == "attack":
            by_point.setdefault(str(cell.strength), []).append(cell)
    assert [cell.job.key for cell in by_point["knowledge.share=1"]] == [
        cell.job.key for cell in before if cell.kind == "attack"
    ]
    half, other = by_point["knowledge.share=0.5"], by_point["knowledge.dataset=cifar10"]
    assert {json.dumps(cell.job.config["knowledge"]) for cell in half} == {'{"share": 0.5, "dataset": null}'}
    assert {cell.job.config["knowledge"]["fingerprint"] for cell in other} == {data.fingerprint("cifar10", tmp_path)}
    for cell in (*half, *other):  # what an attack starts from knows no more than it does
        assert all("knowledge" in parent.config for role, parent in cell.job.parents.items() if role != "train")
        assert any(departure.path.startswith("knowledge.") for departure in cell.departures)
    assert not any(departure.path.startswith("knowledge.") for cell in before for departure in cell.departures)


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("knowledge.dataset=cifar1", "unknown name 'cifar1'; did you mean 'cifar1"),
        ("knowledge.dataset=tinyimagenet", "tinyimagenet have 64 px, and photos's encoders take 32 px"),
        ("knowledge.share=0", "share"),
        ("knowledge.share=1.5", "share"),
        ("knowledge.shar=1", "shar"),
    ],
)
def test_what_cannot_be_known(place, setting, text):  # noqa: F811
    outcome = place.call("plan", "--set", setting)
    assert outcome.code == 2 and text in outcome.err and outcome.err.count("\n") == 1, outcome.err


def test_one_table(place, monkeypatch):  # noqa: F811
    """Of the same encoder: at a quarter of the images, at all, and with a set's that is not to be seen."""
    data.DATASETS.names()
    monkeypatch.setattr(data.DATASETS, "_classes", dict(data.DATASETS._classes))  # forgotten after the test
    exec(compile(SMILES, "smiles.py", "exec"), {"__name__": "smiles"})

    def sweep(matrix, smoke):
        matrix["datasets"]["smiles"] = matrix["datasets"]["photos"]
        smoke |= {"defense": ["bottleneck"], "cem": ["off"], "attacker": ["decoder", "ridge"], "efficiency": []}
        smoke |= {"sweep": SWEEP, "split": ["train"]}

    place.edit(sweep)
    first = place.call("run")
    assert first.code == 0, first.err
    assert len(list(place.results.glob("photos/bottleneck/train-*"))) == 1
    report = place.call("report")
    assert report.code == 0, report.err
    table = pd.read_csv(place.tables / "smoke" / "swept.csv", keep_default_na=False)
    assert list(table["point"]) == 2 * POINTS
    assert list(table["attacker"]) == 3 * ["decoder"] + 3 * ["ridge"] and table["mse"].nunique() == 6
    text = (place.tables / "smoke" / "swept.md").read_text()
    assert (
        "knowledge.share=0.25" in text and len([line for line in text.splitlines() if line.startswith("| photos")]) == 2
    )
    assert not (place.tables / "smoke" / "frontier.md").exists()
    page = (place.tables / "smoke" / "report.html").read_text()
    assert "<title>Model inversion benchmark: smoke</title>" in page and "<h2>What attackers have" in page
    assert "How do the defences compare?" not in page  # its points are one encoder
    assert "[What attackers have, and what it is worth](swept.md)" in (place.tables / "smoke" / "README.md").read_text()

    cells = expand(MatrixFile(place.matrix), "smoke", place.data)
    for cell in cells:
        if cell.kind == "train":
            continue
        folder = place.results / cell.job.folder
        values = json.loads((folder / "metrics.json").read_text())["values"]
        point = str(cell.strength)
        assert values["fitted_on"] == (6 if "0.25" in point else 24) and values["scored_on"] == 20
        assert (folder / "reconstructions.png").exists() == ("smiles" not in point)  # they may not be seen
        if cell.attacker == "decoder":
            record = json.loads((folder / "provenance.json").read_text())
            assert record["steps"] == (4 if "0.25" in point else 3)  # batches of 9 of 24, of 6 of 6 four times


def test_images_of_another_size_do_not_fit(place):  # noqa: F811
    outcome = place.call("plan", "--set", "knowledge.dataset=facescrub")
    assert outcome.code == 2 and "48 px" in outcome.err
