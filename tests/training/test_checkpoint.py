"""Checkpoints: every kind of value comes back as it was, and every kind of damage is told in a sentence."""

import json
import pickle
import resource
import signal

import pytest
import torch
from safetensors.torch import save_file

from benchmark.errors import UserError
from benchmark.training import checkpoint

SHARED = torch.arange(12.0)
STATE = {
    "bf16": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).bfloat16(),
    "int64": torch.tensor([2**62, -1]),
    "bool": torch.tensor([True, False, True]),
    "uint8": torch.arange(256, dtype=torch.uint8),
    "float64": torch.tensor([1e-300, float("inf")], dtype=torch.float64),
    "0-dim": torch.tensor(3.5),
    "empty": torch.empty(0, 7),
    "channels_last": torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    "transposed": torch.arange(6).view(2, 3).t(),
    "strided": torch.arange(20)[::3],
    "parameter": torch.nn.Parameter(torch.ones(2)),
    "shared": [SHARED, SHARED[2:5], SHARED],
    "by number": {0: {"step": torch.tensor(1.0)}, 7: {"step": 2}},
    "plain": {"text": 'quoted "text"\nü', "none": None, "flag": True, "float": 0.1, "list": [1, [2, []], {}]},
    "none": {},
}


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return type(b) is torch.Tensor and a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.detach(), b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return isinstance(b, list) and len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and a == b


def test_everything_comes_back_as_it_was(tmp_path):
    checkpoint.save(tmp_path / "state", STATE)
    back = checkpoint.load(tmp_path / "state")
    for key, value in STATE.items():
        assert same(value, back[key]), key
    assert list(back["by number"]) == [0, 7]  # the integers that optimisers use as keys, not their texts
    back["shared"][0][2] = 99  # tensors that shared memory are their own afterwards
    assert back["shared"][1][0] == 2 and back["shared"][2][2] == 2


def test_states_of_modules_optimisers_and_generators(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    model(torch.rand(2, 3, 8, 8)).square().sum().backward()
    optimizer.step()
    generator = torch.Generator().manual_seed(5)
    torch.rand(3, generator=generator)
    state = {"m": model.state_dict(), "o": optimizer.state_dict(), "g": generator.get_state()}
    checkpoint.save(tmp_path / "state", state)
    back = checkpoint.load(tmp_path / "state")
    fresh = torch.Generator()
    fresh.set_state(back["g"])
    assert torch.equal(torch.rand(3, generator=fresh), torch.rand(3, generator=generator))
    other = torch.optim.Adam(model.parameters(), fused=True)
    other.load_state_dict(back["o"])
    for parameter in model.parameters():
        assert torch.equal(other.state[parameter]["exp_avg"], optimizer.state[parameter]["exp_avg"])
    assert not model.load_state_dict(back["m"]).missing_keys


def written(tmp_path, state=None):
    path = tmp_path / "state.safetensors"
    checkpoint.save(path, state or {"weights": torch.arange(1000.0), "epoch": 3})
    return path


@pytest.mark.parametrize("kept", [0, 4, 9, 200, -1, -400])
def test_a_truncated_file(tmp_path, kept):
    path = written(tmp_path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match="damaged|not a checkpoint") as error:
        checkpoint.load(path)
    assert str(path) in str(error.value) and "run again" in str(error.value)


def test_a_flipped_bit_anywhere_in_the_tensors(tmp_path):
    path = written(tmp_path)
    whole = path.read_bytes()
    for place in (-1, -2001, -3999):
        content = bytearray(whole)
        content[place] ^= 0x10
        path.write_bytes(content)
        with pytest.raises(UserError, match="altered since it was written"):
            checkpoint.load(path)


def test_a_flipped_bit_in_the_head_is_told_or_harmless(tmp_path):
    """Every byte before the tensors: the answer is a UserError, or the very state that was written."""
    path = written(tmp_path, {"weights": torch.arange(3.0), "epoch": 3, "by": {1: [None, True]}})
    whole = path.read_bytes()
    told = 0
    for place in range(len(whole)):
        content = bytearray(whole)
        content[place] ^= 0x01
        path.write_bytes(content)
        try:
            state = checkpoint.load(path)
        except UserError:
            told += 1
        else:
            assert torch.equal(state["weights"], torch.arange(3.0)) and state["epoch"] == 3, (place, state)
    assert told > len(whole) / 2


def test_two_tensors_swapped_are_noticed(tmp_path):
    path = written(tmp_path, {"a": torch.zeros(4), "b": torch.ones(4)})
    whole = path.read_bytes()
    path.write_bytes(whole[:-32] + whole[-16:] + whole[-32:-16])
    with pytest.raises(UserError, match="altered"):
        checkpoint.load(path)


def test_files_of_others(tmp_path):
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weights": torch.ones(3)}, foreign)
    with pytest.raises(UserError, match="not a checkpoint of this program"):
        checkpoint.load(foreign)
    save_file({"weights": torch.ones(3)}, foreign, {"format": checkpoint.FORMAT})
    with pytest.raises(UserError, match="altered|damaged"):
        checkpoint.load(foreign)


class Trap:
    """Unpickling it would make a file: a checkpoint must never be unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pickle_is_refused_and_not_run(tmp_path):
    trace = tmp_path / "run"
    for name, write in (("pickle", lambda v, p: p.write_bytes(pickle.dumps(v))), ("torch", torch.save)):
        path = tmp_path / name
        write({"weights": Trap(trace)}, path)
        with pytest.raises(UserError, match="damaged"):
            checkpoint.load(path)
    assert not trace.exists()


def test_no_file_and_a_folder(tmp_path):
    with pytest.raises(UserError, match="there is no checkpoint .*nothing"):
        checkpoint.load(tmp_path / "nothing")
    with pytest.raises(UserError, match="cannot read .*Is a directory"):
        checkpoint.load(tmp_path)


def test_the_structure_is_json_without_code(tmp_path):
    from safetensors import safe_open

    with safe_open(written(tmp_path), "pt") as file:
        structure = json.loads(file.metadata()["structure"])
    assert structure == {"dict": [["weights", {"tensor": "t00000"}], ["epoch", {"value": 3}]]}


# -- failed writes


@pytest.fixture
def small_disk():
    """No file may grow beyond 1 MB while the test runs."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_leaves_the_old_file(tmp_path, small_disk):
    path = written(tmp_path)
    before = path.read_bytes()
    with pytest.raises(OSError):
        checkpoint.save(path, {"weights": torch.rand(1_000_000)})
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]  # no half file stays


def test_a_write_cut_short_leaves_the_old_file(tmp_path, monkeypatch):
    path = written(tmp_path)
    before = path.read_bytes()

    def half(tensors, target, metadata):
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", half)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(path, {"weights": torch.zeros(3)})
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_folder_below_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        checkpoint.save(tmp_path / "file" / "state", {"weights": torch.zeros(3)})
