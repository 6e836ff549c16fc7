"""The row of a released folder, from its path.

The released scripts (run_exp.sh) save a row in DATASET/OPTION_infocons_.../pretrain_..._lambd_16_noise_0.025_epoch_240_
bottleneck_noRELU_C8S1_..., so the path gives the defence's option, CEM's weight, the noise and more. Two pairs of rows
share an option: gan_adv is ResSFL or Noise_ARL, nopeek is DistCorr or Noise_Nopeek; the user has to say which.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from benchmark.data import DATASETS
from benchmark.errors import UserError
from benchmark.matrix.load import Change
from benchmark.released.files import ENCODER
from benchmark.text import plain

# options of the released code, in the order of the search -> our row
OPTIONS = {
    r"gan_adv.*pruning\d+": "patrol",
    r"gan_adv(_step\d+)?": "ressfl",
    r"dropout[0-9.]+": "dropout",
    r"nopeek": "distcorr",
    r"None": "bottleneck",
}
TWINS = {"ressfl": "noise_arl", "distcorr": "noise_nopeek"}  # rows that the released code trains with the same option
_VALUE = re.compile(r"(?:^|_)(lambd|noise|epoch|ATstrength|lr|varthres)_([0-9.eE+-]+)(?=_|$)")
_BOTTLENECK = re.compile(r"(?:^|_)bottleneck_(.+?)(?=_log_|$)")
_CHANNELS = re.compile(r"noRELU_C(\d+)S1")
_EXAMPLE = "--defense bottleneck --cem off --noise 0.025"


@dataclass(frozen=True)
class Row:
    """One released folder. values: `--set` path -> value, from its path or the user; doubt: what neither says."""

    folder: Path
    defense: str
    cem: str  # off or on
    noise: float
    values: dict[str, object]
    doubt: str = ""

    @property
    def changes(self) -> list[Change]:
        return [Change(path, value, f"the folder {self.name}") for path, value in self.values.items()]

    @property
    def name(self) -> str:
        """The folder's last two parts: the option and the strengths."""
        return plain("/".join(self.folder.parts[-2:]))


@dataclass(frozen=True)
class Told:
    """What the user says about the rows if their paths do not.

    defenses: part of a path ("" for any) -> the row of the folders with it in their path; it overrides the path.
    """

    defenses: dict[str, str] = field(default_factory=dict)
    cem: str | None = None
    noise: float | None = None


def told(defenses: Iterable[str], cem: str | None, noise: float | None) -> Told:
    """defenses: texts `NAME`, or `PART=NAME`. UserError for a noise that is not a standard deviation."""
    if noise is not None and not (math.isfinite(noise) and noise >= 0):
        raise UserError(f"--noise {noise}: give a standard deviation, 0 or more")
    # the longest part that fits counts
    parts = (text.rpartition("=") for text in defenses)
    pairs = sorted(((part, name) for part, _, name in parts), key=lambda pair: -len(pair[0]))
    return Told(dict(pairs), cem, noise)


