"""Models that the paper's authors published: their files, what their paths say, and attacks on them end to end."""

import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from benchmark import data
from benchmark.analysis import published
from benchmark.errors import UserError
from benchmark.jobs import run_job
from benchmark.matrix.cells import Job
from benchmark.models import build
from benchmark.released import files, names
from benchmark.report.page import build as page
from benchmark.training import checkpoint
from tests.support.command_line import call
from tests.support.formula import ORACLES, fill, relative

SAMPLE = ORACLES / "released"
STRENGTHS = (
    "pretrain_False_lambd_{lambd}_noise_{noise}_epoch_240_bottleneck_noRELU_C8S1_log_1_ATstrength_0.3_lr_0.05"
    "_varthres_0.125"
)
NOBODY = names.Told()


def path(option="gan_adv_step1", lambd="16", noise="0.025", dataset="photos") -> Path:
    strengths = STRENGTHS.format(lambd=lambd, noise=noise)
    return Path("saves", dataset, f"{option}_infocons_sgm_lg1_thre0.125", strengths)


def sample(place: Path) -> Path:
    place.mkdir(parents=True)
    shutil.copy(SAMPLE / files.ENCODER, place)
    return place


def save_server(server: nn.Sequential, place: Path) -> None:
    """As published: up to the last pool one file, numbered from 0, and the classifier another."""
    state = server.state_dict()
    cloud = {name: value for name, value in state.items() if int(name.partition(".")[0]) < 22}
    classifier = {}
    for name, value in state.items():
        number, _, rest = name.partition(".")
        if int(number) > 22:
            classifier[f"{int(number) - 23}.{rest}"] = value
    assert {name.partition(".")[0] for name in classifier} == {"1", "4", "6"}
    for name, content in zip(files.SERVER, (cloud, classifier), strict=True):
        torch.save(content, place / name)


def run(folder, place: Path, *more):
    tiny = ["attacks.*.blocks=1", "data.train_images=24", "data.test_images=20", "attacks.*.batch_size=9"]
    tiny += ["attacks.*.epochs=1", "train.precision=fp32"]
    folders = ["--data", place / "data", "--results", place / "results", "--tables", place / "tables"]
    sets = [word for text in tiny for word in ("--set", text)]
    words = ["--dataset", "photos", "--suite", "smoke", "--cells-per-gpu", 1]
    return call("attack-released", folder, *words, *folders, *sets, *more)


# -- the files


def test_the_sample_gives_the_features_of_the_released_code_and_a_server_comes_back(tmp_path):
    """The sample's own server is not there; that of the oracles, saved as published, stands in for it."""
    model = build("vgg11", 10, 32).eval()
    fill(model.server, "server", "classifier")
    place = sample(tmp_path / "model")
    save_server(model.server, place)
    fresh = build("vgg11", 10, 32, seed=1).eval()
    checksums = files.digests(place)
    files.fill(fresh.encoder, files.read(place / files.ENCODER, checksums[files.ENCODER]), "encoder")
    server = [tensor for name in files.SERVER for tensor in files.read(place / name, checksums[name]).items()]
    files.fill(fresh.server, {f"{at} {name}": tensor for at, (name, tensor) in enumerate(server)}, "server")
    facts = data.DATASETS.get("cifar10")
    with np.load(SAMPLE / "expected.npz") as expected, torch.no_grad():
        feature = fresh.encoder(data.normalise(torch.from_numpy(expected["images01"]), facts.mean, facts.std))
        assert relative(feature, expected["feature"]) < 1e-5
    with torch.no_grad():
        assert torch.equal(fresh.server(feature), model.server(feature))


def test_the_order_of_the_layers_counts_not_that_of_the_file(tmp_path):
    tensors = torch.load(SAMPLE / files.ENCODER, weights_only=True)
    layers = sorted({name.partition(".")[0] for name in tensors}, key=int, reverse=True)
    turned = {name: tensors[name] for layer in layers for name in tensors if name.startswith(f"{layer}.")}
    assert list(turned) != list(tensors)
    torch.save(turned, tmp_path / files.ENCODER)
    assert list(files.read(tmp_path / files.ENCODER, files.digests(tmp_path)[files.ENCODER])) == list(tensors)


