"""Expands a suite to its cells and their jobs (cells.py)."""

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from benchmark import data
from benchmark.attacks import ATTACKS, Selection
from benchmark.bounds import VERSION as BOUNDS_VERSION
from benchmark.config import Knowledge, Quirks, Split
from benchmark.defenses import DEFENSES
from benchmark.departures import Departure
from benchmark.errors import UserError, foreign
from benchmark.matrix.cells import Cell, Job, Point
from benchmark.matrix.departed import changed, of_attack, of_training
from benchmark.matrix.load import EFFICIENCY, NO_CEM, ROW_AXES, Change, MatrixFile, Settings
from benchmark.matrix.source import suggest
from benchmark.training.train import version

# the quirks that a training reads, by its form of CEM, and an attack, by its split (defences and attackers name theirs)
_CEM_QUIRKS = {"scalar": ("q1", "q2", "q10")}
_SPLIT_QUIRKS = {"train": (), "infer": ("q5",)}

AXES = ("dataset", "defense", "cem", "kind", "attacker", "split", "protocol", "seed")
MOST_CELLS = 100_000  # of a suite; the largest of ours has some thousands


def expand(
    file: MatrixFile,
    suite: str,
    data_root: Path,
    where: dict[str, list[str]] | None = None,
    changes: list[Change] | None = None,
) -> list[Cell]:
    """All cells of a suite that match `where`, in the order of the matrix. UserError for an unknown name or path.

    A data set's fingerprint, found below `data_root`, is part of the keys. If the data set is not prepared, its
    official fingerprint is used, or that of the suite's `images`, or `None` if both are unknown.
    """
    if suite not in file.matrix.suites:
        raise UserError(f"unknown suite '{suite}'; {suggest(suite, file.matrix.suites)}")
    names = _included(file, suite)
    for change in changes or []:
        file.require_condition(change.only, ROW_AXES, change.where)
    for name in names:
        _require_few(file, name)
        _require_unswept(file, name, changes or [])
    expansions = {name: _Expansion(file, suite, changes or [], *_facts(file, name, data_root)) for name in names}
    cells = [cell for name, expansion in expansions.items() for cell in expansion.cells(name)]
    cells = list({_identity(cell): cell for cell in reversed(cells)}.values())[::-1]  # two suites may hold the same
    return select(cells, where or {}, suite)


def jobs(cells: list[Cell]) -> list[Job]:
    """Every job the cells need, once each, parents first."""
    found: dict[str, Job] = {}

    def add(job: Job) -> None:
        for parent in job.parents.values():
            add(parent)
        found.setdefault(job.key, job)

    for cell in cells:
        add(cell.job)
    return list(found.values())


def parse_where(texts: list[str]) -> dict[str, list[str]]:
    """`--where defense=patrol,cem=on` -> {axis: values}; an axis named twice takes both values."""
    where: dict[str, list[str]] = {}
    for part in (part for text in texts for part in text.split(",")):
        axis, equals, value = (word.strip() for word in part.partition("="))
        if not equals or axis not in AXES or not value:
            allowed = ", ".join(AXES)
            raise UserError(f"--where {part.strip()}: write it as axis=value; the axes are {allowed}")
        where.setdefault(axis, []).append(value)
    return where


def select(cells: list[Cell], where: dict[str, list[str]], suite: str) -> list[Cell]:
    """The cells that match; a training's own cell stays with the attacks on it."""
    for axis, values in where.items():
        known = sorted({str(getattr(cell, axis)) for cell in cells} - {""})
        for value in values:
            if value not in known:
                raise UserError(
                    f"--where {axis}={value}: the suite '{suite}' has no such cell; {suggest(value, known)}"
                )

    def matches(cell: Cell, axis: str) -> bool:
        free = axis in ("attacker", "split") and cell.kind == "train"
        return free or str(getattr(cell, axis)) in where[axis]

    return [cell for cell in cells if all(matches(cell, axis) for axis in where)]


def _identity(cell: Cell) -> tuple:
    axes = (getattr(cell, axis) for axis in AXES)
    return (cell.suite, *axes, cell.job.key, *map(str, cell.departures))


