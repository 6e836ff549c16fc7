"""How a cell's values depart from the published ones, as facts (departures.py)."""

from pydantic import BaseModel

from benchmark.attacks import ATTACKS
from benchmark.departures import Departure
from benchmark.matrix.load import Settings


def of_training(settings: Settings, published: Settings) -> list[Departure]:
    """How a training's values (data, model, train, params, cem) depart from the published ones."""
    return [
        *changed("data", settings.data, published.data),
        *changed("model", settings.model, published.model),
        *changed("train", settings.train, published.train),
        *changed("defense", settings.params, published.params),
        *changed("cem", settings.cem, published.cem),
    ]


def of_attack(attacker: str, params: BaseModel, published: Settings) -> list[Departure]:
    """How an attacker's values depart from those outside the suites: published ones for the paper's attackers."""
    word = "published" if ATTACKS.get(attacker).printed else "default"
    return changed(f"attacks.{attacker}", params, published.attacks[attacker], word)


def changed(section: str, ours, theirs, word: str = "published") -> list[Departure]:
    """A departure for each value of one section that differs between the two; none if either lacks the section."""
    if ours is None or theirs is None:
        return []
    new, old = ours.model_dump(mode="json"), theirs.model_dump(mode="json")
    return [Departure(f"{section}.{key}", new[key], old[key], word) for key in new if new[key] != old[key]]