class Program:
    """What a pickle can be: unpickled, it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("what", ["module", "program", "junk", "empty", "cut", "list", "numbers", "sparse"])
def test_what_is_no_plain_state_dict_is_refused_in_one_sentence(what, tmp_path):
    file, trace = tmp_path / files.ENCODER, tmp_path / "trace"
    whole = (SAMPLE / files.ENCODER).read_bytes()
    if what in ("junk", "empty", "cut"):
        file.write_bytes({"junk": b"no file of torch", "empty": b"", "cut": whole[: len(whole) // 2]}[what])
    else:
        content = {
            "module": nn.Sequential(nn.Conv2d(3, 64, 3)),
            "program": Program(trace),
            "list": [torch.zeros(3)],
            "numbers": {"0.weight": 3.0},
            "sparse": {"0.weight": torch.eye(3).to_sparse()},
        }[what]
        torch.save(content, file)
    with pytest.raises(UserError) as told:
        files.read(file, files.digests(tmp_path)[files.ENCODER])
    assert str(file) in str(told.value) and "\n" not in str(told.value)
    assert ("docs/DATA.md" in str(told.value)) == (what in ("module", "program"))
    assert not trace.exists()


@pytest.mark.parametrize("change", ["shape", "leaf", "more", "fewer", "nan"])
def test_an_encoder_that_does_not_fit_is_named(change):
    tensors = torch.load(SAMPLE / files.ENCODER, weights_only=True)
    if change == "shape":
        tensors["8.weight"], wanted = tensors["8.weight"][:, :64], r"'8.weight' \[8, 64, 3, 3\]"
    elif change == "leaf":
        tensors = {name.replace("0.weight", "0.w"): value for name, value in tensors.items()}
        wanted = "'0.w'"
    elif change == "more":
        tensors["9.weight"], wanted = torch.zeros(3), "no further tensor"
    elif change == "fewer":
        del tensors["8.bias"]
        wanted = "it has no further tensor"
    else:
        tensors["8.bias"][0], wanted = torch.nan, "'8.bias' has values that are not finite"
    with pytest.raises(UserError, match=wanted):
        files.fill(build("vgg11", 10, 32).encoder, tensors, "the file")


def test_half_a_server_is_refused(tmp_path):
    place = sample(tmp_path / "model")
    (place / files.SERVER[0]).touch()
    with pytest.raises(UserError, match="no checkpoint_classifier_best.tar"):
        files.digests(place)


def test_the_documented_conversion_makes_a_readable_file(tmp_path):
    """The program of docs/DATA.md, run here on a module of torch's own, with the folders of its sandbox replaced."""
    text = (Path(__file__).parents[2] / "docs" / "DATA.md").read_text()
    (program,) = (block for block in re.findall(r"```python\n(.*?)```", text, flags=re.S) if "state_dict" in block)
    pruned = build("vgg11", 10, 32, front=16, widths=(16, 60, 121, 8)).encoder
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir(), target.mkdir()
    torch.save(nn.Sequential(*pruned), source / files.ENCODER)
    program = program.replace('"/in"', repr(str(source))).replace('"/out"', repr(str(target)))
    subprocess.run([sys.executable, "-c", program], check=True)
    tensors = files.read(target / files.ENCODER, files.digests(target)[files.ENCODER])
    assert files.widths(tensors) == [16, 60, 121, 8]
    files.fill(build("vgg11", 10, 32, front=16, widths=(16, 60, 121, 8), seed=1).encoder, tensors, "converted")


# -- what the paths say


@pytest.mark.parametrize(
    "option, lambd, defense, cem, some",
    [
        ("None", "0", "bottleneck", "off", {"defenses.bottleneck.noise_std": 0.025}),
        ("gan_adv_step1", "16", "ressfl", "on", {"defenses.ressfl.weight": 0.3, "cem.weight": 16}),
        ("dropout0.2", "8", "dropout", "on", {"defenses.dropout.rate": 0.2, "cem.weight": 8, "cem.threshold": 0.125}),
        ("nopeek", "0", "distcorr", "off", {"defenses.distcorr.weight": 0.03}),
        ("gan_adv_step1_pruning180", "16", "patrol", "on", {"defenses.patrol.prune_at": 0.75, "train.epochs": 240}),
    ],
)
def test_strengths_of_a_path(option, lambd, defense, cem, some):
    row = names.parse(path(option, lambd, dataset="cifar100"), "cifar100", NOBODY)
    assert (row.defense, row.cem, row.noise) == (defense, cem, 0.025)
    assert some.items() <= row.values.items()
    assert bool(row.doubt) == (defense in ("ressfl", "distcorr"))