def _included(file: MatrixFile, suite: str) -> list[str]:
    """The suites whose cells `suite` holds, once each: the included ones, then itself."""
    found: dict[str, bool] = {}  # in order; False while its own inclusions are being read

    def add(name: str) -> None:
        if found.get(name) is False:
            raise UserError(f"{file.where(('suites', name))}: the suite '{name}' includes itself")
        if name not in found:
            found[name] = False
            for inner in file.matrix.suites[name].include:
                add(inner)
            del found[name]  # so that it comes after what it includes
            found[name] = True

    try:
        add(suite)
    except RecursionError:
        raise UserError(f"{file.where(('suites', suite))}: what '{suite}' includes is nested too deep") from None
    return list(found)


def _require_few(file: MatrixFile, name: str) -> None:
    """UserError for a suite whose axes multiply to too many cells."""
    suite = file.matrix.suites[name]
    axes = [file.members(name, axis) for axis in ("dataset", "protocol", "defense", "cem")]
    cells = math.prod(map(len, (*axes, suite.seed))) * (2 + len(file.members(name, "attacker")) * len(suite.split))
    cells *= sum(map(len, suite.sweep.values())) or 1
    if cells > MOST_CELLS:
        raise UserError(f"{file.where(('suites', name))}: the suite '{name}' has {cells} cells; at most {MOST_CELLS}")


def _require_unswept(file: MatrixFile, name: str, changes: list[Change]) -> None:
    """UserError for a change to what the suite sweeps, which would give all its points the same value."""
    for swept in file.matrix.suites[name].sweep:
        for change in changes:
            one, other = _spelt_out(swept), _spelt_out(change.path)
            if len(one) == len(other) and all(a == b or "*" in (a, b) for a, b in zip(one, other, strict=True)):
                raise UserError(f"{change.where}: the suite '{name}' sweeps {swept}; leave {change.path} out")


def _spelt_out(path: str) -> list[str]:
    """A path's parts, `cem.weight` as what it stands for: `cem.*.weight`, the weight of every variant."""
    section, *rest = path.split(".")
    return [section, "*", *rest] if section == "cem" and len(rest) == 1 else [section, *rest]


def _facts(file: MatrixFile, suite: str, data_root: Path) -> tuple[Callable, Callable]:
    """Two functions of a data set's name: its fingerprint, and how it departs from the full one."""
    images = {name: known.model_dump() for name, known in file.matrix.suites[suite].images.items()}

    @functools.cache
    def fingerprint(name: str) -> str | None:
        return data.fingerprint(name, data_root) or images.get(name, {}).get("fingerprint")

    @functools.cache
    def reduced(name: str) -> tuple[Departure, ...]:
        return tuple(data.departures(name, data_root, images.get(name)))

    return fingerprint, reduced


