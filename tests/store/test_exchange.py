"""Verifying, tidying and exchanging results, by the command line; archives from strangers."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile

import pytest

from benchmark.store import hygiene
from benchmark.store.store import Store
from tests.support.command_line import call, copied, finished, place  # noqa: F401 (fixtures)


def reseal(folder):
    """Write the checksums of a result anew, as somebody who changed it on purpose would."""
    names = sorted(path.name for path in folder.iterdir() if path.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (folder / "SHA256SUMS").write_text("".join(lines))


def contents(folder) -> dict:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# -- verify


def test_verify_finds_everything_as_it_was_written(finished):  # noqa: F811
    outcome = call("store", "verify", "--results", finished.results)
    expected = "22 finished jobs: 22 intact (0 of them without their weights), 0 with no checksums, 0 damaged\n"
    assert (outcome.code, outcome.out) == (0, expected)
    for folder in finished.results.glob("*/*/*"):  # the list is what the usual tool reads, and whole
        names = {line.split()[1] for line in (folder / "SHA256SUMS").read_text().splitlines()}
        assert names == {path.name for path in folder.iterdir()} - {"SHA256SUMS"}
        subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=folder, check=True)


def test_verify_lists_what_is_damaged_and_nothing_else(copied):  # noqa: F811
    folders = sorted(copied.results.glob("photos/*/decoder-*"))
    (folders[0] / "log.txt").write_text("rewritten")
    (folders[1] / "history.csv").unlink()
    (folders[2] / "checkpoint.safetensors").unlink()  # git leaves weights out
    (folders[3] / "checkpoint.safetensors").write_bytes(b"but these are not what was there")
    (folders[4] / "SHA256SUMS").unlink()
    shutil.copy(folders[6] / "job.json", folders[5] / "job.json")
    reseal(folders[5])  # whole, but another job's
    outcome = call("store", "verify", "--results", copied.results)
    damaged = [line for line in outcome.out.splitlines() if line.startswith("damaged: ")]
    assert outcome.code == 1 and len(damaged) == 4, outcome.out
    wanted = {0: "log.txt was altered", 1: "history.csv is missing", 3: "checkpoint.safetensors was altered"}
    for index, text in (wanted | {5: "job.json describes another job"}).items():
        assert any(f"{folders[index]}/{text}" in line for line in damaged), (index, damaged)
    assert "17 intact (1 of them without their weights), 1 with no checksums, 4 damaged" in outcome.out


def test_verify_of_nothing(tmp_path):
    outcome = call("store", "verify", "--results", tmp_path / "none")
    assert outcome.code == 2 and "there is no results folder" in outcome.err


# -- export and import


def test_two_labs_exchange_and_compare(copied, finished, tmp_path):  # noqa: F811
    """Exported, imported into an empty store, reported: the same tables; the other lab's own number differs: told."""
    for name in ("one.tar.gz", "two.tar.gz"):
        words = ["--suite", "smoke", "--matrix", copied.matrix, "--data", copied.data, "--results", copied.results]
        outcome = call("store", "export", tmp_path / name, *words)
        assert outcome.code == 0 and "22 jobs" in outcome.out, outcome.err
        os.utime(next(copied.results.glob("*/*/*/log.txt")))  # times are not part of it
    archive = tmp_path / "one.tar.gz"
    assert archive.read_bytes() == (tmp_path / "two.tar.gz").read_bytes()
    with tarfile.open(archive) as listed:
        names = listed.getnames()
    weights = {name.rpartition("/")[2] for name in names if name.endswith(".safetensors")}
    assert weights == {"encoder.safetensors"}

    lab = tmp_path / "lab"
    outcome = call("store", "import", archive, "--results", lab)
    assert (outcome.code, outcome.out) == (0, "22 jobs imported, 0 were here already, 0 differ\n")
    assert "22 intact (20 of them without" in call("store", "verify", "--results", lab).out
    assert "done        22" in copied.call("status", "--results", lab).out
    for name, results in (("ours", copied.results), ("theirs", lab)):
        assert copied.call("report", "--results", results, "--tables", tmp_path / name).code == 0
    for path in (tmp_path / "ours" / "smoke").glob("photos-[ms]*.md"):  # others need the tensors as well
        assert path.read_bytes() == (tmp_path / "theirs" / "smoke" / path.name).read_bytes()
    assert call("store", "import", archive, "--results", lab).out == (
        "0 jobs imported, 22 were here already, 0 differ\n"
    )

    (changed,) = lab.glob("photos/dropout/decoder-infer-*")
    metrics = json.loads((changed / "metrics.json").read_text())
    metrics["values"]["mse"] *= 1.5
    (changed / "metrics.json").write_text(json.dumps(metrics))
    reseal(changed)
    before = contents(lab)
    outcome = call("store", "import", archive, "--results", lab)
    assert outcome.code == 1 and "1 differ" in outcome.out and str(changed.relative_to(lab)) in outcome.out
    assert contents(lab) == before  # nothing is overwritten, nothing left behind
    outcome = copied.call("diff", "--results", lab, "--against", tmp_path / "ours" / "smoke", "--tolerance", "mse=0.1")
    assert outcome.code == 1 and "1 beyond" in outcome.out


