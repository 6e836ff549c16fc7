"""The leaderboard: its order on frames written by hand, its two files from a store, names from archives, re-scoring."""

import json
import math
import shutil

import pandas as pd
import pytest

from benchmark.analysis.frame import tidy
from benchmark.analysis.leaderboard import NO_ACCURACY, leaderboard
from benchmark.analysis.stored import stored_cells
from benchmark.departures import told
from benchmark.report.leaderboard import write_leaderboard
from benchmark.store import checksums
from benchmark.store.known import finished_jobs
from benchmark.store.store import Store
from tests.support.command_line import call, copied, finished, place  # noqa: F401 (fixtures)
from tests.support.simulated import simulate

CELL = {"dataset": "cifar10", "cem": "off", "protocol": "corrected", "status": "done", "reason": "", "key": "k"}


def attacked(suite, attacker, mse, seed=1, split="train", beats=1.0, **more):
    base = CELL | {"suite": suite, "defense": "bottleneck", "kind": "attack", "seed": seed}
    base |= {"attacker": attacker, "split": split}
    values = {"mse": mse, "ssim": 0.5, "beats_mean_image": beats}
    return [
        base | {"metric": name, "value": value, "label": "a 1 (published 2)"} | more for name, value in values.items()
    ]


def trained(suite, accuracy, seed=1):
    base = CELL | {"suite": suite, "defense": "bottleneck", "kind": "train", "attacker": "", "split": "", "seed": seed}
    return [base | {"metric": "accuracy_percent", "value": accuracy, "label": ""}]


def board(*rows):
    return leaderboard(tidy(pd.DataFrame([one for row in rows for one in row])), random={"bottleneck"})


def test_ranked_by_the_strongest_attacker_that_sees_one_feature():
    rows = [trained("a", 90.0), attacked("a", "decoder", 0.04), attacked("a", "ridge", 0.02)]
    rows += [attacked("a", name, 0.001) for name in ("ensemble", "queries16", "standard")]
    rows += [trained("b", 80.0), attacked("b", "decoder", 0.03), attacked("b", "ridge", 0.031)]
    found = board(*rows)
    assert list(found["suite"]) == ["b", "a"] and list(found["rank"]) == [1, 2]
    assert list(found["attacker"]) == ["decoder", "ridge"] and list(found["attackers"]) == [2, 2]
    assert list(found["mse"]) == [0.03, 0.02] and list(found["accuracy_percent"]) == [80, 90]
    assert found["frontier"].all() and set(found["label"]) == {"a 1 (published 2)"}
    assert list(found["flags"]) == ["few_draws", "closed_form_wins, decoder_beaten, few_draws"]


def test_what_was_not_tried_on_a_row_gives_it_no_rank():
    """As Dropout, attacked by the decoder alone, led rows on which stronger attackers had been run."""
    rows = [trained("a", 90.0), attacked("a", "decoder", 0.014), attacked("a", "converged", 0.013)]
    rows += [trained("b", 80.0), attacked("b", "decoder", 0.0133)]
    rows += [trained("c", 80.0), attacked("c", "decoder", 0.012), attacked("c", "converged", 0.02)]
    found = board(*rows).set_index("suite")
    assert found["rank"].dropna().to_dict() == {"a": 1, "c": 2}
    assert found["doubt"]["b"] == "not attacked by converged" and not found["frontier"]["b"]
    rare = [attacked("a", "unet", 0.001), *rows]  # run on one of three rows: it lowers that row alone
    assert board(*rare).set_index("suite")["rank"].dropna().to_dict() == {"c": 1, "a": 2}


def test_an_error_on_the_attackers_own_batches_does_not_count():
    """As the GAN's on `train` under quirk q14."""
    rows = [trained("a", 90.0), attacked("a", "decoder", 0.02), attacked("a", "gan", 0.003)]
    own = [row | {"metric": "column_as_named", "value": 0.0} for row in attacked("a", "gan", 0.003)[:1]]
    (line,) = board(*rows, own).to_dict("records")
    assert (line["attacker"], line["mse"], line["attackers"]) == ("decoder", 0.02, 1)
    assert "decoder_beaten" not in line["flags"]


def test_what_another_row_beats_in_both_has_no_star():
    rows = [trained("a", 90.0), attacked("a", "decoder", 0.02), trained("b", 90.0), attacked("b", "decoder", 0.03)]
    rows += [trained("c", 91.0), attacked("c", "decoder", 0.02), trained("d", 91.0), attacked("d", "decoder", 0.02)]
    found = board(*rows).set_index("suite")["frontier"].to_dict()
    assert found == {"a": False, "b": True, "c": True, "d": True}  # c and d are alike, and neither beats the other


