"""The matrix: what it expands to, what changes a key, and what its errors say."""

import json
import re

import numpy as np
import pytest
import yaml

from benchmark import data
from benchmark.config import Resources
from benchmark.departures import Departure
from benchmark.errors import UserError
from benchmark.matrix import expand as expansion
from benchmark.matrix.expand import expand, jobs, parse_where
from benchmark.matrix.extend import FOLDER
from benchmark.matrix.load import DEFAULT, MatrixFile, parse_set
from benchmark.matrix.source import read_source
from tests.support.command_line import call

SHIPPED = [FOLDER / "paper.yaml", *sorted((FOLDER / "experiments").glob("*.yaml"))]


@pytest.fixture(autouse=True)
def no_data(monkeypatch):
    """Expansion must not need any image."""
    monkeypatch.setattr(expansion.data, "fingerprint", lambda name, root: "f" * 64)


def cells_of(suite, tmp_path, where=(), changes=()):
    return expand(MatrixFile(), suite, tmp_path, parse_where(list(where)), parse_set(list(changes)))


@pytest.mark.parametrize("suite", ["cifar10-short-knowledge", "cifar10-short-frontier", "cifar10-short-budget"])
def test_no_two_jobs_of_a_sweep_have_the_same_title(suite, tmp_path):
    """`run` told of `decoder-train` four times, without a word on which share of the images it had."""
    titles = [job.title for job in jobs(cells_of(suite, tmp_path))]
    assert len(set(titles)) == len(titles)
    trained = "train" if suite != "cifar10-short-frontier" else "train defenses.*.noise_std=0.01"
    assert f"cifar10 bottleneck seed 125 {trained}" in titles


def test_a_suites_images_stand_in_where_the_data_are_not_prepared(tmp_path, monkeypatch):
    """The committed results of a sample are found, and called one, by whoever has no pictures."""
    monkeypatch.undo()
    source, prepared = tmp_path / "faces.npz", tmp_path / "prepared"
    pixels = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), np.uint8)
    np.savez(source, images=pixels, labels=np.arange(60) % 3, people=np.array(["a", "b", "c"]))
    held = data.prepare("facescrub", prepared, source).fingerprint
    known = MatrixFile().matrix.suites["facescrub-short"].images["facescrub"]
    for root, fingerprint, people in ((tmp_path / "none", known.fingerprint, 12), (prepared, held, 3)):
        for cell in cells_of("facescrub-short", root):
            assert cell.job.cell["fingerprint"] == fingerprint
            assert Departure("data.classes", people, 530) in cell.departures
    for cell in cells_of("facescrub", tmp_path / "none"):  # no other suite is taken for one of that sample
        assert cell.job.kind == "efficiency" or cell.job.cell["fingerprint"] is None
        assert not [one for one in cell.departures if one.path.startswith("data.")]


def test_images_are_of_a_data_set_that_is_declared(matrix):
    images = {"photoz": {"fingerprint": "0" * 64, "classes": 3, "train": 2, "test": 1}}
    with pytest.raises(UserError, match=r"matrix.yaml, line \d+: unknown name 'photoz'; did you mean 'photos'"):
        matrix(lambda value: value["suites"]["smoke"].update(images=images))


def test_all_covers_every_printed_cell(tmp_path):
    """4 data sets x (7 defences x CEM off/on + no defence) x (accuracy + bounds + 2 attackers x 2 splits), Table S6."""
    cells = cells_of("all", tmp_path)
    rows = 7 * 2 + 1
    assert len(cells) == 4 * rows * (1 + 1 + 4) + 2
    printed = {(c.dataset, c.defense, c.cem or "off", c.kind, c.attacker, c.split) for c in cells}
    from benchmark.analysis.published import reference

    table = reference()
    wanted = set(
        table[table["defense"] != "average"][["dataset", "defense", "cem", "kind", "attacker", "split"]].itertuples(
            index=False, name=None
        )
    )
    assert wanted <= printed


def test_suites_of_the_paper_carry_no_deviation(tmp_path):
    assert {cell.departures for cell in cells_of("all", tmp_path)} == {()}
    found = {departure for cell in cells_of("smoke", tmp_path) for departure in cell.departures if departure.value}
    assert {Departure("train.epochs", 2, 240), Departure("attacks.gan.epochs", 1, 150)} <= found


