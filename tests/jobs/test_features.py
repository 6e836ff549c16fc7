"""The features of an encoder: computed once for all its attacks, with the numbers that each alone would give."""

import shutil

from benchmark.jobs import run_job
from benchmark.jobs.run_job import Features
from tests.support.command_line import copied, finished, place  # noqa: F401 (fixtures)

ATTACKS = ("decoder-train", "decoder-infer", "gan-train", "gan-infer")


def attack_again(place, monkeypatch):  # noqa: F811
    """Run the attacks on one encoder anew: what they gave before and now, and how often features were computed."""
    calls, encode = [], run_job.encode
    monkeypatch.setattr(run_job, "encode", lambda *given: calls.append(1) or encode(*given))
    before = {name: text for name, text in place.finished().items() if "/dropout/" in name}
    for name in before:
        if name.split("/")[2].startswith(ATTACKS):
            shutil.rmtree(place.results / name)
    outcome = place.call("run", "--where", "defense=dropout,cem=off")
    assert outcome.code == 0, outcome.err
    return before, {name: place.finished()[name] for name in before}, len(calls)


def test_the_attacks_of_one_encoder_compute_its_features_once(copied, monkeypatch):  # noqa: F811
    before, again, calls = attack_again(copied, monkeypatch)
    assert calls == 4  # two splits, each with a part to fit on and one to score on
    assert again == before and len(before) == 5


def test_the_numbers_are_those_without_the_cache(copied, monkeypatch):  # noqa: F811
    monkeypatch.setattr(Features, "get", lambda self, encoder, part, compute: compute())
    before, again, calls = attack_again(copied, monkeypatch)
    assert calls == 8
    assert again == before


def test_only_the_last_encoder_is_kept():
    cache, made = Features(), []

    def make(name):
        return lambda: made.append(name) or name

    assert cache.get(("a", "fp32"), ("fit",), make("a")) == "a"
    assert cache.get(("a", "fp32"), ("fit",), make("again")) == "a"
    assert cache.get(("a", "bf16"), ("fit",), make("bf16")) == "bf16"  # other arithmetic, other features
    assert cache.get(("a", "fp32"), ("fit",), make("anew")) == "anew"
    cache.clear()
    assert cache.get(("a", "fp32"), ("fit",), make("cleared")) == "cleared"
    assert made == ["a", "bf16", "anew", "cleared"]
