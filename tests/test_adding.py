"""The worked examples of docs/ADDING.md, run as they are printed there."""

import re
from pathlib import Path

import pytest
from PIL import Image

import benchmark
from benchmark.attacks import ATTACKS
from benchmark.data import DATASETS
from benchmark.defenses import DEFENSES
from tests.support.command_line import Place, call, place  # noqa: F401 (fixture)

ADDING = Path(__file__).parent.parent / "docs" / "ADDING.md"
REGISTRIES = {"defenses": DEFENSES, "attacks": ATTACKS, "datasets": DATASETS}


def blocks() -> list[tuple[str, str]]:
    """(language, text) of every block."""
    return re.findall(r"^```(\w+)\n(.*?)^```", ADDING.read_text(encoding="utf-8"), flags=re.S | re.M)


@pytest.fixture
def example(monkeypatch, place):  # noqa: F811
    """Registers the example of that section (forgotten after the test) and writes its matrix, which extends a tiny one
    in place of the shipped one; returns (name, the place of that matrix)."""

    def load(section: str) -> tuple[str, Place]:
        registry = REGISTRIES[section]
        registry.names()
        monkeypatch.setattr(registry, "_classes", dict(registry._classes))
        found, mark = blocks(), f"@{section.upper()}.register("
        (at,) = [at for at, (language, text) in enumerate(found) if language == "python" and mark in text]
        name = re.search(re.escape(mark) + r'"([^"]+)"\)', found[at][1]).group(1)
        exec(compile(found[at][1], "docs/ADDING.md", "exec"), {"__name__": f"adding_{name}"})
        text = next(text for language, text in found[at + 1 :] if language == "yaml")
        assert text.startswith("extends: paper\n")
        below = place.edit(lambda matrix, smoke: smoke.update(attacker=["decoder"], split=["infer"], efficiency=[]))
        own = Place(place.folder / "own", place.data)
        own.folder.mkdir()
        own.matrix.write_text(text.replace("extends: paper", f"extends: {below.matrix}"))
        return name, own

    return load


def results(place, *where) -> str:  # noqa: F811
    outcome = place.call("run", *where)
    assert outcome.code == 0, outcome.err
    assert place.call("report", *where).code == 0
    return (place.tables / "smoke" / "results.csv").read_text()


def test_a_matrix_of_ones_own(tmp_path):
    """As printed, outside the repository: its own suite and the shipped ones."""
    own = next(text for language, text in blocks() if language == "yaml")
    path = tmp_path / "my.yaml"
    path.write_text(own)
    folders = ["--matrix", path, "--data", tmp_path / "data", "--results", tmp_path / "results"]
    mine = call("plan", "mine", *folders)
    assert mine.code == 0, mine.err
    assert re.search(r"^12 cells, 12 jobs", mine.out, flags=re.M)
    told = "attacks.decoder.epochs 10 (published 50); defense.rate 0.4 (published 0.2); train.epochs 30 (published 240)"
    assert f"Departs from the published setting: {told}\n" in mine.out
    for shipped in ("smoke", "frontier"):
        assert call("plan", shipped, *folders).code == 0


def test_a_defence(example):
    name, place = example("defenses")  # noqa: F811
    found = results(place)
    for cem in ("off", "on"):
        assert re.search(rf",{name},{cem},published,attack,decoder,infer,mse,125,0\.\d+,done,", found)
    assert re.search(r",none,off,published,attack,decoder,infer,mse,125,0\.\d+,done,", found)
    stored = benchmark.load_encoder(f"photos/{name}", results=place.results)
    options = {"train_images": 24, "test_images": 20, "data": place.data}
    judged = benchmark.evaluate(stored, stored.dataset, stored.channel, ["ridge"], **options)
    assert stored.channel.params.ceiling == 0.7 and 0 < judged.frame["mse"][0] < 1


def test_an_attacker(example):
    name, place = example("attacks")  # noqa: F811
    assert re.search(rf",bottleneck,off,published,attack,{name},infer,mse,125,0\.\d+,done,", results(place))
    table = (place.tables / "smoke" / "photos-attackers-mse.md").read_text()
    assert name in table and re.search(r"^\| Bottleneck \|.* 0\.\d{4}", table, flags=re.M)
    encoder = benchmark.load_encoder("photos/bottleneck", results=place.results)
    options = {"train_images": 24, "test_images": 20, "data": place.data, "settings": {"attacks.linear.epochs": 1}}
    judged = benchmark.evaluate(encoder, "photos", 0.025, [name], matrix=place.matrix, **options)
    assert list(judged.frame["attacker"]) == [name] and 0 < judged.frame["mse"][0] < 1


def test_a_data_set(example, tiny_images, tmp_path):
    name, place = example("datasets")  # noqa: F811
    for part, images in (("train", tiny_images.train), ("test", tiny_images.test)):
        for number, (picture, label) in enumerate(zip(images.images, images.labels.tolist(), strict=True)):
            folder = tmp_path / "pictures" / part / tiny_images.class_names[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture.permute(1, 2, 0).numpy()).save(folder / f"{number:03}.png")
    prepared = call("data", "prepare", name, "--from", tmp_path / "pictures", "--data", tmp_path / "data")
    assert prepared.code == 0 and prepared.out == f"{name}: 48 training and 24 test images, 3 classes\n"
    wrong = call("data", "prepare", name, "--from", tmp_path, "--data", tmp_path / "data")
    assert wrong.code == 2 and "needs the folders train and test" in wrong.err
    found = results(Place(place.folder, tmp_path / "data"))
    row = rf"^smoke,{name},bottleneck,off,published,attack,decoder,infer,mse,125,0\.\d+,done,"
    assert re.search(row, found, flags=re.M)