def test_tinyimagenet_has_15_clusters_a_class_in_the_released_form_alone(tmp_path):
    for dataset, components in (("tinyimagenet", 15), ("cifar10", 5)):
        found = {
            cem: MatrixFile().settings(dataset, "bottleneck", cem, []).cem for cem in ("on", "diagonal", "full", "off")
        }
        assert found["on"].components == components and found["off"] is None
        assert found["diagonal"].components == found["full"].components == 3


def test_an_override_may_be_for_one_split(tmp_path):
    """And an attack that starts from one with the other split starts from that with its own values."""
    cells = {(c.attacker, c.split): c.job for c in cells_of("cifar10-short", tmp_path, ["defense=dropout", "cem=on"])}
    epochs = {key: job.config["params"]["epochs"] for key, job in cells.items() if job.kind == "attack"}
    assert epochs == {("decoder", "train"): 10, ("decoder", "infer"): 50, ("gan", "train"): 15, ("gan", "infer"): 15}
    assert cells["gan", "train"].parents["warm_start"] is not cells["decoder", "infer"]
    assert cells["gan", "train"].parents["warm_start"].key == cells["decoder", "infer"].key


def test_a_split_changes_no_training(matrix):
    def change(value):
        value["suites"]["smoke"]["overrides"] = [{"where": {"split": "infer"}, "set": {"train.epochs": 3}}]

    with pytest.raises(UserError, match=r"line \d+: a split changes attacks alone; 'train.epochs' is not of an attack"):
        matrix(change)


def test_parents_come_first_and_once(tmp_path):
    listed = jobs(cells_of("cifar100", tmp_path))
    keys = [job.key for job in listed]
    assert len(set(keys)) == len(keys) == 15 * 6
    for place, job in enumerate(listed):
        assert all(keys.index(parent.key) < place for parent in job.parents.values())


def test_a_change_reruns_exactly_what_depends_on_it(tmp_path):
    def keys(*changes):
        return {(c.defense, c.cem, c.attacker, c.split): c.job.key for c in cells_of("cifar10", tmp_path, (), changes)}

    before = keys()
    attack = keys("attacks.gan.penalty=9")
    assert {cell for cell in before if before[cell] != attack[cell]} == {cell for cell in before if cell[2] == "gan"}
    defense = keys("defenses.dropout.rate=0.3")
    assert {c[0] for c in before if before[c] != defense[c]} == {"dropout"}
    term = keys("cem.weight=8")
    assert {c[1] for c in before if before[c] != term[c]} == {"on"}
    decoder = keys("attacks.decoder.epochs=49")  # the GAN starts from the decoder (quirk q4)
    assert {c[2] for c in before if before[c] != decoder[c]} == {"decoder", "gan"}


def test_quirks_change_only_what_they_bear_on(tmp_path):
    def keys(protocol, defense="dropout", cem="on"):
        file = MatrixFile()
        quirks = file.matrix.protocols["published"].model_copy(update=protocol)
        file.matrix.protocols["published"] = quirks
        return {
            (c.attacker, c.split): c.job.key
            for c in expand(file, "cifar10", tmp_path, {"defense": [defense], "cem": [cem]})
        }

    before = keys({})
    no_cem = {"q1_first_class_lookup": False, "q2_batch_weight_x10": False}  # trained once, whatever CEM's quirks are
    assert keys(no_cem, cem="off") == keys({}, cem="off")
    no_mask = {"q3_attack_without_mask": False}
    assert keys(no_mask, "bottleneck") == keys({}, "bottleneck")
    assert keys(no_mask)[("decoder", "train")] != before[("decoder", "train")]
    assert keys({"q1_first_class_lookup": False})[("", "")] != before[("", "")]
    ordered = keys({"q5_ordered_split": False})
    assert ordered[("", "")] == before[("", "")]
    assert ordered[("decoder", "infer")] != before[("decoder", "infer")]
    assert ordered[("decoder", "train")] == before[("decoder", "train")]
    cold = keys({"q4_gan_warm_start": False})
    assert (
        cold[("decoder", "train")] == before[("decoder", "train")]
        and cold[("gan", "train")] != before[("gan", "train")]
    )


