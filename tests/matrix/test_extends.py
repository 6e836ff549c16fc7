"""Matrix files that extend one another: what wins, where a value is said to stand, and what is refused."""

import re
import textwrap

import pytest

from benchmark.departures import Departure
from benchmark.errors import UserError
from benchmark.matrix import expand as expansion
from benchmark.matrix import extend
from benchmark.matrix.expand import expand
from benchmark.matrix.extend import FOLDER, MOST_FILES
from benchmark.matrix.load import MatrixFile
from benchmark.matrix.source import read_source


@pytest.fixture(autouse=True)
def no_data(monkeypatch):
    monkeypatch.setattr(expansion.data, "fingerprint", lambda name, root: "f" * 64)


@pytest.fixture
def write(tmp_path):
    def make(text: str, name: str = "my.yaml"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    return make


def refused(path) -> str:
    with pytest.raises(UserError) as caught:
        MatrixFile(path)
    return str(caught.value)


def test_mappings_merge_and_all_else_is_replaced(write):
    path = write("""\
        extends: paper
        train: {epochs: 3, milestones: [0.5]}
        cem: {off: null, on: {weight: 8}}
        suites:
          smoke: {seed: [1, 2], set: {train.epochs: 1}}
    """)
    ours, shipped = MatrixFile(path).matrix, MatrixFile().matrix
    assert ours.train == shipped.train.model_copy(update={"epochs": 3, "milestones": [0.5]})
    assert ours.cem["on"] == shipped.cem["on"].model_copy(update={"weight": 8.0}) and ours.cem["off"] is None
    smoke = shipped.suites["smoke"]
    assert ours.suites["smoke"].seed == [1, 2] and ours.suites["smoke"].dataset == smoke.dataset
    assert ours.suites["smoke"].set == smoke.set | {"train.epochs": 1}
    assert list(ours.suites) == list(shipped.suites) and ours.attacks == shipped.attacks


def test_a_file_extends_another_that_extends_a_third(write):
    write("extends: ../paper.yaml\ntrain: {epochs: 3, batch_size: 7}\n", "inner/middle.yaml")
    (write("", "paper.yaml")).write_text((FOLDER / "paper.yaml").read_text())
    path = write("extends: inner/middle.yaml\ntrain: {epochs: 4}\n")
    train = MatrixFile(path).matrix.train
    assert (train.epochs, train.batch_size, train.lr) == (4, 7, 0.05)


def test_a_value_is_said_to_stand_where_it_is_written(write):
    path = write("""\
        extends: paper
        suites:
          smoke:
            set: {train.epochs: 0}
          cifar10: {seed: [125, 126, 125]}
    """)
    assert refused(path).startswith(f"{path}, line 5: suites.cifar10.seed: 125 stands twice")
    write("extends: paper\nsuites:\n  smoke:\n    set: {train.epochs: 0}\n")
    with pytest.raises(UserError, match=rf"^{path}, line 4: epochs = 0 is not allowed"):
        expand(MatrixFile(path), "smoke", path.parent)
    write("extends: paper\ndefenses:\n  dropout: {weight: 2}\n")
    assert refused(path).startswith(f"{path}, line 3: unknown key 'weight'")
    paper = FOLDER / "paper.yaml"
    write("extends: paper\nsuites: {smoke: {set: {train.epochs: 1}}}")
    line = paper.read_text().split("train.milestones: []")[0].count("\n") + 1
    assert MatrixFile(path).where(("suites", "smoke", "set", "train.milestones")) == f"{paper}, line {line}"


def test_of_a_list_that_is_replaced_no_line_is_left(write):
    write("suites: {a: {exclude: [{cem: on}, {cem: off}]}}", "below.yaml")
    source, _ = extend.read_matrix(write("extends: below.yaml\nsuites: {a: {exclude: [{cem: on}]}}\n"))
    assert source.value == {"suites": {"a": {"exclude": [{"cem": "on"}]}}}
    assert source.where(("suites", "a", "exclude", 1, "cem")).endswith("my.yaml, line 2")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("extends: papr", "there is no file .*papr to extend; give a path relative to this file, or the word paper"),
        ('extends: "\\0"', "there is no file"),
        ("extends: 3", "extends = 3 is not allowed: give a path, or the word paper"),
        ("extends: [paper]", "is not allowed"),
        ("extends: ''", "cannot read the matrix that .*line 1 extends, "),  # the folder
        ("extends: my.yaml", "extends this file, so this file cannot extend it"),
        ("extends: list.yaml", "list.yaml, line 1: the matrix that .*my.yaml, line 1 extends, must be a mapping"),
        ("extends: paper\nsuites: 3", "suites = 3 is not allowed"),
        ("extends: paper\nsuite: {}", "line 2: unknown key 'suite'"),
        ("extends: bare.yaml", "my.yaml, line 1: the key 'datasets' is missing; write it, or extend a matrix"),
        ("extend: paper", "my.yaml, line 1: unknown key 'extend' .* did you mean 'extends'"),
    ],
)
def test_what_cannot_be_extended_is_told_in_a_sentence(write, text, told):
    write("[1]", "list.yaml")
    write("train: {}", "bare.yaml")
    assert re.search(told, refused(write(text)))


