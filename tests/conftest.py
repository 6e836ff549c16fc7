"""Shared pieces of the tests: a tiny matrix on a tiny data set, and a store to run it in."""

import os

# before torch is loaded: threads that wait for others sleep instead of spinning, without which tests that share their
# cores with anything else take ten times as long
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pytest
import torch
import yaml

from benchmark.data import DataSet, ImageSet
from benchmark.matrix.load import DEFAULT, MatrixFile


def pytest_xdist_auto_num_workers(config):
    """One more than there are cores: many tests wait for processes that they started."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return usable + 1  # not training.device.cores, which reproduce.sh limits to 1 for the threads of torch


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


def pytest_collection_modifyitems(items):
    """Files with slow tests come first: xdist gives out whole files, and a long one at the end leaves cores idle."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def tiny_images() -> DataSet:
    """Three classes of 32 px colour gradients with noise: 48 training and 24 test images."""
    generator = torch.Generator().manual_seed(1)

    def part(count: int) -> ImageSet:
        labels = torch.arange(count) % 3
        base = torch.linspace(0, 200, 32)[None, None, :, None] * torch.ones(count, 3, 32, 32)
        base = base * (0.3 + 0.3 * labels[:, None, None, None])
        noise = torch.rand(base.shape, generator=generator) * 50
        return ImageSet((base + noise).clamp(0, 255).to(torch.uint8), labels)

    return DataSet(
        name="tiny",
        classes=3,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        crop=True,
        train=part(48),
        test=part(24),
        class_names=["a", "b", "c"],
        fingerprint="0" * 64,
        publishable=True,
    )


@pytest.fixture
def no_pdfs(monkeypatch):
    """The PDFs of figures are empty: to draw them takes half of a report's time."""
    monkeypatch.setattr("benchmark.report.plots.drawings.Drawing.pdf", lambda self, inches: b"")


@pytest.fixture
def one_thread():
    """For what watches the operators that this thread calls: with more, some on a CPU are called by others."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def matrix(tmp_path):
    """The shipped matrix with its smoke suite cut down to seconds; call it with changes to the plain data."""

    def make(change=lambda value: None) -> MatrixFile:
        value = MatrixFile(DEFAULT).source.value
        smoke = value["suites"]["smoke"]
        smoke["set"] |= {
            "data.train_images": 24,
            "data.test_images": 20,
            "train.batch_size": 12,
            "attacks.*.batch_size": 9,
            "attacks.*.epochs": 1,
            "efficiency.batches": 1,
            "efficiency.batch_size": 2,
        }
        change(value)
        path = tmp_path / "matrix.yaml"
        path.write_text(yaml.safe_dump(value))
        return MatrixFile(path)

    return make