def test_filters(tmp_path):
    cells = cells_of("cifar10", tmp_path, ["defense=patrol,cem=on", "defense=dropout"])
    assert {(c.defense, c.cem) for c in cells} == {("patrol", "on"), ("dropout", "on")}
    attack = cells_of("cifar10", tmp_path, ["attacker=gan,split=train,defense=patrol"])
    assert {(c.attacker, c.split) for c in attack} == {("", ""), ("gan", "train")}


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ("defense=nope", "patrol"),
        ("defence=patrol", "the axes are dataset"),
        ("cem", "axis=value"),
        ("seed=1", "125"),
    ],
)
def test_bad_filters_say_what_is_allowed(tmp_path, where, text):
    with pytest.raises(UserError, match=text):
        cells_of("cifar10", tmp_path, [where])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("train.epoch=2", "did you mean 'epochs'"),
        ("train.epochs=two", "epochs = 'two' is not allowed"),
        ("train.epochs=0", "greater than or equal to 1"),
        ("train.epochs", "path=value"),
        ("epochs=2", "cannot set 'epochs'"),
        ("defenses.patrol.rate=0.1", "unknown key 'rate'"),
        ("attacks.*.rate=0.1", "no member of 'attacks'"),
        ("train.lr=.nan", "lr = nan is not allowed"),
        ("cem.weight=[", "is not valid YAML"),
    ],
)
def test_bad_changes_say_what_is_allowed(tmp_path, change, text):
    with pytest.raises(UserError) as caught:
        cells_of("cifar10", tmp_path, (), [change])
    assert text in str(caught.value) and f"--set {change}" in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "line_of", "texts"),
    [
        ("epochs: 240 #", "epochs: many #", "epochs: many", ["train.epochs", "'many'", "integer"]),
        ("momentum: 0.9", "momentun: 0.9", "momentun: 0.9", ["momentun", "did you mean 'momentum'"]),
        ("rate: 0.2", "rate: 1.2", "dropout: {", ["rate = 1.2", "less than"]),
        ("rate: 0.2", "ratio: 0.2", "dropout: {", ["ratio", "rate"]),
        ("  dropout: {", "  dropoot: {", "dropoot: {", ["dropoot", "did you mean 'dropout'"]),
        ("  attacker: [decoder, gan]", "  attacker: [decoder, gun]", "gun]", ["'gun'", "'gan'"]),
        ("train.epochs: 2\n", "train.epoch: 2\n", "train.epoch: 2\n", ["epoch", "'epochs'"]),
        ("epochs: 240 #", "epochs: 240 #\n  epochs: 3 #", "epochs: 3 #", ["stands twice"]),
        ("estimator: scalar", "estimator: scaler", "estimator: scaler", ["'scaler'", "'scalar'"]),
    ],
)
def test_errors_name_file_line_key_value_and_what_is_allowed(tmp_path, old, new, line_of, texts):
    text = DEFAULT.read_text()
    assert old in text
    text = text.replace(old, new, 1)
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    line = text[: text.index(line_of)].count("\n") + 1
    with pytest.raises(UserError) as caught:
        expand(MatrixFile(path), "smoke", tmp_path)
    message = str(caught.value)
    assert f"{path}, line {line}:" in message
    assert all(part in message for part in texts), message


@pytest.mark.parametrize("content", ["", "[1, 2]", "a: [", "a: !!python/object:os.system {}", "\x00", "x: &a [*a]"])
def test_files_that_are_no_matrix(tmp_path, content):
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match="bad.yaml"):
        MatrixFile(path)


def test_a_suite_may_not_include_itself(matrix, tmp_path):
    def loop(value):
        value["suites"]["all"]["include"] = ["all"]

    with pytest.raises(UserError, match="includes itself"):
        expand(matrix(loop), "all", tmp_path)


@pytest.mark.parametrize(
    ("axis", "values"),
    [
        ("seed", [125, 1, 125]),
        ("dataset", ["cifar10", "cifar10"]),
        ("defense", ["patrol", "patrol"]),
        ("cem", ["on", "on"]),
        ("attacker", ["gan", "gan"]),
        ("split", ["infer", "infer"]),
        ("protocol", ["published", "published"]),
        ("efficiency", ["cifar10", "cifar10"]),
        ("sweep", {"train.lr": [0.1, 0.1]}),
    ],
)
def test_a_value_of_an_axis_stands_once(matrix, axis, values):
    """Or every row of its tables would be there twice."""
    with pytest.raises(UserError, match=rf"matrix.yaml, line \d+: suites.cifar10.{axis}.* stands twice; keep one"):
        matrix(lambda value: value["suites"]["cifar10"].update({axis: values}))


