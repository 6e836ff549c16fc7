"""Readers of files from elsewhere, fed with nonsense: they answer, or say in a UserError what is wrong. Nothing else.

Each example starts from a good file and damages it: bytes changed, cut, doubled, or whole values put in place of
others. `BENCHMARK_FUZZ=10000 python -m pytest tests/test_fuzz.py -s` runs that many of each and prints how many there
were and how many were refused.
"""

import io
import json
import os
import pickle
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from benchmark import data
from benchmark.analysis import diff
from benchmark.analysis.collect import devices, tidy_frame
from benchmark.analysis.frame import COLUMNS, tidy
from benchmark.data import archives, files
from benchmark.data.cifar import Cifar10
from benchmark.data.facescrub import FaceScrub
from benchmark.data.tinyimagenet import TinyImageNet
from benchmark.departures import Departure
from benchmark.errors import UserError
from benchmark.matrix.cells import Cell, Job
from benchmark.matrix.expand import expand
from benchmark.matrix.load import DEFAULT, MatrixFile, parse_set
from benchmark.metrics import summarise
from benchmark.monitor import heartbeat
from benchmark.report.findings import findings
from benchmark.report.page import build_page
from benchmark.report.plots import data as plots_data
from benchmark.report.write import write
from benchmark.store import hygiene
from benchmark.store.archive import import_
from benchmark.store.store import Store
from benchmark.training import checkpoint

EXAMPLES = int(os.environ.get("BENCHMARK_FUZZ", 25))
FEW = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=EXAMPLES <= 100,  # the default run is the same each time
    suppress_health_check=list(HealthCheck),
)