def test_what_says_nothing_has_no_rank():
    rows = [trained("blind", 90.0), attacked("blind", "decoder", 0.06, beats=0.0)]
    rows += [trained("chance", 10.0), attacked("chance", "decoder", 0.05), attacked("none", "decoder", 0.04)]
    rows += [trained("sound", 50.0), attacked("sound", "decoder", 0.01)]
    found = board(*rows)
    assert list(found["suite"]) == ["sound", "blind", "chance", "none"]
    assert (
        list(found["rank"])[0] == 1
        and found["rank"][1:].isna().all()
        and list(found["frontier"]) == [True] + [False] * 3
    )
    assert (
        "learnt nothing" in found["doubt"][1] and "at chance" in found["doubt"][2] and found["doubt"][3] == NO_ACCURACY
    )


def test_seeds_are_averaged_and_splits_are_ranked_apart():
    rows = [*(trained("a", value, seed) for seed, value in enumerate((80.0, 82.0)))]
    rows += [attacked("a", "decoder", value, seed) for seed, value in enumerate((0.01, 0.03))]
    rows += [attacked("a", "decoder", 0.05, 0, split="infer")]
    found = board(*rows)
    assert list(found["split"]) == ["train", "infer"] and list(found["rank"]) == [1, 1]
    assert list(found["seeds"]) == [2, 1] and found["mse"][0] == pytest.approx(0.02)
    assert found["accuracy_percent"][0] == 81 and found["mse_half_width"][0] == pytest.approx(12.706 * 0.01, rel=1e-3)
    assert math.isnan(found["mse_half_width"][1])
    assert board(trained("a", 80.0)).empty


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    def rows(value):
        value["suites"]["cifar100"] |= {"defense": ["none", "bottleneck"], "attacker": ["decoder"], "bounds": False}

    return simulate(tmp_path_factory.mktemp("suite"), "cifar100", rows, seeds=(125, 126))


def test_both_files_from_a_store(suite, tmp_path):
    cells, store = suite
    paths = write_leaderboard(store, tmp_path)
    assert [path.name for path in paths] == ["leaderboard.md", "leaderboard.html"]
    text, page = (path.read_text() for path in paths)
    rows = [line for line in text.splitlines() if line.startswith("|") and "made up, for a test" in line]
    assert len(rows) == 2 * 3 and all("| published " in row and "| 240 " in row for row in rows)
    assert text.count("## CIFAR100") == 2 and "Bottleneck+CEM" in text and "few draws" in text
    assert "<script" not in page and "http" not in page and page.count("<tr>") == 2 * 4
    assert write_leaderboard(store, tmp_path)[1].read_text() == page
    assert write_leaderboard(Store(tmp_path / "empty"), tmp_path / "none") == []


def test_a_stronger_setting_of_the_same_attacker_takes_its_place(tmp_path):
    def swept(value):
        value["suites"]["cifar100"] |= {"defense": ["bottleneck"], "attacker": ["decoder"], "bounds": False}
        value["suites"]["cifar100"] |= {"cem": ["off"], "split": ["train"]}
        value["suites"]["cifar100"]["sweep"] = {"attacks.decoder.epochs": [10, 20]}

    cells, store = simulate(tmp_path, "cifar100", swept)
    attacks = {
        job.key: store.metrics(job)["values"]["mse"] for job in finished_jobs(store, print) if job.kind == "attack"
    }
    found = stored_cells(store, print)
    assert len(attacks) == 2 and [cell.attacker for cell in found] == ["", "decoder"]
    assert found[1].job.key == min(attacks, key=attacks.get)
    assert "attacks.decoder.epochs" in str(found[1].departures[0])


def test_what_cannot_be_read_is_told_and_left_out(suite, tmp_path):
    _, store = suite
    shutil.copytree(store.root, tmp_path / "results")
    mine, told = Store(tmp_path / "results"), []
    (broken,) = sorted(mine.root.glob("cifar100/none/decoder-train-*"))[:1]
    (broken / "job.json").write_text("{}")
    (other,) = sorted(mine.root.glob("cifar100/bottleneck/decoder-train-*"))[:1]
    (other / "metrics.json").write_text("{}")
    assert len(stored_cells(mine, told.append)) == len(stored_cells(store, told.append)) - 2
    assert len(told) == 2 and "job.json" in told[0] and "damaged" in told[1]