def test_suites_that_hold_the_same_cells(matrix, tmp_path):
    def both(value):
        value["suites"]["both"] = {"include": ["cifar10", "copy"]}
        value["suites"]["copy"] = value["suites"]["cifar10"]

    file = matrix(both)
    whole, cells = expand(file, "cifar10", tmp_path), expand(file, "both", tmp_path)
    assert [cell.job.key for cell in cells] == [cell.job.key for cell in whole]


def test_overrides_change_the_matching_cells_only(matrix, tmp_path):
    def override(value):
        change = {"where": {"defense": ["patrol", "dropout"], "cem": "on"}, "set": {"train.lr": 0.01}}
        value["suites"]["cifar10"]["overrides"] = [change]

    cells = expand(matrix(override), "cifar10", tmp_path)
    changed = {(c.defense, c.cem) for c in cells if c.job.cell["train"]["lr"] == 0.01}
    assert changed == {("patrol", "on"), ("dropout", "on")}


def test_resources_change_no_key_and_are_no_departure(tmp_path):
    plain = cells_of("cifar10", tmp_path)
    changed = cells_of("cifar10", tmp_path, changes=["resources.train.gpu=0.5", "resources.attack.memory=9"])
    assert [(cell.job.key, cell.departures) for cell in plain] == [(cell.job.key, cell.departures) for cell in changed]
    asked = {(cell.kind, cell.job.resources) for cell in changed}
    assert {("train", Resources(gpu=0.5, memory=4)), ("attack", Resources(gpu=0.25, memory=9))} <= asked
    with pytest.raises(UserError, match="resources.train.gpu=2"):
        cells_of("cifar10", tmp_path, changes=["resources.train.gpu=2"])


def test_editors_are_given_the_schema_as_it_is():
    """The first line of every shipped file names a file, which is what `schema` prints."""
    printed = call("schema").out
    schema = json.loads(printed)
    for path in SHIPPED:
        first = path.read_text(encoding="utf-8").splitlines()[0]
        named = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", first).group(1)
        assert (path.parent / named).read_text(encoding="utf-8") == printed, (
            "write it anew: python -m benchmark schema > benchmark/matrix/matrix.schema.json"
        )
        assert set(read_source(path).value) <= set(schema["properties"])
    assert '"required"' not in printed  # of a file that extends another


def test_the_shipped_suites_name_their_rows(tmp_path):
    """So that what is added later makes no old suite incomplete."""
    axes = ("defense", "cem", "attacker", "protocol")
    assert not [
        (name, axis)
        for name, suite in MatrixFile().matrix.suites.items()
        for axis in axes
        if "*" in getattr(suite, axis)
    ]


def test_a_suite_has_the_defaults_for_what_it_does_not_say(matrix, tmp_path):
    def short(value):
        value["suites"]["mine"] = {"dataset": ["photos"], "defense": ["none", "dropout"], "attacker": ["gan"]}

    cells = expand(matrix(short), "mine", tmp_path)
    assert {(c.protocol, c.seed) for c in cells} == {("published", 125)}
    assert {(c.defense, c.cem) for c in cells} == {("none", "off"), ("dropout", "off"), ("dropout", "on")}
    assert {(c.attacker, c.split) for c in cells} == {("", ""), ("gan", "train"), ("gan", "infer")}


def test_defaults_are_checked_where_they_stand(matrix):
    with pytest.raises(UserError, match=r"matrix.yaml, line \d+: unknown name 'publishd'; did you mean 'published'"):
        matrix(lambda value: value["suite_defaults"].update(protocol=["publishd"]))


def test_everything_of_an_axis(matrix, tmp_path):
    cells = expand(matrix(lambda value: value["suites"]["smoke"].update(defense=["*"])), "smoke", tmp_path)
    assert {cell.defense for cell in cells} == {*MatrixFile().matrix.defenses, "others"}


