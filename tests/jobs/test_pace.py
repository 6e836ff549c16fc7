"""How long jobs may take, learned from the finished jobs that come with the project."""

import json
import re
import shutil
from pathlib import Path

import pytest

from benchmark.jobs import pace
from benchmark.jobs.estimate import work
from benchmark.matrix.expand import expand, jobs
from benchmark.matrix.load import DEFAULT, MatrixFile
from benchmark.store.archive import import_
from benchmark.store.known import finished_jobs
from benchmark.store.store import Store
from benchmark.training import device
from tests.support.command_line import call

SHIPPED = Path(__file__).parents[2] / "results" / "shipped" / "cifar10"
DEVICE = "AMD EPYC, 1 threads"  # on which they ran, as their provenance says
WANTED = {"train", "decoder-train", "decoder-infer"}


@pytest.fixture(scope="module")
def suite(tmp_path_factory) -> list:
    return jobs(expand(MatrixFile(DEFAULT), "cifar10-short", tmp_path_factory.mktemp("data")))


def bottleneck(folder: Path) -> Store:
    """A store below `folder` with all shipped results of the row."""
    found = Store(folder / "results")
    for archive in sorted(SHIPPED.glob("bottleneck.*")):
        import_(found, archive)
    return found


@pytest.fixture
def store(tmp_path, suite) -> Store:
    """The training and the decoder attacks of one row; the archives hold other results."""
    found = bottleneck(tmp_path)
    wanted = {job.key for job in suite if job.what in WANTED}
    for job in finished_jobs(found, print):
        if job.key not in wanted:
            shutil.rmtree(found.path(job))
    return found


def took(store: Store, job) -> float:
    return json.loads((store.path(job) / "provenance.json").read_text())["seconds"]


def test_jobs_like_finished_ones_take_as_long(store, suite):
    learned = pace.learn(store, DEVICE)
    done = {(job.what): job for job in suite if store.done(job)}
    assert set(done) == WANTED and learned.device == DEVICE
    for job in suite:
        assert learned.knows(job)
        if job.what in done and work(job) == work(done[job.what]):
            assert learned.seconds(job) == pytest.approx(took(store, done[job.what])), job.title
    undefended = next(job for job in suite if job.what == "train" and job.cell["defense"]["name"] == "none")
    ratio = work(undefended) / work(done["train"])
    assert learned.seconds(undefended) == pytest.approx(ratio * took(store, done["train"])) and ratio != 1


def test_of_another_device_of_the_same_kind_where_none_ran_on_this_one(store, suite):
    assert pace.learn(store, "A CPU, 3 threads", "cpu").rates == pace.learn(store, DEVICE, "cpu").rates
    nothing = pace.learn(store, "NVIDIA H100", "cuda")
    assert nothing.count == 0 and nothing.rates == {} and not nothing.knows(suite[0])
    assert nothing.seconds(suite[0], 2.0) == 2 * work(suite[0])


def test_a_kind_that_none_has_finished_of_goes_by_what_trainings_and_attacks_took(store, suite, tmp_path):
    """Seconds for all jobs: GFLOP among them made the two efficiency jobs of `smoke` most of its time left."""
    measured = jobs(expand(MatrixFile(DEFAULT), "efficiency", tmp_path))
    learned = pace.learn(store, DEVICE)
    rates = [took(store, job) / work(job) for job in suite if store.done(job)]
    assert {job.kind for job in measured} == {"efficiency"} and all(learned.knows(job) for job in measured)
    for job in measured:
        assert work(job) * min(rates) <= learned.seconds(job) <= work(job) * max(rates)


def change(store: Store, job, name: str, **values) -> None:
    path = store.path(job) / name
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_jobs_that_shared_a_gpu_count_with_their_share(store, suite):
    training = next(job for job in suite if store.done(job))
    change(store, training, "provenance.json", device="a GPU", device_type="cuda", cells_at_once=4)
    assert pace.learn(store, "a GPU", "cuda").seconds(training) == pytest.approx(took(store, training) / 4)


def test_a_choice_among_attacks_says_nothing(tmp_path):
    """Alone on its device, with 25 ms for no work, it made `plan` tell of 14,857 hours a row."""
    store = bottleneck(tmp_path)
    (chosen,) = (job for job in finished_jobs(store, print) if job.what == "standard-infer")
    change(store, chosen, "provenance.json", device="another CPU")
    assert pace.learn(store, "another CPU", "cpu").device == DEVICE


@pytest.mark.parametrize("record", ["{}", "[]", "{", '{"seconds": "long"}', '{"seconds": NaN, "device": "cpu"}'])
def test_what_cannot_be_read_and_what_diverged_says_nothing(store, suite, record):
    """Two results less than there were; how many the archive holds is not for this test to say."""
    before = pace.learn(store, DEVICE).count
    training, attack = [job for job in suite if store.done(job)][:2]
    (store.path(training) / "provenance.json").write_text(record)
    change(store, attack, "metrics.json", status="diverged")
    learned = pace.learn(store, DEVICE)
    assert (
        learned.count == before - 2
        and ("train",) not in learned.rates
        and ("attack", *attack.what.split("-")) not in learned.rates
    )


def test_a_fit_that_another_job_made_is_not_counted_twice(suite):
    title = "cifar10 patrol+cem seed 125 gan-"
    whole, again = (next(work(job) for job in suite if job.title == title + split) for split in ("train", "infer"))
    assert again < 0.01 * whole


def test_plan_tells_what_its_time_rests_on(store, tmp_path, monkeypatch):
    """Two hours and a half a row, as one row took where these results are from, without its GAN attacks 1:56."""
    monkeypatch.setattr(device, "describe", lambda here: DEVICE)
    words = ("--results", store.root, "--data", tmp_path, "--device", "cpu")
    first, *rows, _ = call("plan", "cifar10-short", *words).out.splitlines()
    assert "75 cells, 75 jobs, 3 done; about " in first and " finished jobs took " in first
    hours = [int(re.search(r"about (\d+) h", row)[1]) for row in rows if "0 of 5 done" in row]
    assert len(hours) == 14 and set(hours) <= {2, 3}
    first, *_ = call("plan", "cifar10-short", *words[2:], "--results", tmp_path / "none").out.splitlines()
    assert "(rough: from half a second of measuring, as nothing like 75 of the jobs has finished)" in first
