"""The benchmark from Python: its doctests, and what it refuses."""

import doctest
import subprocess
import sys

import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

import benchmark
from benchmark import api
from benchmark.api import evaluation
from benchmark.api import stored as stored_module
from benchmark.errors import UserError
from tests.matrix.test_matrix import alone
from tests.support.command_line import place  # noqa: F401 (a fixture)

TINY = {"attacks.*.epochs": 1, "attacks.*.blocks": 1, "attacks.*.batch_size": 9}


class Extractor(nn.Module):
    """[B, 3, 32, 32] -> [B, 8, 8, 8]; keeps count of its calls in training mode."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.conv, self.norm, self.calls = nn.Conv2d(3, 8, 4, stride=4), nn.BatchNorm2d(8), 0

    def forward(self, x):
        self.calls += self.training
        return self.norm(self.conv(x)).sigmoid()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def evaluate(data):
    def run(encoder=None, **more):
        options = {"dataset": "photos", "settings": TINY, "train_images": 24, "test_images": 20, "precision": "fp32"}
        return benchmark.evaluate(encoder or Extractor(), **(options | {"data": data, "device": "cpu"} | more))

    return run


def test_doctests(place):  # noqa: F811
    outcome = place.call("run", "--where", "defense=bottleneck,cem=off,attacker=decoder,split=infer")
    assert outcome.code == 0, outcome.err
    names = {"results": place.results, "data": place.data, "matrix": place.matrix}
    found = [
        doctest.testmod(module, extraglobs=names, optionflags=doctest.NORMALIZE_WHITESPACE)
        for module in (api, evaluation, stored_module)
    ]
    assert sum(each.failed for each in found) == 0 and sum(each.attempted for each in found) >= 9

    stored = benchmark.load_encoder("photos/bottleneck", results=place.results)
    again = benchmark.load_encoder(stored.name, results=place.results)
    by_suite = benchmark.load_encoder(
        "photos/bottleneck", suite="smoke", results=place.results, data=place.data, matrix=place.matrix
    )
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(stored(x), again(x)) and torch.equal(stored(x), by_suite(x))
    assert stored.dataset == "photos" and 0 <= stored.accuracy_percent <= 100 and not stored.training
    with pytest.raises(UserError, match="no encoder 'photos/patrol' is in .*; there are: photos/bottleneck"):
        benchmark.load_encoder("photos/patrol", results=place.results)
    with pytest.raises(UserError, match="is not DATASET/ROW"):
        benchmark.load_encoder("../photos/bottleneck/x", results=place.results)
    other = place.call(
        "run", "--where", "defense=bottleneck,cem=off,attacker=decoder,split=infer", "--set", "train.epochs=1"
    )
    assert other.code == 0, other.err
    with pytest.raises(UserError, match=r"2 encoders 'photos/bottleneck': .*1 epochs, seed 125.*give a suite"):
        benchmark.load_encoder("photos/bottleneck", results=place.results)

    found = benchmark.evaluate(
        stored, stored.dataset, stored.channel, settings=TINY, train_images=24, test_images=20, data=place.data
    )
    assert 0 < found.frame["mse"][0] < 1


def test_numbers_are_those_of_the_benchmark(place):  # noqa: F811
    """A stored encoder through the API and through the jobs, without quirks: the same reconstructions."""
    where = "defense=bottleneck,cem=off,attacker=decoder,split=train,protocol=corrected"
    place.edit(lambda matrix, smoke: smoke.update(protocol=["corrected"]))
    assert place.call("run", "--where", where).code == 0
    frame = benchmark.load_results("smoke", where=[where], results=place.results, data=place.data, matrix=place.matrix)
    mse = float(frame.query("metric == 'mse'")["value"].iloc[0])
    stored = benchmark.load_encoder("photos/bottleneck", results=place.results)
    found = benchmark.evaluate(
        stored,
        "photos",
        stored.channel,
        settings=TINY,
        train_images=24,
        test_images=20,
        data=place.data,
        precision="fp32",
        device="cpu",
    )
    assert found.frame["mse"][0] == pytest.approx(mse, rel=1e-5)


def test_a_result_holds_a_frame_pictures_and_a_paragraph(evaluate):
    found = evaluate(channel=0.05, attackers=["decoder", "gan"], split="infer")
    assert isinstance(found.frame, pd.DataFrame) and list(found.frame["attacker"]) == ["decoder", "gan"]
    assert set(found.frame["fitted_on"]) == {18} and set(found.frame["scored_on"]) == {2}
    assert set(found.frame["converged"]) == {"too short"}
    assert set(found.pictures) == {"decoder", "gan"} and isinstance(found.pictures["gan"], Image.Image)
    assert f"MSE {found.frame['mse'].min():.4f}" in found.summary and "strongest of 2 attackers" in found.summary
    assert "longer attacks may rebuild more: decoder, gan" in found.summary and "\n" not in found.summary


def test_the_standard_set_and_the_choice_among_it(evaluate):
    """Named once more, or beside another: each attacker once, and the choice by what it says of images held out."""
    short = TINY | {"attacks.*.iterations": 1, "attacks.*.members": 1, "attacks.unet.channels": 4}
    found = evaluate(channel=0.05, attackers=["standard", "gan", "ridge"], settings=short, train_images=40)
    frame = found.frame.set_index("attacker")
    members = ["ridge", "kernel", "converged", "ssim_decoder", "unet", "unrolled", "whitebox_standard"]
    assert list(frame.index) == ["decoder", *members, "gan", "standard"]
    judged, chosen = frame.loc[members], frame.loc["standard", "chosen"]
    mse, ssim = judged["mse_held_out"].idxmin(), judged["ssim_held_out"].idxmax()
    assert chosen == (mse if mse == ssim else f"{mse}, for SSIM {ssim}")
    assert frame.loc["standard", "mse"] == frame.loc[mse, "mse"]
    assert frame.loc["standard", "ssim"] == frame.loc[ssim, "ssim"]
    assert frame.loc[["decoder", "gan"], "mse_held_out"].isna().all() and frame.loc[members, "chosen"].isna().all()
    assert f"of 9 attackers the one that is best on images held out, {chosen}, rebuilds" in found.summary
    better = frame.loc[frame["mse"] < frame.loc["standard", "mse"], "mse"]
    assert ("On the scored images themselves" in found.summary) == (len(better) > 0)
    assert "standard" not in found.pictures and set(members) < set(found.pictures)
    with pytest.raises(UserError, match="need the channel's likelihood; give a standard deviation"):
        evaluate(channel=lambda z, generator: z, attackers="standard")


def test_the_encoder_and_the_random_state_stay_as_they_were(evaluate):
    encoder = Extractor().train()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    torch.manual_seed(7)
    state = torch.get_rng_state()
    first, second = evaluate(encoder), evaluate(encoder)
    assert encoder.training and encoder.calls == 0 and encoder.conv.weight.requires_grad
    assert all(torch.equal(before[name], tensor) for name, tensor in encoder.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert first.frame.equals(second.frame)


@pytest.mark.slow
def test_a_channel_is_what_the_attacker_gets(evaluate):
    """What tells nothing of the image leaves less to rebuild than what tells all; a function stands for a number."""
    more = {"settings": TINY | {"attacks.*.epochs": 12}, "split": "train", "train_images": 96}
    clean = evaluate(**more).frame["mse"][0]
    silent = evaluate(channel=lambda z, generator: torch.zeros_like(z), **more).frame["mse"][0]
    assert clean < 0.9 * silent

    def noise(z, generator):
        return z + 0.1 * torch.randn(z.shape, generator=generator)

    assert evaluate(channel=noise).frame.equals(evaluate(channel=0.1).frame)


@pytest.mark.parametrize(
    "more, wanted",
    [
        ({"attackers": ["ensemble"]}, "unknown attacker 'ensemble'"),
        ({"attackers": ["decoders"]}, "decoder"),
        ({"attackers": "standrad"}, "did you mean 'standard'"),
        ({"attackers": []}, "no attacker was asked for"),
        ({"dataset": "mnist"}, "unknown data set 'mnist'"),
        ({"dataset": "cifar10"}, "not prepared"),
        ({"channel": -1.0}, "channel is -1.0; give a standard deviation"),
        ({"channel": "loud"}, "channel is 'loud'"),
        ({"channel": True}, "channel is True: it should be a valid number, or it should be an instance of Defense"),
        ({"encoder": lambda x: x}, "encoder is <function .* it should be an instance of Module"),
        ({"settings": 3}, "settings is 3: it should be a valid dictionary"),
        ({"attackers": None}, "attackers is None: it should be a valid string, or .* Sequence"),
        ({"test_images": "12"}, "test_images is '12': it should be a valid integer"),
        ({"epochs": 3}, "evaluate: got an unexpected keyword argument 'epochs'"),
        ({"channel": lambda z, generator: z[:, :1]}, "the feature's shape"),
        (
            {"channel": lambda z, generator: z, "attackers": ["whitebox"], "settings": {}},
            "needs the channel's likelihood",
        ),
        ({"encoder": nn.Flatten()}, r"the encoder gives \[2, 3072\]"),
        ({"encoder": nn.Linear(5, 5)}, "the encoder fails on images"),
        ({"settings": {"attacks.decoder.epoch": 1}}, "epoch"),
        ({"train_images": 10**9}, "training images of photos"),
        ({"precision": "fp64"}, "precision is 'fp64'"),
        (
            {"settings": {"attacks.whitebox.start": "decoder"}, "attackers": ["whitebox"]},
            "starts from another's result",
        ),
    ],
)
def test_what_it_refuses_is_one_sentence(evaluate, more, wanted):
    with pytest.raises(UserError, match=wanted):
        evaluate(**more)


def test_a_matrix_without_our_names_will_do_unless_the_standard_set_is_asked_for(evaluate, matrix, tmp_path):
    matrix(alone)
    found = evaluate(matrix=tmp_path / "matrix.yaml")
    assert list(found.frame["attacker"]) == ["decoder"]
    with pytest.raises(
        UserError, match=r"matrix.yaml, line \d+: there is no suite 'standard'.*let the file extend paper"
    ):
        evaluate(matrix=tmp_path / "matrix.yaml", attackers="standard")


def test_importing_the_package_loads_nothing_heavy():
    code = "import benchmark, sys; assert not {'torch', 'pandas', 'numpy'} & set(sys.modules), 1; benchmark.evaluate"
    subprocess.run([sys.executable, "-c", code + "; assert 'torch' in sys.modules; benchmark.load_results"], check=True)
    assert set(benchmark.__all__) <= set(dir(benchmark))
    with pytest.raises(AttributeError):
        benchmark.nothing  # noqa: B018


def test_an_unknown_split_is_refused():
    with pytest.raises(UserError, match="split is 'test': it should be 'train' or 'infer'"):
        benchmark.evaluate(torch.nn.Identity(), dataset="photos", split="test")  # pyright: ignore[reportArgumentType]


def test_the_results_refuse_other_types():
    with pytest.raises(UserError, match="name is None: it should be a valid string"):
        benchmark.load_encoder(None)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="where is 'seed=1': 'str' instances are not allowed"):
        benchmark.load_results("smoke", where="seed=1")
    with pytest.raises(UserError, match="load_results: missing a required argument: 'suite'"):
        benchmark.load_results()  # pyright: ignore[reportCallIssue]