def test_the_epoch_of_pruning_is_the_released_one_and_none_beyond_the_last():
    """190 of 240 epochs have no short decimal fraction; TinyImageNet's models had 120 epochs."""
    row = names.parse(path("gan_adv_step1_pruning190", dataset="cifar100"), "cifar100", NOBODY)
    assert math.ceil(row.values["defenses.patrol.prune_at"] * row.values["train.epochs"]) == 190
    late = names.parse(path("gan_adv_step1_pruning250", dataset="cifar100"), "cifar100", NOBODY)
    assert late.defense == "patrol" and "defenses.patrol.prune_at" not in late.values
    assert late.doubt == "its path names no epoch of pruning within its training"


def test_distance_correlation_weighs_ten_times_as_much_on_cifar10():
    row = names.parse(path("nopeek", dataset="cifar10"), "cifar10", NOBODY)
    assert row.values["defenses.distcorr.weight"] == 0.3


def test_the_user_tells_apart_what_the_path_cannot():
    user = names.told(["noise_0.1=noise_arl", "bottleneck"], None, None)
    weak, strong = (names.parse(path(noise=noise), "photos", user) for noise in ("0.025", "0.1"))
    assert (weak.defense, strong.defense) == ("bottleneck", "noise_arl")
    assert strong.values["defenses.noise_arl.weight"] == 0.3 and not strong.doubt


@pytest.mark.parametrize(
    "place, user, wanted",
    [
        (Path("models/mine"), NOBODY, "does not say the row's defence, CEM, noise; say it by options"),
        (path("SCA_new"), NOBODY, "the row's defence;"),
        (path(noise="x"), NOBODY, "the row's noise;"),
        (path(noise="1e999"), NOBODY, "has noise '1e999', which is no number"),
        (path(), names.Told(noise=0.1), "--noise 0.1: the path .* says 0.025"),
        (path(), names.Told(cem="off"), "--cem off: the path .* says on"),
        (path(dataset="cifar100"), NOBODY, "is of cifar100, but --dataset is photos"),
        (Path(str(path()).replace("noRELU_C8S1", "C4S2")), NOBODY, "the bottleneck 'C4S2'"),
    ],
)
def test_a_path_that_does_not_do_is_told(place, user, wanted):
    with pytest.raises(UserError, match=wanted):
        names.parse(place, "photos", user)


def test_an_unknown_path_with_everything_said():
    row = names.parse(Path("models/mine"), "photos", names.told(["dropout"], "on", 0.1))
    assert (row.defense, row.cem, row.values) == ("dropout", "on", {"defenses.dropout.noise_std": 0.1})


# -- from end to end


@pytest.mark.usefixtures("no_pdfs")
@pytest.mark.slow
def test_a_folder_of_models_becomes_a_table(tmp_path):
    """One with its server and without noise, whose accuracy is then exact; one as the sample is, the encoder alone."""
    place = sample(tmp_path / path("None", "0", "0.0"))
    sample(tmp_path / path())
    model = build("vgg11", 6, 32, seed=3).eval()
    save_server(model.server, place)
    outcome = run(tmp_path / "saves", tmp_path)
    assert outcome.code == 0, outcome.err
    assert "its option is that of noise_arl as well" in outcome.err

    frame = pd.read_csv(tmp_path / "tables" / "released-photos" / "results.csv", keep_default_na=False)
    assert set(frame["suite"]) == {"released"} and set(frame["defense"]) == {"bottleneck", "ressfl"}
    mse = frame[frame["metric"] == "mse"]
    assert len(mse) == 2 * 2 * 2 and (mse["status"] == "done").all()
    assert set(zip(mse["defense"], mse["cem"], strict=True)) == {("bottleneck", "off"), ("ressfl", "on")}
    assert not frame["label"].str.contains(r"train\.|defense\.").any() and frame["label"].str.contains("epochs 1").any()

    accuracy = frame[frame["metric"] == "accuracy_percent"].set_index("defense")
    images = data.subset(data.load("photos", tmp_path / "data"), 24, 20)
    files.fill(model.encoder, torch.load(SAMPLE / files.ENCODER, weights_only=True), "sample")
    with torch.no_grad():
        logits = model(data.normalise(data.to_unit(images.test.images), images.mean, images.std))
    expected = 100 * float((logits.argmax(1) == images.test.labels).double().mean())
    assert float(accuracy.loc["bottleneck", "value"]) == expected
    assert "the encoder alone" in accuracy.loc["ressfl", "reason"]

    (folder,) = (tmp_path / "results").glob("photos/ressfl+cem/train-*")
    record = json.loads((folder / "provenance.json").read_text())["released"]
    assert record["files"] == files.digests(SAMPLE) and record["folder"].startswith("gan_adv_step1_infocons")
    listing = (tmp_path / "tables" / "released-photos" / "released.md").read_text()
    assert f"{expected:.2f}" in listing and record["files"][files.ENCODER] in listing
    assert call("store", "verify", "--results", tmp_path / "results").out.startswith("10 finished jobs: 10 intact")

    again = run(tmp_path / "saves", tmp_path)
    assert again.code == 0 and "10 of 10 jobs are in the store already" in again.err

    shutil.rmtree(folder)  # never trained in place of what was read
    assert run(tmp_path / "saves", tmp_path).code == 0 and (folder / "encoder.safetensors").is_file()


