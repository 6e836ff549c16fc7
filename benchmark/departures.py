"""How a result departs from the published setting: the facts, and their text in frames and captions."""

from collections.abc import Iterable
from dataclasses import dataclass

_SEPARATOR = "; "  # between departures in a column of a frame; no departure's text holds a semicolon


@dataclass(frozen=True)
class Departure:
    """One value that is not the published one.

    path: dotted, for example train.epochs; value, published: as in the settings (None: all); word: what the other value
    is, "default" if the paper has none. As text: `train.epochs 2 (published 240)`.
    """

    path: str
    value: object
    published: object
    word: str = "published"

    def __str__(self) -> str:
        text = f"{self.path} {_shown(self.value)} ({self.word} {_shown(self.published)})"
        return text.replace(";", ",")


def told(departures: Iterable[Departure]) -> list[str]:
    """Each departure once, as text, sorted."""
    return sorted({str(departure) for departure in departures})


def column(texts: Iterable[str]) -> str:
    """The entry of a frame's column `label` for departures as `told` or `parted` gives them; "" for none."""
    return _SEPARATOR.join(texts)


def parted(columns: Iterable[str]) -> list[str]:
    """Each departure in such entries once, as text, sorted.

    Cells have different combinations of departures (an attack has its own epochs), so whole entries would repeat them.

    >>> epochs, images = Departure("train.epochs", 2, 240), Departure("data.train_images", 512, None)
    >>> parted([column(told([epochs])), "", column(told([epochs, images]))])
    ['data.train_images 512 (published all)', 'train.epochs 2 (published 240)']
    """
    return sorted({text for entry in columns for text in entry.split(_SEPARATOR) if text})


def _shown(value: object) -> str:
    if isinstance(value, list | tuple):
        return "/".join(map(str, value)) or "none"
    return "all" if value is None else str(value)
