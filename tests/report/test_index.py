"""The list of all tables, and the picture of the same originals as every row gives them away."""

import json

import numpy as np
import pytest
from PIL import Image

from benchmark.report.index import write_index
from benchmark.report.montage import write_montages
from benchmark.report.pictures import on_same_originals
from benchmark.store.store import Store
from tests.support.simulated import simulate


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    def rows(value):
        value["suites"]["cifar100"] |= {"defense": ["none", "bottleneck"], "attacker": ["decoder"], "bounds": False}

    return simulate(tmp_path_factory.mktemp("suite"), "cifar100", rows)


def test_the_index_lists_every_folder_of_tables_and_nothing_else(suite, tmp_path):
    cells, store = suite
    for name, text in (("mine", b"{}"), ("other", b"\xff"), ("deep", b"[" * 100_000)):  # of somebody else
        (tmp_path / name).mkdir()
        (tmp_path / name / "about.json").write_bytes(text)
    (tmp_path / "a-file").write_text("")
    write_index(cells, store, tmp_path / "one.replaced-1", "", "")  # an earlier state of one that is there
    write_index(cells, store, tmp_path / "one", "what | it <is>", "CEM helps\nand more")
    write_index(cells, Store(tmp_path / "empty"), tmp_path / "two", "", "")
    lines = [line for line in (tmp_path / "README.md").read_text().splitlines() if line.startswith("| [")]
    assert [line.split("]")[0] for line in lines] == ["| [one", "| [two"]
    jobs = len({cell.job.key for cell in cells})
    assert f"{jobs} of {jobs}" in lines[0] and f"0 of {jobs}" in lines[1]
    assert "what \\| it &lt;is&gt;" in lines[0] and "CEM helps" in lines[0] and "and more" not in lines[0]
    about = json.loads((tmp_path / "one" / "about.json").read_text())
    assert about["devices"] == ["made up, for a test"]


def test_the_montage_has_the_originals_above_every_row(suite, tmp_path):
    cells, store = suite
    groups = on_same_originals(cells, store, ["none", "bottleneck"])
    paths = write_montages(groups, tmp_path)
    assert {path.name for path in paths} == {
        f"reconstructions-cifar100-published-{split}-decoder.png" for split in ("train", "infer")
    }
    assert len(groups) == len(paths) and all(len(group) == 3 for group in groups)  # none, CEM off and on
    with Image.open(paths[0]) as image:
        picture = np.asarray(image.convert("RGB")).astype(int)
    height = picture.shape[0] / 4
    original = groups[0][0].pairs[0, 0]
    # the middle pixels of the first picture of the first line are the original's, enlarged; those below are not
    where = int(2.3 / (2.3 + 8 * 0.62) * picture.shape[1] + 0.475 * height)
    shown = [picture[int((line + 0.525) * height), where] for line in range(4)]
    middle = original[14:19, 14:19].reshape(-1, 3).astype(int)
    assert np.abs(shown[0] - middle).sum(1).min() <= 6
    assert paths[0].read_bytes() == write_montages(groups, tmp_path)[0].read_bytes()