def test_a_circle_of_files(write):
    write("extends: c.yaml", "b.yaml")
    path = write("extends: b.yaml", "a.yaml")
    write("extends: a.yaml", "c.yaml")
    assert refused(path).startswith(f"{path.parent / 'c.yaml'}, line 1: ")


def test_too_many_files(write):
    for number in range(MOST_FILES + 1):
        write(f"extends: {number + 1}.yaml", f"{number}.yaml")
    write("extends: paper", f"{MOST_FILES - 1}.yaml")
    MatrixFile(write("train: {epochs: 2}\nextends: 1.yaml", "0.yaml"))
    write(f"extends: {MOST_FILES}.yaml", f"{MOST_FILES - 1}.yaml")
    assert f"more than {MOST_FILES} files extend one another" in refused(write("extends: 1.yaml", "0.yaml"))


def test_departures_are_told_from_the_shipped_values(write, tmp_path):
    """A value of the file's own is none of the published ones because it stands in the sections above the suites."""
    path = write("""\
        extends: paper
        defenses: {dropout: {rate: 0.4}}
        datasets: {cifar10: {set: {train.lr: 0.1}}}
        attacks: {decoder: {epochs: 5}}
    """)
    cells = expand(MatrixFile(path), "cifar10", tmp_path, {"defense": ["dropout"], "attacker": ["decoder"]})
    (found,) = {cell.departures for cell in cells if cell.attacker == "decoder"}
    common = (Departure("train.lr", 0.1, 0.05), Departure("defense.rate", 0.4, 0.2))
    assert found == (*common, Departure("attacks.decoder.epochs", 5, 50))


def test_a_protocol_that_is_changed_departs_from_its_name(write, tmp_path):
    path = write("extends: paper\nprotocols: {published: {q6_test_selection: false}}\n")
    cells = expand(MatrixFile(path), "cifar10", tmp_path, {"defense": ["dropout"]})
    assert {cell.departures for cell in cells} == {(Departure("protocols.published.q6_test_selection", False, True),)}


def test_every_shipped_suite_stands_once():
    names = [name for path in FOLDER.rglob("*.yaml") for name in read_source(path).value["suites"]]
    assert sorted(names) == sorted(MatrixFile().matrix.suites) and len(set(names)) == len(names)


def test_an_experiment_alone_is_over_the_paper():
    file = MatrixFile(FOLDER / "experiments" / "frontier.yaml")
    assert {"frontier", "smoke"} <= set(file.matrix.suites) and "ablation" not in file.matrix.suites


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "suites: {frontier: {dataset: [photos]}}",
            r"more.yaml, line 1: suites.frontier stands at .*frontier.yaml, line",
        ),
        ("suites: {}\ntrain: {epochs: 3}", r"more.yaml, line 2: train.epochs stands at .*paper.yaml, line \d+ as well"),
    ],
)
def test_two_shipped_files_that_clash_are_both_named(tmp_path, monkeypatch, text, told):
    for path in FOLDER.rglob("*.yaml"):
        to = tmp_path / path.relative_to(FOLDER)
        to.parent.mkdir(exist_ok=True)
        to.write_text(path.read_text())
    (tmp_path / "experiments" / "more.yaml").write_text(text)
    monkeypatch.setattr(extend, "FOLDER", tmp_path)
    with pytest.raises(UserError, match=told):
        extend.shipped()
