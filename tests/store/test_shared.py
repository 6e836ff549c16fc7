"""A store and data that several people share: who may read what, and what is said to who may not."""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmark import data
from benchmark.analysis.convergence import read_losses
from benchmark.errors import Unreadable, UserError
from benchmark.files import whole
from benchmark.jobs.attempt import attempt
from benchmark.matrix.cells import Job
from benchmark.store.known import finished_jobs
from benchmark.store.store import Store
from benchmark.training import checkpoint, loop
from tests.support.command_line import Place, call, copied, finished, place  # noqa: F401 (fixtures)

ONE = ("--where", "defense=bottleneck,cem=off,attacker=decoder,split=infer")


@contextlib.contextmanager
def umask(mask: int):
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@contextlib.contextmanager
def somebody_else():
    """While the block runs, this process may read and write what nobody in particular may."""
    if os.geteuid() != 0:
        pytest.skip("only root may become somebody else")
    os.setegid(65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@pytest.fixture
def open_folder():
    """A folder that everybody may enter, which pytest's own are not."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o027, 0o640), (0o077, 0o600)])
def test_whoever_the_umask_lets_reads_tensors_too(tmp_path, mask, mode):
    with umask(mask):
        checkpoint.save(tmp_path / "x.safetensors", {"a": torch.zeros(3)})
        with whole(tmp_path / "y") as temporary:
            temporary.write_text("")
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {mode}


def test_all_files_of_a_run(place):  # noqa: F811
    """Results, tensors, locks, tables, prepared data: as one user's, so the group's."""
    place = Place(place.folder, place.folder / "data")  # noqa: F811
    with umask(0o002):
        for command in ("run", "report"):
            assert place.call(command, *ONE).code == 0
        assert call("store", "export", place.folder / "x.tar.gz", "--results", place.results).code == 0
    made = [path for folder in (place.results, place.tables, place.data) for path in folder.rglob("*")]
    made.append(place.folder / "x.tar.gz")
    assert any(path.suffix == ".safetensors" for path in made)
    for path in made:
        assert path.stat().st_mode & 0o777 == (0o775 if path.is_dir() else 0o664), path


def test_what_may_not_be_read_is_not_called_missing_or_damaged(open_folder):
    """Nothing is set aside, nothing run again: the file may well be whole."""
    saved, history = open_folder / "state.safetensors", open_folder / "history.csv"
    checkpoint.save(saved, {"a": torch.zeros(3)})
    history.write_text("epoch,loss\n1,2\n")
    data.load("photos", open_folder)
    prepared = [open_folder / "photos.safetensors", open_folder / "photos.json"]
    for path in (saved, history, *prepared):
        path.chmod(0o600)
    task = type("Task", (), {"where": {}})()
    with somebody_else():
        for read in (
            lambda: checkpoint.load(saved),
            lambda: loop._read(saved, task, loop.Silent()),
            lambda: read_losses(history),
            lambda: data.load("photos", open_folder),
        ):
            with pytest.raises(Unreadable, match="cannot read .*Permission denied.*see to the file's rights"):
                read()
    assert saved.exists() and all(path.exists() for path in prepared)
    assert not list(open_folder.glob("*.damaged"))


@pytest.mark.parametrize("name", ["checkpoint.safetensors", "history.csv", "metrics.json"])
def test_a_colleagues_store(finished, open_folder, name):  # noqa: F811
    """Readable but for one file: every command that needs it names it, and none changes anything."""
    shutil.copytree(finished.results, open_folder / "results")
    shutil.copytree(finished.data, open_folder / "data")
    shutil.copy(finished.matrix, open_folder / "matrix.yaml")
    colleague = Place(open_folder, open_folder / "data")
    (path,) = colleague.results.glob(f"photos/dropout/train-*/{name}")
    for some in (open_folder, *open_folder.rglob("*")):
        some.chmod(0o777 if some.is_dir() else 0o666)
    path.chmod(0o600)
    (needs,) = colleague.results.glob("photos/dropout/decoder-train-*/metrics.json")
    needs.unlink()
    before = {some: some.read_bytes() for some in colleague.results.rglob("*") if some.is_file()}
    with somebody_else():
        ran = colleague.call("run")
        verified = call("store", "verify", "--results", colleague.results)
    assert ran.code == 2 and f"cannot read {path}" in ran.err and "again" in ran.err and "Traceback" not in ran.err
    assert verified.code == 1 and f"unreadable: cannot read {path}" in verified.out
    assert {some: some.read_bytes() for some in colleague.results.rglob("*") if some.is_file()} == before


@pytest.mark.parametrize("depth", [0, 1, 2, 3], ids=["store", "data set", "row", "job"])
def test_a_folder_that_may_not_be_read_is_not_called_empty(open_folder, depth):
    """In a store that is otherwise readable: `verify` goes on and tells, whatever packs or removes stops."""
    store = Store(open_folder / "results")
    jobs = [
        Job("train", {"dataset": "photos", "defense": {"name": name}, "cem": None, "seed": 1}) for name in ("a", "b")
    ]
    for job in jobs:
        with store.claim(job):
            store.finish(job, {"status": "done", "reason": "", "values": {}}, {})
    for words in (("verify",), ("export", open_folder / "all.tar.gz")):  # this also imports what they need
        assert call("store", *words, "--results", store.root).code == 0
    closed = [store.path(jobs[0]), *store.path(jobs[0]).parents][3 - depth]
    closed.chmod(0o700)
    with somebody_else():
        verified = call("store", "verify", "--results", store.root)
        exported = call("store", "export", open_folder / "x.tar.gz", "--results", store.root)
        said = []
        known = finished_jobs(store, said.append)
        for ask in (store.done, store.status):
            with pytest.raises(Unreadable, match="cannot read"):
                ask(jobs[0])
    assert exported.code == 2 and f"cannot read {closed}" in exported.err, exported
    assert verified.code == (1 if depth else 2) and f"cannot read {closed}" in verified.out + verified.err, verified
    assert len(said) == 1 and str(closed) in said[0] and known == (jobs[1:] if depth > 1 else [])
    closed.chmod(0o755)


def test_a_row_of_somebody_else_is_told_before_anything_is_computed(open_folder):
    """Even where .work is everybody's."""
    job = Job("train", {"dataset": "photos", "defense": {"name": "none"}, "cem": None, "seed": 1})
    store = Store(open_folder / "results")
    store.work.mkdir(parents=True)
    store.work.chmod(0o777)
    for folder in (store.root, store.root / "photos", store.root / "photos" / "none"):
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
        with somebody_else():
            store.check_writable()
            with pytest.raises(
                UserError, match=f"cannot write .*{folder}: .*Permission denied.*choose another --results"
            ):
                store.check_writable([job])
            machine, display = SimpleNamespace(store=store), SimpleNamespace()  # of which nothing is asked
            outcome = attempt(job, machine, display, lambda: False)
        assert outcome.kind == "fatal" and f"cannot write {folder}" in outcome.text
        folder.chmod(0o777)
    with somebody_else():
        store.check_writable([job])
    assert not list(store.root.rglob("*/*/*")) and not list(store.work.iterdir())


def test_processes_of_the_same_number(tmp_path, monkeypatch):
    """Each container begins to count at 1: what is written for the time being is not named by that."""
    monkeypatch.setattr(os, "getpid", lambda: 7)
    store = Store(tmp_path)
    store.check_writable()
    (tmp_path / ".work" / ".probe-7").mkdir()
    store.check_writable()
    with whole(tmp_path / "x") as one, whole(tmp_path / "x") as other:
        one.write_text("one"), other.write_text("other")
    assert (tmp_path / "x").read_text() == "one"  # written last, and whole