@dataclass(frozen=True)
class _Expansion:
    """One expansion: the file, the suite's name in the cells, the command line's changes, facts about the data sets
    (fingerprint, and how they depart from the full ones)."""

    file: MatrixFile
    name: str
    changes: list[Change]
    fingerprint: Callable[[str], str | None]
    reduced: Callable[[str], tuple[Departure, ...]]
    point: Change | None = None  # of the suite's sweep

    def cells(self, name: str) -> list[Cell]:
        suite = self.file.matrix.suites[name]
        sweep = [(path, value) for path, values in suite.sweep.items() for value in values]
        if self.point is None and sweep:
            return [cell for path, value in sweep for cell in self._at(name, path, value).cells(name)]
        cells = []
        for dataset, protocol, seed, defense, cem in itertools.product(
            self.file.members(name, "dataset"),
            self.file.members(name, "protocol"),
            suite.seed,
            self.file.members(name, "defense"),
            self.file.members(name, "cem"),
        ):
            axes = {"dataset": dataset, "defense": defense, "cem": cem, "protocol": protocol, "seed": seed}
            if not any(_matches(axes, excluded) for excluded in suite.exclude) and self._concerns(defense):
                cells += self._row(name, axes)
        for dataset in suite.efficiency:
            cells += self._efficiency(name, dataset)
        return cells

    def _at(self, name: str, path: str, value: object) -> "_Expansion":
        """The expansion at one point of a suite's sweep."""
        point = Change(path, value, self.file.where(("suites", name, "sweep", path)))
        return replace(self, name=f"{self.name} {Point(path, value)}", point=point)

    def _concerns(self, defense: str) -> bool:
        """Whether the sweep's point changes that defence's rows."""
        kind, _, rest = self.point.path.partition(".") if self.point else ("", "", "")
        return kind != "defenses" or rest.split(".")[0] in ("*", defense)

    def _row(self, name: str, axes: dict) -> list[Cell]:
        """The training cell and the attack cells of one combination."""
        suite = self.file.matrix.suites[name]
        settings = self._settings(name, axes)
        by_split = {split: self._settings(name, axes | {"split": split}) for split in get_args(Split)}
        published = self.file.published.settings(axes["dataset"], axes["defense"], axes["cem"], [])
        quirks = self.file.matrix.protocols[axes["protocol"]]
        parent = self._train_job(axes, settings, quirks)
        common = (*self.reduced(axes["dataset"]), *self._of_quirks(axes["protocol"]))
        common += tuple(of_training(settings, published))
        strength = Point(self.point.path, self.point.value) if self.point else None
        if strength and not strength.of_attacks:
            parent = replace(parent, point=str(strength))
        at: dict[str, Any] = axes | {"strength": strength}
        cells = [Cell(self.name, **at, attacker="", split="", job=parent, departures=common)]
        attackers, known = self.file.members(name, "attacker"), self._known(settings.knowledge)
        unlike = changed("knowledge", settings.knowledge, published.knowledge, "default")
        for attacker, split in itertools.product(attackers, suite.split):
            job = _attack_job(parent, attacker, split, by_split, quirks, attackers, known)
            job = replace(job, point=str(strength)) if strength and strength.of_attacks else job
            involved = _others(attackers) if job.chooses else [attacker]
            own = [one for other in involved for one in of_attack(other, by_split[split].attacks[other], published)]
            own += unlike
            cells.append(Cell(self.name, **at, attacker=attacker, split=split, job=job, departures=(*common, *own)))
        if suite.bounds:
            job = _bounds_job(parent, settings, quirks)
            own = changed("bounds", settings.bounds, published.bounds)
            cells.append(Cell(self.name, **at, attacker="", split="", job=job, departures=(*common, *own)))
        return cells

    def _known(self, knowledge: Knowledge) -> dict:
        """The attacker's images in an attack's configuration: empty for the default, which so is in no key."""
        if knowledge == Knowledge():
            return {}
        other = {} if knowledge.dataset is None else {"fingerprint": self.fingerprint(knowledge.dataset)}
        return {"knowledge": knowledge.model_dump() | other}

    def _of_quirks(self, protocol: str) -> list[Departure]:
        """How a protocol departs from the one with the same name in the file that this one extends."""
        ours, theirs = (file.matrix.protocols[protocol] for file in (self.file, self.file.published))
        return changed(f"protocols.{protocol}", ours, theirs)

    def _settings(self, name: str, axes: dict) -> Settings:
        file, suite = self.file, self.file.matrix.suites[name]
        own = file.changes(("suites", name, "set"), suite.set)
        for index, override in enumerate(suite.overrides):
            if _matches(axes, override.where):
                own += file.changes(("suites", name, "overrides", index, "set"), override.set)
        own += [self.point] if self.point else []
        own += [change for change in self.changes if _matches(axes, change.only)]
        return file.settings(axes["dataset"], axes["defense"], axes["cem"], own)

    def _train_job(self, axes: dict, settings: Settings, quirks: Quirks) -> Job:
        facts = data.DATASETS.get(axes["dataset"])
        config = {
            "dataset": axes["dataset"],
            "fingerprint": self.fingerprint(axes["dataset"]),
            "data": settings.data.model_dump(),
            "input": {"mean": list(facts.mean), "std": list(facts.std), "crop": facts.crop},
            "model": settings.model.model_dump(),
            "train": settings.train.model_dump(),
            "defense": _defense(axes["defense"], settings),
            "cem": settings.cem.model_dump() if settings.cem else None,
            "quirks": _quirks(
                quirks,
                *(_CEM_QUIRKS.get(settings.cem.estimator, ()) if settings.cem else ()),
                *DEFENSES.get(axes["defense"]).train_quirks,
                *("q6", "q7"),
            ),
            "seed": axes["seed"],
            "version": version(settings.model.arch),
        }
        return Job("train", config, resources=settings.resources["train"])

    def _efficiency(self, name: str, dataset: str) -> list[Cell]:
        """Table S6: PATROL's row, and one row for all others, which share encoder and server."""
        cells = []
        for row, defense in EFFICIENCY.items():
            settings = self._settings(name, {"dataset": dataset, "defense": defense, "cem": NO_CEM})
            published = self.file.published.settings(dataset, defense, NO_CEM, [])
            config = {
                "dataset": dataset,
                "model": settings.model.model_dump(),
                "defense": _defense(defense, settings),
                "efficiency": settings.efficiency.model_dump(),
                "version": version(settings.model.arch),
            }
            job = Job("efficiency", config, resources=settings.resources["efficiency"])
            own = tuple(changed("efficiency", settings.efficiency, published.efficiency))
            cells.append(Cell(self.name, dataset, row, "", "", "", "", 0, job, own))
        return cells


