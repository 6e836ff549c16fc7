"""The worked examples of docs/ADDING.md, run as they are printed there."""

import re
from pathlib import Path

import pytest
import yaml
from command_line import call, place  # noqa: F401 (fixture)
from PIL import Image

from benchmark.attacks import ATTACKS
from benchmark.data import DATASETS
from benchmark.defenses import DEFENSES

ADDING = Path(__file__).parent.parent / "docs" / "ADDING.md"
SECTIONS = {"defenses": DEFENSES, "attacks": ATTACKS, "datasets": DATASETS}


@pytest.fixture
def example(monkeypatch):
    """Registers the example of that section (forgotten after the test); returns (name, its entry in the matrix)."""

    def load(section: str) -> tuple[str, dict]:
        registry = SECTIONS[section]
        registry.names()
        monkeypatch.setattr(registry, "_classes", dict(registry._classes))
        blocks = re.findall(r"^```(\w+)\n(.*?)^```", ADDING.read_text(encoding="utf-8"), flags=re.S | re.M)
        mark = f"@{section.upper()}.register("
        (at,) = [at for at, (language, text) in enumerate(blocks) if language == "python" and mark in text]
        name = re.search(re.escape(mark) + r'"([^"]+)"\)', blocks[at][1]).group(1)
        language, line = next(block for block in blocks[at + 1 :] if block[0] == "yaml")
        exec(compile(blocks[at][1], "docs/ADDING.md", "exec"), {"__name__": f"adding_{name}"})
        return name, yaml.safe_load(line)[name]

    return load


def results(place, *where) -> str:  # noqa: F811
    outcome = place.call("run", *where)
    assert outcome.code == 0, outcome.err
    assert place.call("report", *where).code == 0
    return (place.tables / "smoke" / "results.csv").read_text()


def test_a_defence(place, example):  # noqa: F811
    name, entry = example("defenses")
    place.edit(
        lambda matrix, smoke: (
            matrix["defenses"].update({name: entry}),
            smoke.update(defense=[name], attacker=["decoder"], split=["infer"], efficiency=[]),
        )
    )
    found = results(place)
    for cem in ("off", "on"):
        assert re.search(rf",{name},{cem},published,decoder,infer,mse,125,0\.\d+,done,", found)


def test_an_attacker(place, example):  # noqa: F811
    name, entry = example("attacks")
    place.edit(
        lambda matrix, smoke: (
            matrix["attacks"].update({name: entry}),
            smoke.update(defense=["bottleneck"], cem=["off"], attacker=[name], split=["infer"], efficiency=[]),
        )
    )
    assert re.search(rf",bottleneck,off,published,{name},infer,mse,125,0\.\d+,done,", results(place))
    table = (place.tables / "smoke" / "photos-attackers-mse.md").read_text()
    assert name in table and re.search(r"^\| Bottleneck \|.* 0\.\d{4}", table, flags=re.M)


def test_a_data_set(place, example, tiny_images, tmp_path):  # noqa: F811
    name, entry = example("datasets")
    for part, images in (("train", tiny_images.train), ("test", tiny_images.test)):
        for number, (picture, label) in enumerate(zip(images.images, images.labels.tolist(), strict=True)):
            folder = tmp_path / "pictures" / part / tiny_images.class_names[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture.permute(1, 2, 0).numpy()).save(folder / f"{number:03}.png")
    prepared = call("data", "prepare", name, "--from", tmp_path / "pictures", "--data", tmp_path / "data")
    assert prepared.code == 0 and prepared.out == f"{name}: 48 training and 24 test images, 3 classes\n"
    wrong = call("data", "prepare", name, "--from", tmp_path, "--data", tmp_path / "data")
    assert wrong.code == 2 and "needs the folders train and test" in wrong.err
    place.edit(
        lambda matrix, smoke: (
            matrix["datasets"].update({name: entry}),
            smoke.update(dataset=[name], defense=["bottleneck"], cem=["off"], attacker=["decoder"], split=["infer"]),
            smoke.update(efficiency=[]),
        )
    )
    found = results(type(place)(place.folder, tmp_path / "data"))
    assert re.search(rf"^smoke,{name},bottleneck,off,published,decoder,infer,mse,125,0\.\d+,done,", found, flags=re.M)