def find(folder: Path, dataset: str, user: Told) -> list[Row]:
    """The rows in `folder`, which is a released folder or holds some, in the order of their paths.

    UserError if there is none, if a path names another data set, or if neither path nor user gives the row.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; give one that holds {ENCODER}, or folders that do")
    found = sorted(path.parent for path in folder.resolve().rglob(ENCODER))
    if not found:
        raise UserError(f"no {ENCODER} is in {folder} or in a folder below it; give the folder of a released model")
    return [parse(path, dataset, user) for path in found]


def parse(folder: Path, dataset: str, user: Told) -> Row:
    """The row of one released folder, by its path; `folder` need not exist. UserError as `find`."""
    _require_dataset(folder, dataset)
    named = dict(_VALUE.findall(folder.name))
    option = folder.parent.name.partition("_infocons")[0]
    known = next((row for pattern, row in OPTIONS.items() if re.fullmatch(pattern, option)), None)
    asked = next((row for part, row in user.defenses.items() if part in str(folder)), None)
    defense = asked or known
    weight = _number(folder, "lambd", named)
    cem = _one("--cem", folder, user.cem, None if weight is None else "on" if weight > 0 else "off")
    noise = _one("--noise", folder, user.noise, _number(folder, "noise", named))
    if defense is None or cem is None or noise is None:
        lacking = {"defence": defense, "CEM": cem, "noise": noise}
        what = ", ".join(word for word, value in lacking.items() if value is None)
        raise UserError(f"the path {folder} does not say the row's {what}; say it by options, such as {_EXAMPLE}")
    values: dict[str, object] = {f"defenses.{defense}.noise_std": noise}
    if weight:
        values["cem.weight"] = weight
    for path, key in (("cem.threshold", "varthres"), ("train.lr", "lr")):
        if key in named:
            values[path] = _number(folder, key, named)
    epochs = _number(folder, "epoch", named)
    if epochs is not None:
        values["train.epochs"] = round(epochs)
    values |= _bottleneck(folder)
    twin = TWINS.get(known or "")
    if defense in (known, twin):
        values |= _strengths(folder, dataset, defense, option, named)
    doubt = f"its option is that of {twin} as well; --defense says which" if twin and not asked else ""
    if defense == "patrol" and "defenses.patrol.prune_at" not in values:
        doubt = "its path names no epoch of pruning within its training"
    return Row(folder, defense, cem, noise, values, doubt)


def _strengths(folder: Path, dataset: str, defense: str, option: str, named: dict[str, str]) -> dict[str, object]:
    """The strength of the defence's own term: ATstrength is alpha, dCor's weight 0.1 alpha (CIFAR-10: alpha)."""
    values: dict[str, object] = {}
    alpha = _number(folder, "ATstrength", named)
    if defense in ("distcorr", "noise_nopeek") and alpha is not None:
        values[f"defenses.{defense}.weight"] = alpha if dataset == "cifar10" else alpha / 10
    if defense in ("ressfl", "noise_arl", "patrol") and alpha is not None:
        values[f"defenses.{defense}.weight"] = alpha
    if defense == "dropout":
        values["defenses.dropout.rate"] = _number(folder, "dropout", {"dropout": option.removeprefix("dropout")})
    epochs, pruned = _number(folder, "epoch", named), re.search(r"pruning(\d+)", option)
    if defense == "patrol" and epochs and pruned and int(pruned[1]) <= epochs:  # later: it was never pruned
        # rounded down: one above would say that it was pruned an epoch later
        values["defenses.patrol.prune_at"] = math.floor(int(pruned[1]) / epochs * 1e5) / 1e5
    return values


def _bottleneck(folder: Path) -> dict[str, object]:
    option = _BOTTLENECK.search(folder.name)
    if option is None:
        return {}
    channels = _CHANNELS.fullmatch(option[1])
    if channels is None:
        raise UserError(
            f"the path {folder} names the bottleneck '{option[1]}', another architecture than this benchmark has "
            "(noRELU_C8S1, in whatever number of channels); such a model cannot be attacked here"
        )
    return {"model.bottleneck": int(channels[1])}


def _require_dataset(folder: Path, dataset: str) -> None:
    named = [part.lower() for part in folder.parts[-3:-1] if part.lower() in DATASETS.names()]
    if named and dataset not in named:
        raise UserError(
            f"the path {folder} is of {named[-1]}, but --dataset is {dataset}; give the one it was made for"
        )


def _one(option: str, folder: Path, given, named):
    """The value from the user or the path; UserError if they contradict each other."""
    if given is not None and named is not None and given != named:
        raise UserError(f"{option} {given}: the path {folder} says {named}; leave the option out, or rename the folder")
    return named if given is None else given


def _number(folder: Path, key: str, named: dict[str, str]) -> float | None:
    if key not in named:
        return None
    try:
        value = float(named[key])
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise UserError(f"the path {folder} has {key} {named[key]!r}, which is no number of 0 or more; rename it")
    return value