def test_with_weights_and_without_checksums(copied, tmp_path):  # noqa: F811
    for path in copied.results.glob("*/*/*/SHA256SUMS"):
        path.unlink()
    results = contents(copied.results)
    for folder in copied.results.glob("*/*/*"):
        for stray in ("notes.md", ".DS_Store", "lock.json", "my notes.txt"):
            (folder / stray).write_text("no part of it")
    outcome = call("store", "export", tmp_path / "x.tar.gz", "--weights", "--results", copied.results)
    assert outcome.code == 0, outcome.err
    assert call("store", "import", tmp_path / "x.tar.gz", "--results", tmp_path / "lab").code == 0
    assert "22 intact (0 of them" in call("store", "verify", "--results", tmp_path / "lab").out
    theirs = {name: content for name, content in contents(tmp_path / "lab").items() if name.name != "SHA256SUMS"}
    assert theirs == results


def test_an_import_that_gc_meets(one, tmp_path, monkeypatch):
    members, folder, attempt = one
    real = Store.publish

    def publish(store, new, final):
        for item in hygiene.waste(store, []):
            hygiene.remove(store, item)
        real(store, new, final)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "publish", publish)
        outcome = attempt(members)
    assert outcome.code == 2 and "removed meanwhile (store gc?); import again" in outcome.err, outcome
    assert attempt(members).out.startswith("1 jobs imported, 0 were here already, 0 differ")


@pytest.mark.parametrize("name", ["x.zip", "x", "x.tar", "x.gz", "tar.gz.zip"])
def test_an_archive_is_called_what_it_is(finished, tmp_path, name):  # noqa: F811
    outcome = call("store", "export", tmp_path / name, "--results", finished.results)
    assert outcome.code == 2 and "give it a name that ends in .tar.gz" in outcome.err and outcome.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_what_is_damaged_is_not_exported(copied, tmp_path):  # noqa: F811
    path = sorted(copied.results.glob("*/*/*/metrics.json"))[0]
    path.write_text(path.read_text().replace("0", "1"))
    outcome = call("store", "export", tmp_path / "x.tar.gz", "--results", copied.results)
    assert outcome.code == 2 and f"{path} was altered" in outcome.err and list(tmp_path.glob("*x.tar.gz*")) == []


@pytest.fixture
def one(finished, tmp_path):  # noqa: F811
    """{member: content} of an archive of one job, its folder below the results, and how to import a changed one."""
    call("store", "export", tmp_path / "all.tar.gz", "--results", finished.results)
    with tarfile.open(tmp_path / "all.tar.gz") as archive:
        members = {member.name: archive.extractfile(member).read() for member in archive}
    folder = next(name.rpartition("/")[0] for name in members if "/dropout/decoder-infer" in name)

    def attempt(changed, links=()):
        with tarfile.open(tmp_path / "changed.tar.gz", "w:gz") as archive:
            for name, content in changed.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
            for name, target in links:
                member = tarfile.TarInfo(name)
                member.type, member.linkname = tarfile.SYMTYPE, target
                archive.addfile(member)
        return call("store", "import", tmp_path / "changed.tar.gz", "--results", tmp_path / "lab" / "results")

    return {name: content for name, content in members.items() if name.startswith(folder)}, folder, attempt