def test_two_folders_of_one_row_stay_apart(tmp_path):
    for noise in ("0.025", "0.1"):
        sample(tmp_path / path("dropout0.2", noise=noise))
    outcome = run(tmp_path / "saves", tmp_path, "--where", "attacker=decoder,split=infer")
    assert outcome.code == 0, outcome.err
    frame = pd.read_csv(tmp_path / "tables" / "released-photos" / "results.csv")
    assert frame["suite"].nunique() == 2 and len(set(frame[frame["metric"] == "mse"]["value"])) == 2


@pytest.mark.parametrize(
    "more, wanted",
    [
        (["--noise", "-1"], "give a standard deviation"),
        (["--where", "defense=patrol"], "rows are chosen by the folder"),
        (["--defense", "patrol"], "is no encoder of the row patrol: widths"),
        (["--defense", "nothing"], "nothing"),
        (["--set", "model.cut=c1"], "is no encoder of the row ressfl"),
    ],
)
def test_bad_input_is_one_sentence(more, wanted, tmp_path):
    sample(tmp_path / path())
    outcome = run(tmp_path / "saves", tmp_path, *more)
    assert outcome.code == 2 and wanted in outcome.err and len(outcome.err.splitlines()) == 1, outcome.err


def test_a_folder_without_models_is_told(tmp_path):
    for folder in (tmp_path, tmp_path / "gone"):
        outcome = run(folder, tmp_path)
        assert outcome.code == 2 and "checkpoint_f_best.tar" in outcome.err


def test_rows_stand_beside_the_printed_ones(tmp_path, monkeypatch):
    """The printed CIFAR-10 rows stand in as those of the embedded images, which are in no table of the paper."""
    printed = published.load().query("dataset == 'cifar10'").assign(dataset="photos")
    monkeypatch.setattr(published, "_load", lambda: printed)
    # it is kept for the process: neither what an earlier test read nor what this one reads may stay
    monkeypatch.setattr(page, "_audit", page._audit.__wrapped__)
    sample(tmp_path / path())
    outcome = run(tmp_path / "saves", tmp_path, "--where", "attacker=decoder,split=infer", "--no-plots")
    assert outcome.code == 0, outcome.err
    value = printed.query("defense == 'ressfl' and cem == 'on' and attacker == 'decoder' and split == 'infer'")
    value = value.set_index("metric")["value"]
    line = next(line for line in outcome.out.splitlines() if " mse " in line and "ResSFL+CEM" in line)
    assert f"{value['mse']:.4f}" in line
    listing = (tmp_path / "tables" / "released-photos" / "released.md").read_text()
    accuracy = printed.query("defense == 'ressfl' and cem == 'on' and metric == 'accuracy_percent'")["value"].iloc[0]
    assert f"{accuracy:.2f}" in listing


@pytest.mark.parametrize("arch, widths", [("vgg11", (16, 60, 121, 8)), ("resnet20", None)])
def test_other_encoders(arch, widths, tmp_path):
    """A converted row with pruning, and the other network, as their state_dicts are."""
    place = tmp_path / path("gan_adv_step1_pruning180" if widths else "None", "0" if widths is None else "16")
    place.mkdir(parents=True)
    model = build(arch, 6, 32, front=16 if widths else None, widths=widths, seed=3)
    torch.save(model.encoder.state_dict(), place / files.ENCODER)
    outcome = run(
        *(tmp_path / "saves", tmp_path, "--no-plots", "--set", f"model.arch={arch}"),
        *("--where", "attacker=decoder,split=infer"),
    )
    assert outcome.code == 0, outcome.err
    (encoder,) = (tmp_path / "results").glob("photos/*/train-*/encoder.safetensors")
    stored = checkpoint.load(encoder)
    assert stored["widths"] == list(model.encoder.widths)
    assert all(torch.equal(tensor, stored["weights"][name]) for name, tensor in model.encoder.state_dict().items())


def test_a_released_model_is_never_trained():
    with pytest.raises(UserError, match="is read, not trained"):
        run_job._train(Job("train", {"released": {}}), None, None, None, None)