def _defense(name: str, settings: Settings) -> dict:
    """A defence in a job's configuration."""
    return {"name": name, "version": DEFENSES.get(name).version, "params": settings.params.model_dump()}


def _attack_job(
    parent: Job,
    attacker: str,
    split: str,
    by_split: dict[str, Settings],
    quirks: Quirks,
    attackers: list[str],
    known: dict,
) -> Job:
    """by_split: split -> the settings of attacks with it; attackers: those of the row; a `Selection` chooses among
    their results; known: from `_known`."""
    attack, settings = ATTACKS.get(attacker), by_split[split]
    parents = {"train": parent}
    warm = attack.warm_start if quirks.q4_gan_warm_start else None
    if warm and warm[0] not in settings.attacks:
        raise UserError(f"with quirk q4 the attacker '{attacker}' starts from '{warm[0]}'; declare that under attacks")
    if warm and warm != (attacker, split):
        parents["warm_start"] = _attack_job(parent, *warm, by_split, quirks, [], known)
    if attack.single_fit and quirks.q14_gan_single_fit and split == "infer":
        parents = {"train": parent, "fit": _attack_job(parent, attacker, "train", by_split, quirks, [], known)}
    with foreign(f"the attacker '{attacker}' does not say from which attack it starts"):
        begun = attack.starts_from(settings.attacks[attacker], split)
    if begun:
        parents["start"] = _attack_job(parent, *begun, by_split, quirks, [], known)
    if issubclass(attack, Selection):
        if not _others(attackers):
            raise UserError(f"the attacker '{attacker}' selects among others: add some to the suite's `attacker`")
        parents |= {name: _attack_job(parent, name, split, by_split, quirks, [], known) for name in _others(attackers)}
    config = {
        "attack": attacker,
        "version": attack.version,
        "params": settings.attacks[attacker].model_dump(),
        "split": split,
        "quirks": _quirks(quirks, *_attack_quirks(attack, parent.config, "train" if "fit" in parents else split)),
    } | known
    return Job("attack", config, parents, settings.resources["attack"])


def _attack_quirks(attack, cell: dict, split: str) -> list[str]:
    """The quirks that affect an attack, with the images of `split`, on a training of configuration `cell`."""
    source = data.DATASETS.get(cell["dataset"])
    idle = {
        "q12": not source.by_class,
        "q13": source.image_size <= 32,  # the critic's map has one position
        "q15": split != "infer",  # no other attack starts from it
    }
    own = [name for name in attack.quirks if not idle.get(name)]
    return [*DEFENSES.get(cell["defense"]["name"]).attack_quirks, *_SPLIT_QUIRKS[split], *own]


def _bounds_job(parent: Job, settings: Settings, quirks: Quirks) -> Job:
    """The job that computes theoretical bounds for what an attacker of the cell receives; with an attack's quirks."""
    config = {
        "version": BOUNDS_VERSION,
        "params": settings.bounds.model_dump(),
        "quirks": _quirks(quirks, *DEFENSES.get(parent.config["defense"]["name"]).attack_quirks),
    }
    return Job("bounds", config, {"train": parent}, settings.resources["bounds"])


def _others(attackers: list[str]) -> list[str]:
    """The attackers of a row among which a `Selection` chooses."""
    return [name for name in attackers if not issubclass(ATTACKS.get(name), Selection)]


def _quirks(quirks: Quirks, *names: str) -> dict[str, bool]:
    """The quirks that affect a job, so that the others do not change its key."""
    return {key: value for key, value in quirks.model_dump().items() if key.partition("_")[0] in names}


def _matches(axes: dict, condition: dict[str, object]) -> bool:
    """Whether the axes have the values of `condition`, each a value or a list of values."""
    return all(
        str(axes.get(axis)) in map(str, wanted if isinstance(wanted, list) else [wanted])
        for axis, wanted in condition.items()
    )