def test_a_name_goes_along_with_results(copied, tmp_path):  # noqa: F811
    words = ["--results", copied.results]
    file, lab = tmp_path / "mine.tar.gz", tmp_path / "lab"
    for name in ("", " "), ("two\nlines",), ("x" * 81,):
        for one in filter(None, name):
            assert call("store", "export", file, *words, "--by", one).code == 2
    assert call("store", "export", file, *words, "--by", "Ada, Example University").code == 0
    assert call("store", "import", file, "--results", lab).code == 0
    assert call("store", "verify", "--results", lab).code == 0
    store = Store(lab)
    jobs = finished_jobs(store, print)
    assert len(jobs) == 22 and {store.submitter(job) for job in jobs} == {"Ada, Example University"}
    again = tmp_path / "again.tar.gz"
    assert call("store", "export", again, "--results", lab, "--by", "Somebody else").code == 0
    assert {store.submitter(job) for job in jobs} == {"Ada, Example University"}  # who measured it stays
    (store.path(jobs[0]) / checksums.SUBMITTER).write_text('{"by": "Eve"}')
    assert store.submitter(jobs[0]) == ""


def test_results_that_come_with_the_project_are_not_signed(copied, tmp_path):  # noqa: F811
    folders = ["--matrix", copied.matrix, "--data", copied.data, "--results", copied.results]
    assert call("store", "ship", "smoke", *folders, "--where", "defense=dropout").code == 0
    assert call("store", "export", tmp_path / "x.tar.gz", "--results", copied.results, "--by", "Ada").code == 0
    signed = {path.parts[-3].partition("+")[0] for path in copied.results.glob("photos/*/*/submitter.json")}
    assert signed == {"bottleneck", "patrol"}


# -- scored again


@pytest.fixture
def attacks(place):  # noqa: F811
    place.edit(lambda matrix, smoke: smoke.update({"defense": ["bottleneck"], "attacker": ["decoder", "ridge"]}))
    outcome = place.call("run", "--where", "cem=off,split=train")
    assert outcome.code == 0, outcome.err
    return place


def verify(place, results, count=9):  # noqa: F811
    return call("store", "verify", "--rescore", count, "--results", results, "--data", place.data, "--device", "cpu")


def test_numbers_that_follow_from_what_is_there(attacks, tmp_path):
    whole = verify(attacks, attacks.results)
    assert whole.code == 0 and whole.out.count("agrees: ") == 2 and whole.out.count("from the state") == 2, whole
    assert verify(attacks, attacks.results, 1).out.count("agrees: ") == 1
    shared, lab = tmp_path / "x.tar.gz", tmp_path / "lab"
    assert call("store", "export", shared, "--results", attacks.results).code == 0
    assert call("store", "import", shared, "--results", lab).code == 0
    outcome = verify(attacks, lab)  # without weights, the closed form alone
    assert outcome.code == 0 and outcome.out.count("agrees: ") == 1
    assert "ridge-train: computed again from the encoder: mse 0." in outcome.out, outcome
    for folder in lab.glob("photos/bottleneck/ridge-*"):
        shutil.rmtree(folder)
    assert verify(attacks, lab).code == 1 and "nothing can be scored again" in verify(attacks, lab).out


@pytest.mark.parametrize("name", ["mse", "ssim", "mse_of_mean_image"])
def test_a_number_that_was_made_better(attacks, name):
    """With checksums to match: that a store is whole does not say that its numbers are true."""
    (folder,) = attacks.results.glob("photos/bottleneck/ridge-train-*")
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["values"][name] *= 1.1
    (folder / "metrics.json").write_text(json.dumps(metrics))
    checksums.write(folder)
    assert call("store", "verify", "--results", attacks.results).code == 0
    outcome = verify(attacks, attacks.results)
    assert outcome.code == 1 and outcome.out.count("DISAGREES: photos bottleneck seed 125 ridge-train") == 1, outcome


@pytest.mark.parametrize("dataset", ["facescrub", "cifar100"])
def test_images_that_are_not_known_to_be_the_whole_data_set_are_named(tmp_path, dataset):
    """A sample of FaceScrub's people, easier than all of them, stood there as if it were the data set."""
    cells, store = simulate(tmp_path, dataset)
    labels = {label for cell in stored_cells(store, print) for label in told(cell.departures)}
    fingerprint = str(cells[0].job.cell["fingerprint"])[:8]
    named = [label for label in labels if label.startswith("data.fingerprint")]
    assert named == ([f"data.fingerprint {fingerprint} (published unknown)"] if dataset == "facescrub" else [])


def test_other_images_are_told(attacks, tmp_path):
    (folder,) = attacks.results.glob("photos/bottleneck/ridge-train-*")
    (data,) = [attacks.data]
    shutil.copytree(data, tmp_path / "other")
    meta = json.loads((tmp_path / "other" / "photos.json").read_text())
    (tmp_path / "other" / "photos.json").write_text(json.dumps(meta | {"fingerprint": "0" * 64}))
    outcome = call("store", "verify", "--rescore", 1, "--results", attacks.results, "--data", tmp_path / "other")
    assert outcome.code == 1 and "other images than those prepared here" in outcome.out, (outcome, folder)