def test_a_version_of_a_timed_defence_changes_its_efficiency_alone(matrix, tmp_path, monkeypatch):
    """Its options and final widths decide which network is timed."""
    from benchmark.defenses import DEFENSES

    def keys():
        return {cell.defense: cell.job.key for cell in expand(matrix(), "smoke", tmp_path) if cell.kind == "efficiency"}

    before = keys()
    monkeypatch.setattr(DEFENSES.get("patrol"), "version", DEFENSES.get("patrol").version + 1)
    after = keys()
    assert set(before) == {"patrol", "others"} and before["others"] == after["others"]
    assert before["patrol"] != after["patrol"]


def alone(value) -> None:
    """A matrix with one defence, without CEM by another name, and one suite."""
    value["defenses"] = {"none": value["defenses"]["none"]}
    value["cem"], value["calibration"]["ranges"] = {"plain": None}, {}
    value["suite_defaults"] = {}
    value["suites"] = {"mine": {"dataset": ["photos"], "defense": ["none"], "cem": ["plain"], "seed": [1]}}
    value["suites"]["mine"] |= {"attacker": ["decoder"], "split": ["train"], "protocol": ["published"]}


def test_what_an_efficiency_needs_is_told_where_the_matrix_lacks_it(matrix, tmp_path):
    def timed(value):
        alone(value)
        value["suites"]["mine"]["efficiency"] = ["photos"]

    with pytest.raises(UserError) as caught:
        matrix(timed)
    assert re.search(r"matrix.yaml, line \d+: suites.mine.efficiency: its rows are those of", str(caught.value))
    assert "declare patrol under `defenses`, bottleneck under `defenses`, off under `cem`" in str(caught.value)
    assert [cell.kind for cell in expand(matrix(alone), "mine", tmp_path)] == ["train", "attack"]


@pytest.mark.parametrize("path", ["defenses.*.noise_std", "defenses.bottleneck.noise_std"])
def test_what_a_suite_sweeps_cannot_be_changed_beside_it(path, tmp_path):
    """All points would have the same value, under the names of several."""
    with pytest.raises(UserError, match=r"the suite 'frontier' sweeps defenses\.\*\.noise_std; leave .* out"):
        expand(MatrixFile(), "frontier", tmp_path, changes=parse_set([f"{path}=0.3"]))
    assert expand(MatrixFile(), "frontier", tmp_path, changes=parse_set(["train.epochs=3"]))


@pytest.mark.parametrize("path", ["cem.weight", "cem.on.weight"])
@pytest.mark.parametrize("swept", ["cem.weight", "cem.on.weight"])
def test_a_sweep_of_cem_is_known_by_either_spelling(matrix, tmp_path, swept, path):
    file = matrix(lambda value: value["suites"]["smoke"].update(sweep={swept: [1, 2]}))
    with pytest.raises(UserError, match=f"the suite 'smoke' sweeps {swept}; leave {path} out"):
        expand(file, "smoke", tmp_path, changes=parse_set([f"{path}=3"]))


@pytest.mark.parametrize(
    ("condition", "text"),
    [
        ({"defense": "patroll"}, "unknown defense 'patroll'; did you mean 'patrol'"),
        ({"cem": ["on", True]}, "unknown cem True; allowed: .*on"),
        ({"seed": "125"}, "seed '125' is not allowed; give whole numbers"),
        ({"defence": "patrol"}, "unknown axis 'defence'; did you mean 'defense'"),
    ],
)
def test_a_condition_that_no_cell_can_meet_is_told(matrix, tmp_path, condition, text):
    """Otherwise an exclusion, an override or a found strength would silently do nothing."""
    for entry in ({"exclude": [condition]}, {"overrides": [{"where": condition, "set": {}}]}):
        with pytest.raises(UserError, match=rf"matrix.yaml, line \d+: {text}"):
            matrix(lambda value, entry=entry: value["suites"]["smoke"].update(entry))
    strengths = tmp_path / "found.yaml"
    strengths.write_text(yaml.safe_dump({"strengths": [{"where": condition, "set": {"train.epochs": 3}}]}))
    with pytest.raises(UserError, match=rf"found.yaml, line \d+: {text}"):
        expand(MatrixFile(), "smoke", tmp_path, changes=parse_set([f"@{strengths}"]))