def test_archives_of_strangers(one, tmp_path):
    members, folder, attempt = one
    key = {"metrics.json": members[f"{folder}/metrics.json"].replace(b"0", b"1")}

    def without(name):
        return {path: content for path, content in members.items() if path != f"{folder}/{name}"}

    other = folder[:-1] + ("0" if folder[-1] != "0" else "1")
    cases = [
        (members | {f"{folder}/metrics.json": key["metrics.json"]}, "was altered"),
        (without("metrics.json"), "metrics.json"),
        (without("SHA256SUMS"), "has no checksum"),
        (without("history.csv"), "history.csv is missing"),
        (without("job.json"), "job.json"),
        (members | {f"{folder}/more.json": b"{}"}, "more.json has no checksum"),
        (members | {f"{folder}/run.py": b"import os"}, "run.py', which is no file of a result"),
        (members | {f"{folder}/deeper/log.txt": b""}, "no file of a result"),
        (members | {"log.txt": b""}, "no file of a result"),
        (members | {".work/x/y/log.txt": b""}, "no file of a result"),
        (members | {"../../escaped.txt": b""}, "outside of it"),
        (members | {f"{folder}/../../../../escaped.txt": b""}, "outside of it"),
        (members | {str(tmp_path / "escaped.txt"): b""}, "outside of it"),
        ({path.replace(folder, other): content for path, content in members.items()}, "describes another job"),
        (members | {f"{folder}/SHA256SUMS": b"nonsense"}, "not a list of checksums"),
        (members | {f"{folder}/log.txt": bytes(200 << 20)}, "far more than its size"),
        ({}, "no results"),
    ]
    for changed, text in cases:
        outcome = attempt(changed)
        assert outcome.code == 2 and text in outcome.err and "Traceback" not in outcome.err, (text, outcome)
    for name in (f"{folder}/link.txt", "photos", f"{folder}/metrics.json"):
        outcome = attempt(members, [(name, "/etc/passwd")])
        assert outcome.code == 2 and "link" in outcome.err, outcome
    assert list(tmp_path.rglob("escaped*")) == []
    assert list((tmp_path / "lab").rglob("*.*")) == [tmp_path / "lab" / "results" / ".work"]
    assert attempt(members).code == 0  # and as it was, it is taken


@pytest.mark.parametrize("content", [b"", b"no archive", b"\x1f\x8b\x08\x00", b"PK\x03\x04"])
def test_no_archives(tmp_path, content):
    (tmp_path / "x.tar.gz").write_bytes(content)
    outcome = call("store", "import", tmp_path / "x.tar.gz", "--results", tmp_path / "lab")
    assert outcome.code == 2 and outcome.err.count("\n") == 1 and "Traceback" not in outcome.err
    assert call("store", "import", tmp_path / "none", "--results", tmp_path / "lab").code == 2


# -- gc


def test_gc_removes_what_no_kept_suite_needs(copied):  # noqa: F811
    def tiny_suite(matrix, smoke):
        matrix["suites"]["kept"] = json.loads(json.dumps(smoke)) | {"defense": ["dropout"], "efficiency": []}

    copied.edit(tiny_suite)
    store = Store(copied.results)
    jobs = [cell.job for cell in copied.cells("defense=bottleneck,cem=off,attacker=decoder,split=infer")]
    work = store.work / "replaced-train-0123456789ab-1"
    work.mkdir(parents=True)
    (work / "metrics.json").write_text("{}")
    mine = [path for path in store.root.glob("photos/dropout*/*")]
    words = ["--matrix", copied.matrix, "--data", copied.data, "--results", copied.results]
    shutil.rmtree(store.path(jobs[0]))
    with store.claim(jobs[0]) as folder:
        (folder / "log.txt").write_text("busy")
        before = contents(copied.results)
        dry = call("store", "gc", "--keep-suite", "kept", *words)
        assert dry.code == 0 and contents(copied.results) == before and "again with --yes" in dry.out
        assert dry.out.count("would be removed: ") == 1 + 22 - len(mine) - 1 and dry.out.count("held on ") == 1
        done = call("store", "gc", "--keep-suite", "kept", *words, "--yes")
        assert done.code == 0 and (folder / "log.txt").exists() and "held on " in done.out, done.err
    assert sorted(store.root.glob("[!.]*/*/*")) == sorted(mine) and not work.exists()
    assert not (store.root / "photos" / "bottleneck").exists()
    assert call("store", "gc", "--keep-suite", "kept", *words, "--yes").out.count("removed: ") == 1  # no more held
    assert list(store.work.iterdir()) == []
    assert "0.0 MiB" in call("store", "gc", "--keep-suite", "kept", *words).out


def test_gc_does_not_guess(copied, tmp_path):  # noqa: F811
    """Without the data the keys are other ones: everything would look as if nobody needed it."""
    words = ["--data", tmp_path / "empty", "--results", copied.results, "--yes"]
    before = contents(copied.results)
    for suite in ("facescrub", "facescrub-short"):  # the latter declares the images of the results that are shipped
        outcome = call("store", "gc", "--keep-suite", suite, *words)
        assert outcome.code == 2 and "only where facescrub is prepared" in outcome.err
    assert call("store", "gc", *words).code == 2  # no suite named
    assert contents(copied.results) == before