@st.composite
def damaged(draw, good: bytes) -> bytes:
    """`good` after one to four changes, or something else altogether."""
    if draw(st.integers(0, 19)) == 0:
        return draw(st.binary(max_size=400))
    content = bytearray(good)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        kind = draw(st.sampled_from(["set", "insert", "cut", "remove", "double", "word"]))
        if kind == "set" and content:
            content[at] = draw(st.integers(0, 255))
        elif kind == "insert":
            content[at:at] = draw(st.binary(min_size=1, max_size=8))
        elif kind == "cut":
            del content[at:]
        elif kind == "remove":
            del content[at : at + draw(st.integers(1, 40))]
        elif kind == "double":
            content[at:at] = content[at : at + draw(st.integers(1, 40))]
        else:  # what numbers in headers turn bad with
            content[at : at + 8] = draw(st.sampled_from([b"\xff" * 8, bytes(8), b"\x7f" + b"\xff" * 7, b"99999999"]))
    return bytes(content)


ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([10**400, -1, 0, 1e308, "../../x", "\x1b[2J", "*", "=1+1", "{{7*7}}", "1e999", "\x00"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


@st.composite
def altered(draw, good):
    """A JSON-like value in which one to three values were replaced, removed or renamed."""
    value = json.loads(json.dumps(good))
    for _ in range(draw(st.integers(1, 3))):
        node, parent, key = value, None, None
        while isinstance(node, (dict, list)) and node and draw(st.integers(0, 4)):
            parent, key = node, draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
            node = node[key]
        if parent is None:
            if draw(st.integers(0, 9)) == 0:
                return draw(ODD)
        elif draw(st.integers(0, 3)):
            parent[key] = draw(ODD)
        elif isinstance(parent, dict):
            parent[draw(st.text(max_size=6))] = parent.pop(key)
        else:
            del parent[key]
    return value


class Count:
    """How many inputs a reader took and refused; printed with the time when the test ends."""

    def __init__(self):
        self.taken = self.refused = 0
        self.start = time.monotonic()

    def __call__(self, read, *words):
        try:
            read(*words)
            self.taken += 1
        except UserError as error:
            self.refused += 1
            assert str(error).strip(), "a UserError says what is wrong"


@pytest.fixture
def count(request):
    count = Count()
    yield count
    seconds = time.monotonic() - count.start
    total = count.taken + count.refused
    print(f"\n{request.node.name}: {total} inputs, {count.refused} refused, {count.taken} taken, {seconds:.0f} s")
    assert total >= EXAMPLES and count.refused  # a reader that takes everything checks nothing


def fuzzed(strategy, read, count) -> None:
    """Read EXAMPLES values that the strategy makes."""

    @FEW
    @given(strategy)
    def each(value):
        count(read, value)

    each()


# -- the matrix


def small_matrix() -> dict:
    """The shipped matrix with one suite and few members, which loads in milliseconds."""
    value = yaml.safe_load(yaml.safe_dump(MatrixFile(DEFAULT).source.value))
    suite = value["suites"]["smoke"] | {"include": [], "defense": ["dropout"], "seed": [1]}
    value["suites"] = {"smoke": suite}
    value["datasets"] = {"photos": value["datasets"]["photos"]}
    value["suite_defaults"]["defense"] = ["dropout"]
    value["attacks"] = {name: value["attacks"][name] for name in value["suite_defaults"]["attacker"]}
    value["cem"] = {name: value["cem"][name] for name in ("off", "on")}
    value["protocols"] = {"published": value["protocols"]["published"]}
    return value


def test_the_matrix_loader(tmp_path, count, monkeypatch):
    monkeypatch.setattr("benchmark.matrix.expand.data.fingerprint", lambda name, root: "f" * 64)
    monkeypatch.setattr("benchmark.matrix.expand.data.departures", lambda *_: [])
    path, good = tmp_path / "matrix.yaml", small_matrix()
    expand(MatrixFile(_written(path, yaml.safe_dump(good).encode())), "smoke", tmp_path)  # it is good

    def read(content):
        text = content if isinstance(content, bytes) else yaml.safe_dump(content, allow_unicode=True).encode()
        for job in (cell.job for cell in expand(MatrixFile(_written(path, text)), "smoke", tmp_path)):
            assert ".." not in job.folder and job.folder.count("/") == 2, job.folder

    text = yaml.safe_dump({name: good[name] for name in good if name != "protocols"}).encode()
    fuzzed(altered(good) | damaged(text) | damaged(yaml.safe_dump(good).encode()), read, count)


def test_a_matrix_over_another(tmp_path, count, monkeypatch):
    monkeypatch.setattr("benchmark.matrix.expand.data.fingerprint", lambda name, root: "f" * 64)
    monkeypatch.setattr("benchmark.matrix.expand.data.departures", lambda *_: [])
    good = small_matrix()
    _written(tmp_path / "below.yaml", yaml.safe_dump(good).encode())
    above = {"extends": "below.yaml"} | {name: good[name] for name in ("train", "defenses", "cem", "suites")}
    path = tmp_path / "matrix.yaml"

    def read(content):
        text = content if isinstance(content, bytes) else yaml.safe_dump(content, allow_unicode=True).encode()
        for cell in expand(MatrixFile(_written(path, text)), "smoke", tmp_path):
            assert all(str(departure) for departure in cell.departures)

    fuzzed(altered(above) | damaged(yaml.safe_dump(above).encode()), read, count)


def test_changes_on_the_command_line(tmp_path, count):
    file = MatrixFile(_written(tmp_path / "matrix.yaml", yaml.safe_dump(small_matrix()).encode()))
    tags = [
        "2020-13-45",
        "!!bool foo",
        '!!int ""',
        "!!float x",
        "!!timestamp x",
        "!!binary x",
        "!!set [1]",
        "0x" + "f" * 5000,
    ]
    tags += [
        "!!omap 1",
        "!!pairs 1",
        "190:20:30" * 500,
        "&a [*a]",
        "[" * 2000,
        "!!null x",
        "!!merge x",
        "=",
        "<<",
        "1e999",
    ]
    paths = st.sampled_from(["train.epochs", "train.lr", "defenses.dropout.rate", "attacks.*.epochs", "cem.weight"])
    paths |= st.text(max_size=12)
    values = ODD.map(lambda value: json.dumps(value)) | st.text(max_size=12) | st.sampled_from(tags)

    def read(text):
        file.settings("photos", "dropout", "on", parse_set([text]))

    fuzzed(st.tuples(paths, values).map("=".join), read, count)


# -- results

CONFIG = {"dataset": "photos", "defense": {"name": "dropout"}, "cem": None, "seed": 1}
TRAIN = Job("train", CONFIG)
TIMED = Job("efficiency", {"dataset": "photos", "defense": {"name": "bottleneck"}})
METRICS = {"status": "done", "reason": "", "values": {"accuracy_percent": 12.5, "encoder_mmac": 1.5, "best_epoch": 3}}
RECORD = {
    "device": "a CPU",
    "device_type": "cpu",
    "precision": "fp32",
    "seconds": 1.5,
    "finished": "2026",
    "commit": "",
}
LOCK = {"host": "a", "pid": 1, "machine": "b", "token": "c"}
BEAT = {"stage": "epoch 1/2", "done": 0.5, "epochs": 2, "images_per_second": 1.5, "seconds_left": None, "metrics": {}}


def test_the_results_reader(tmp_path, count):
    """Metrics, provenance, failures, locks, heartbeats and checksums, through all that reads them."""
    store = Store(tmp_path)
    cells = [Cell("smoke", "photos", "dropout", "off", "", "", "published", 1, job, "") for job in (TRAIN, TIMED)]
    good = {"metrics.json": METRICS, "provenance.json": RECORD, "failed.json": {"reason": "x"}, "lock.json": LOCK}
    good |= {"progress.json": BEAT}
    sums = "".join(f"{'0' * 64}  {name}\n" for name in good).encode()
    for cell in cells:
        for name, value in good.items():
            _written(store.path(cell.job) / name, json.dumps(value).encode())
            _written(store.workdir(cell.job) / name, json.dumps(value).encode())

    def read(example):
        name, content, finished = example
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        job = TIMED if name == "provenance.json" else TRAIN
        done, work = store.path(job), store.workdir(job)
        path = (done if finished else work) / name
        before = path.read_bytes() if path.exists() else None
        _written(path, content)
        moved = done / "moved"
        if not finished:
            (done / "metrics.json").rename(moved)
        try:
            heartbeat.read(work)
            hygiene.verify(store)
            frame = tidy(tidy_frame(cells, store))
            assert set(frame["status"]) <= {"done", "diverged", "failed", "running", "missing"}
            devices(cells, store)
        finally:
            if not finished:
                moved.rename(done / "metrics.json")
            path.unlink() if before is None else _written(path, before)

    examples = [
        st.tuples(st.just(name), altered(value) | damaged(json.dumps(value).encode()), st.booleans())
        for name, value in good.items()
    ]
    examples.append(st.tuples(st.just("SHA256SUMS"), damaged(sums), st.just(True)))
    fuzzed(st.one_of(examples), read, count)


FIRST = {"index": 3, "mse": 0.01, "psnr_db": 20.0, "ssim": 0.5}
HISTORY = "epoch,loss,selection_accuracy_percent\n" + "".join(f"{n},{2 / n},{10 * n}\n" for n in range(1, 7))


def report_cells() -> list[Cell]:
    """A training and an attack on it, off and on, of two seeds, so that there is something to compare."""
    cells = []
    for seed in (1, 2):
        for cem in ("off", "on"):
            form = None if cem == "off" else {"estimator": "scalar"}
            train = Job("train", CONFIG | {"cem": form, "seed": seed, "train": {"epochs": 6}})
            params = {"epochs": 6}
            attack = Job(
                "attack", {"attack": "decoder", "split": "infer", "params": params, "quirks": {}}, {"train": train}
            )
            at = ("smoke", "photos", "dropout", cem)
            cells.append(Cell(*at, "", "", "published", seed, train, (Departure("train.epochs", 6, 240),)))
            cells.append(Cell(*at, "decoder", "infer", "published", seed, attack, ()))
    return cells


def report_files(cell: Cell) -> dict[str, bytes]:
    """What a finished job of it leaves, but for its tensors."""
    record = RECORD | {
        "packages": {"torch": "2"},
        "stage_seconds": {"fit": 1.0},
        "peak_memory_mib": 3.0,
        "version": "1",
    }
    files = {"provenance.json": json.dumps(record).encode(), "history.csv": HISTORY.encode()}
    files["log.txt"] = b"epoch 1"
    if cell.kind == "train":
        return files | {"metrics.json": json.dumps(METRICS).encode()}
    values = summarise(torch.linspace(0.01, 0.1, 20), torch.linspace(0.1, 0.9, 20)) | {"mse_of_mean_image": 0.2}
    values |= {"final_loss": 0.3, "scored_on": 20, "fitted_on": 180}
    metrics = {"status": "done", "reason": "", "values": values}
    pictures = {name: [FIRST] * count for name, count in (("first", 12), ("best", 4), ("worst", 4))}
    for name, count in (("reconstructions.png", 12), ("extremes.png", 8)):
        buffer = io.BytesIO()
        Image.effect_noise((34 * count, 68), 50).convert("RGB").save(buffer, "PNG")
        files[name] = buffer.getvalue()
    found = {"classifier": "x", "recognised_percent": 12.5, "originals_recognised_percent": 80.0, "chance_percent": 1.0}
    files |= {"recognition.json": json.dumps(found).encode(), "pictures.json": json.dumps(pictures).encode()}
    return files | {"metrics.json": json.dumps(metrics).encode()}


class Deep(bytes):
    """Content that is nested deep, and shown short."""

    def __repr__(self):
        return f"Deep({self[:12]}... {len(self)} bytes)"


DEEP = [Deep(b"[" * 100_000), Deep(b'{"a":' * 100_000), Deep(b"[" * 900 + b"]" * 900)]
DEEP += [Deep(b'{"first":' * 300 + b"1" + b"}" * 300), Deep(b'{"list": [' * 50_000)]
DEEP += [Deep(b'{"list": [' * 5000 + b"]}" * 5000), Deep(b"NaN"), Deep(b'"\\ud800"'), Deep(b"")]
HUGE = st.sampled_from(
    [1e308, -1e308, 1e-320, 10**400, float("inf"), float("nan"), None, 0, -1, "1e308", [], {}, "\ud800"]
)


@st.composite
def other_values(draw, good):
    """Of the same shape, some of its values others of the kind that arithmetic breaks on."""
    value = json.loads(json.dumps(good))
    for _ in range(draw(st.integers(1, 3))):
        node = value
        while True:
            key = draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
            if isinstance(node[key], (dict, list)) and node[key] and draw(st.integers(0, 5)):
                node = node[key]
            else:
                node[key] = draw(HUGE)
                break
    return json.dumps(value).encode()


def other_cells() -> st.SearchStrategy:
    """A history with other things in its cells, or other columns."""
    odd = st.sampled_from(
        ["1e308", "-1e308", "1e-320", "inf", "nan", "", "x", "\x00", '"', "0", "-1", "9" * 400, "\ud800"]
    )
    rows = st.lists(st.lists(odd | st.just("1.5"), min_size=1, max_size=5), max_size=8)
    heads = st.sampled_from(
        ["epoch,loss,selection_accuracy_percent", "epoch,loss", "loss,epoch,epoch", "", "a,b", "loss"]
    )
    made = st.tuples(heads, rows).map(lambda it: "\n".join([it[0], *map(",".join, it[1])]))
    return made.map(lambda text: text.encode(errors="surrogatepass"))


def test_the_page_the_tables_and_the_figures_of_a_strangers_results(tmp_path, count):
    """Every file that a report reads, damaged, with other values, nested deep: all that is written of it."""
    cells, store, out = report_cells(), Store(tmp_path / "results"), tmp_path / "tables"
    good = {store.path(cell.job) / name: content for cell in cells for name, content in report_files(cell).items()}
    for path, content in good.items():
        _written(path, content)
    assert "<html" in build_page(findings(cells, store))  # it is good
    chosen = [path for path in good if path.parent in (store.path(cells[0].job), store.path(cells[1].job))]

    def contents(path):
        same = damaged(good[path])
        if path.suffix == ".json":
            value = json.loads(good[path])
            same |= altered(value).map(lambda it: json.dumps(it).encode()) | other_values(value) | st.sampled_from(DEEP)
        return st.tuples(st.just(path), same | other_cells() if path.suffix == ".csv" else same)

    def read(example):
        path, content = example
        _written(path, content)
        try:
            write(cells, store, out, True, [], figures=False)
            plots_data.histories(cells, store), plots_data.per_image(cells, store)
        finally:
            _written(path, good[path])
            for name in ("attacks.csv", "verdicts.csv", "results.csv"):
                (out / name).unlink(missing_ok=True)

    fuzzed(st.one_of([contents(path) for path in chosen]), read, count)


@pytest.mark.parametrize("again", [lambda value: value, lambda value: [value] * 3])
def test_checkpoints_of_another_structure(tmp_path, count, again):
    """With a digest that is right: whoever makes such a file can compute it."""
    import torch
    from safetensors.torch import save_file

    tensors = {"t00000": torch.arange(6.0), "t00001": torch.zeros(2, 2)}
    good = {"dict": [["weights", {"tensor": "t00000"}], ["list", {"list": [{"value": 3}, {"tensor": "t00001"}]}]]}
    path = tmp_path / "state.safetensors"

    def read(structure):
        text = structure.decode() if isinstance(structure, bytes) else json.dumps(again(structure))
        digest = checkpoint._digest(text, tensors)
        save_file(tensors, path, {"format": checkpoint.FORMAT, "structure": text, "sha256": digest})
        assert isinstance(checkpoint.load(path), dict)

    fuzzed(
        altered(good)
        | ODD
        | st.sampled_from(DEEP)
        | st.sampled_from([{"dict": [[[], {"value": 1}]]}, {"dict": [["a"]]}]),
        read,
        count,
    )


def test_the_reader_of_results_csv(tmp_path, count):
    rows = [
        "smoke,photos,dropout,off,published,train,,,accuracy_percent,1,12.5,done,,k,",
        'smoke,photos,dropout,on,published,attack,gan,infer,mse,2,,failed,"it, broke",k,train.epochs 2',
    ]
    good = "\n".join([",".join(COLUMNS), *rows, ""]).encode()
    fuzzed(damaged(good), lambda content: diff.read_reference(_written(tmp_path / "results.csv", content)), count)


def test_checkpoints(tmp_path, count):
    path = tmp_path / "state.safetensors"
    checkpoint.save(path, {"weights": torch.arange(6.0), "epoch": 3, "by": {1: [None, True]}})
    fuzzed(damaged(path.read_bytes()), lambda content: checkpoint.load(_written(path, content)), count)


def test_imported_archives(tmp_path, count):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in (("photos/dropout/train-0/metrics.json", b"{}"), ("a/b/c/SHA256SUMS", b"x")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    store = Store(tmp_path / "results")

    def read(content):
        import_(store, _written(tmp_path / "x.tar.gz", content))

    fuzzed(damaged(buffer.getvalue()[:3072]) | damaged(_zipped()), read, count)
    assert {path.name for path in tmp_path.iterdir()} == {"x.tar.gz", "results"}


# -- data


def test_prepared_data(tmp_path, count, monkeypatch):
    monkeypatch.setattr(Cifar10, "classes", 2)
    train, test = (
        data.ImageSet(torch.zeros(4, 3, 32, 32, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])) for _ in range(2)
    )
    monkeypatch.setattr(Cifar10, "read", lambda self, source: data.Parts(train, test, ["a", "b"]))
    data.prepare("cifar10", tmp_path, tmp_path)
    tensors, meta = tmp_path / "cifar10.safetensors", tmp_path / "cifar10.json"
    good = {tensors: tensors.read_bytes(), meta: meta.read_bytes()}
    said = json.loads(good[meta])

    def read(example):
        path, content = example
        for other, whole in good.items():
            _written(other, whole)
        _written(path, content if isinstance(content, bytes) else json.dumps(content).encode())
        data.describe(tmp_path)
        data.fingerprint("cifar10", tmp_path)
        loaded = data.load("cifar10", tmp_path)
        assert loaded.train.images.shape == (4, 3, 32, 32) and loaded.classes == 2

    header = good[tensors][:600]  # the pixels behind it change nothing but the fingerprint
    both = st.tuples(st.just(meta), altered(said) | damaged(good[meta]))
    both |= st.tuples(st.just(tensors), damaged(header).map(lambda head: head + good[tensors][600:]))
    fuzzed(both, read, count)


def test_a_fingerprint_that_fits_says_nothing_about_the_shapes(tmp_path):
    """Prepared data from somebody else whose own fingerprint is right, but whose tensors are not images."""
    from benchmark.data.tensors import fingerprint_of

    for images, labels in (
        (torch.zeros(2, 3, 32, 32), torch.zeros(2).long()),
        (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.tensor([0, 99])),
        (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.zeros(2, 2).long()),
        (torch.zeros(0, dtype=torch.uint8), torch.zeros(0).long()),
    ):
        part = data.ImageSet(images, labels)
        names = {"train_images": images, "train_labels": labels, "test_images": images, "test_labels": labels}
        save_file({name: tensor.clone() for name, tensor in names.items()}, tmp_path / "cifar10.safetensors")
        meta = {"sha256": "", "bytes": 1, "classes": 1, "class_names": ["a"], "train": 2, "test": 2, "image_size": 32}
        meta |= {"fingerprint": fingerprint_of(part, part), "note": ""}
        (tmp_path / "cifar10.json").write_text(json.dumps(meta))
        with pytest.raises(UserError):
            data.load("cifar10", tmp_path)


def test_cifar_pickles_and_binaries(tmp_path, count, monkeypatch):
    """Whatever a pickle asks for, it is not run; the official checksums, which stand before it, are switched off."""
    monkeypatch.setattr("benchmark.data.cifar.require_md5", lambda path, allowed: None)
    monkeypatch.setattr(Cifar10, "python_files", {"data_batch_1": "", "test_batch": "", "batches.meta": ""})
    monkeypatch.setattr(Cifar10, "binary_files", ("data_batch_1.bin", "test_batch.bin", "batches.meta.txt"))
    monkeypatch.setattr(os, "system", lambda command: pytest.fail("ran"))
    pixels = np.zeros((2, 3072), np.uint8)
    batches = [
        pickle.dumps({"data": pixels, "labels": [0, 1]}, protocol) for protocol in (0, 2, 3, 4)
    ]  # numpy's own calls stand at both ends; the pixels between them are as good as any
    evil = b"\x80\x03cposix\nsystem\nX\x04\x00\x00\x00echo\x85R."

    def read(example):
        name, content = example
        folder = tmp_path / ("python" if "." not in name or name.endswith(".meta") else "binary")
        folder.mkdir(exist_ok=True)
        _written(tmp_path / "python" / "data_batch_1", batches[2]) if folder.name == "python" else None
        for other in ("test_batch", "batches.meta"):
            if folder.name == "python":
                _written(folder / other, pickle.dumps({"label_names": ["a"] * 10, "data": pixels, "labels": [0, 1]}))
        if folder.name == "binary":
            for other in ("data_batch_1.bin", "test_batch.bin"):
                _written(folder / other, bytes(3073))
            _written(folder / "batches.meta.txt", b"a b c d e f g h i j")
        _written(folder / name, content)
        parts = Cifar10().read(folder)
        data.store._check(Cifar10(), parts)

    def ends(good: bytes):
        """Damage before and behind the pixels."""
        head, tail = good[:180], good[-120:]
        return damaged(head).map(lambda new: new + good[180:]) | damaged(tail).map(lambda new: good[:-120] + new)

    examples = [st.tuples(st.just("data_batch_1"), ends(good)) for good in batches]
    examples += [st.tuples(st.just("data_batch_1"), damaged(evil)), st.tuples(st.just("batches.meta"), damaged(evil))]
    odd = ODD.map(lambda value: pickle.dumps({"label_names": value, "data": pixels, "labels": value}))
    examples += [st.tuples(st.sampled_from(["batches.meta", "data_batch_1"]), odd)]
    examples += [st.tuples(st.just("test_batch.bin"), damaged(bytes(40)))]
    fuzzed(st.one_of(examples), read, count)


def test_pictures(tmp_path, count):
    goods = []
    for kind in ("JPEG", "PNG", "GIF", "BMP", "WEBP"):
        buffer = io.BytesIO()
        Image.effect_noise((8, 8), 50).convert("RGB").save(buffer, kind)
        goods.append(buffer.getvalue())
    goods.append(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n")

    def read(content):
        files.read_pictures([_written(tmp_path / "x.jpg", content)], 8, resize=True)

    fuzzed(st.one_of([damaged(good) for good in goods]), read, count)


def test_picture_bombs_and_programs(tmp_path, monkeypatch):
    """Many pixels in few bytes are refused before they are decoded, PostScript before it is run."""
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("ran Ghostscript"))
    Image.new("1", (9000, 9000)).save(tmp_path / "bomb.png")
    (tmp_path / "program.jpg").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    )
    for name, text in (("bomb.png", "9000 x 9000 pixels"), ("program.jpg", "cannot be read")):
        with pytest.raises(UserError, match=text):
            files.read_pictures([tmp_path / name], 8, resize=True)


def test_array_files(tmp_path, count):
    buffer = io.BytesIO()
    pixels = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    np.savez(buffer, images=pixels, labels=np.array([0, 1]), people=np.array(["a", "b"]))
    odd = st.sampled_from([np.uint8, np.int64, np.float32, "U3", "S2", bool, complex])
    shape = st.lists(st.integers(0, 4), max_size=5)

    def arrays(parts):
        made = io.BytesIO()
        names = ("images", "labels", "people")
        np.savez(made, **{name: np.zeros(shape, dtype) for name, (dtype, shape) in zip(names, parts, strict=True)})
        return made.getvalue()

    made = st.lists(st.tuples(odd, shape), min_size=3, max_size=3).map(arrays)
    fuzzed(
        damaged(buffer.getvalue()) | made,
        lambda content: FaceScrub().read(_written(tmp_path / "faces.npz", content)),
        count,
    )


def test_array_bombs(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("images", "labels", "people"):
            archive.writestr(f"{name}.npy", bytes(50 << 20))
    with pytest.raises(UserError, match="far more than its size"):
        FaceScrub().read(tmp_path / "bomb.npz")


def test_annotations(tmp_path, count, monkeypatch):
    monkeypatch.setattr(TinyImageNet, "classes", 1)
    folder = tmp_path / "tiny-imagenet-200"
    for path in ("train/n01/images/a.JPEG", "val/images/v.JPEG"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64)).save(folder / path)
    annotations, words = folder / "val" / "val_annotations.txt", folder / "words.txt"

    def read(example):
        _written(annotations, b"v.JPEG\tn01\t0\t0\t62\t62\n")
        _written(words, b"n01\tgoldfish, x\n")
        _written(folder / example[0], example[1])
        data.store._check(TinyImageNet(), TinyImageNet().read(folder))

    examples = st.tuples(st.just("val/val_annotations.txt"), damaged(b"v.JPEG\tn01\t0\t0\t62\t62\n"))
    examples |= st.tuples(st.just("words.txt"), damaged(b"n01\tgoldfish, Carassius\n"))
    fuzzed(examples, read, count)


def _zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("photos/dropout/train-0/metrics.json", "{}")
    return buffer.getvalue()


def test_archives(tmp_path, count):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a/b.txt"), io.BytesIO())
    target = tmp_path / "in" / "out"

    def read(content):
        archives.unpack(_written(tmp_path / "archive", content), target)

    fuzzed(damaged(buffer.getvalue()) | damaged(_zipped()), read, count)
    assert {path.name for path in tmp_path.iterdir()} <= {"archive", "in"}


def _written(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
