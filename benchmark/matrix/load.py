"""Checked values from the matrix file: defaults, then changes by a data set, a suite and the command line."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from benchmark.attacks import ATTACKS
from benchmark.config import CEM, Bounds, Data, Efficiency, Kinds, Knowledge, Model, Resources, Split, Train
from benchmark.data import DATASETS
from benchmark.defenses import DEFENSES
from benchmark.errors import UserError, foreign
from benchmark.matrix.extend import PAPER, read_matrix
from benchmark.matrix.schema import Matrix, StrengthsFile, Suite
from benchmark.matrix.source import Source, explain, gravest, read_source, read_yaml, shown, suggest
from benchmark.registry import HINT
from benchmark.text import LONGEST_NAME, NAME

Checked = TypeVar("Checked", bound=BaseModel)
DEFAULT = PAPER  # without --matrix: the shipped matrix

# the axes of a suite whose values the matrix declares, and the section that does
DECLARED = {
    "dataset": "datasets",
    "defense": "defenses",
    "cem": "cem",
    "attacker": "attacks",
    "protocol": "protocols",
}
PLUGGED = ("datasets", "defenses", "attacks")  # sections whose names a plug-in may add
PLAIN = ("data", "train", "knowledge", "efficiency", "bounds")  # sections that are settings of every cell as they stand

# the rows of a suite's `efficiency` (Table S6) and their defences, all without CEM
EFFICIENCY = {"patrol": "patrol", "others": "bottleneck"}
NO_CEM = "off"

# what `exclude` and `overrides` may look at: the axes of a table's row (overrides at the split as well)
ROW_AXES = ("dataset", "defense", "cem", "protocol", "seed")


@dataclass(frozen=True)
class Change:
    """One `set` entry: a dotted path, its value, where it was written (for messages), and which rows it is for.

    only: axis -> value or values, as an override's `where`; empty: all rows.
    """

    path: str
    value: object
    where: str
    only: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """Every resolved value of one cell."""

    data: Data
    model: Model
    train: Train
    params: Any  # the defence's Params
    cem: CEM | None
    attacks: dict[str, Any]  # each attacker's Params
    knowledge: Knowledge
    efficiency: Efficiency
    resources: dict[str, Resources]  # of each kind of job
    bounds: Bounds


class MatrixValues:
    """A checked matrix; `settings` resolves the values of one cell.

    Raises UserError naming file, line, key, value and what is allowed.
    """

    def __init__(self, source: Source):
        self.source = source
        matrix = _validate(Matrix, source.value, self.where)
        suites = {name: suite.over(matrix.suite_defaults) for name, suite in matrix.suites.items()}
        self.matrix = matrix.model_copy(update={"suites": suites})
        self._check_names()

    def settings(self, dataset: str, defense: str, cem: str, changes: list[Change]) -> Settings:
        """The values for a data set, defence and CEM variant after the data set's own changes and `changes`."""
        sections = self._sections(dataset, defense, cem)
        own = self.changes(("datasets", dataset, "set"), self.matrix.datasets[dataset].set)
        for change in own + changes:
            self._apply(sections, change, cem)
        self._check_knowledge(sections["knowledge"], dataset)
        return Settings(
            **{name: sections[name] for name in (*PLAIN, "model", "cem")},
            params=sections[f"defenses.{defense}"],
            attacks={name: sections[f"attacks.{name}"] for name in self.matrix.attacks},
            resources={kind: sections[f"resources.{kind}"] for kind in Kinds.model_fields},
        )

    def members(self, suite: str, axis: str) -> list[str]:
        """The values of a suite's axis; `*` stands for everything the matrix declares for it, in its order."""
        names = getattr(self.matrix.suites[suite], axis)
        return list(getattr(self.matrix, DECLARED[axis])) if "*" in names else names

    def changes(self, path: tuple, entries: dict[str, object]) -> list[Change]:
        """The entries of a `set` mapping at `path` of the file."""
        return [Change(key, value, self.where((*path, key))) for key, value in entries.items()]

    def where(self, path: tuple) -> str:
        """`file, line N` of a key."""
        return self.source.where(path)

    def _sections(self, dataset: str, defense: str, cem: str) -> dict[str, Any]:
        matrix = self.matrix
        sections: dict[str, Any] = {name: getattr(matrix, name) for name in PLAIN}
        sections |= {"model": matrix.datasets[dataset].model, "cem": matrix.cem[cem]}
        sections |= {f"resources.{kind}": getattr(matrix.resources, kind) for kind in Kinds.model_fields}
        sections |= {f"defenses.{name}": params for name, params in self._defense_params.items()}
        sections |= {f"attacks.{name}": params for name, params in self._attack_params.items()}
        return sections

    def _apply(self, sections: dict[str, Any], change: Change, cem: str) -> None:
        """Replace one value; `defenses.*.key` and `attacks.*.key` change every member that has the key, `cem.NAME.key`
        only cells with that variant of CEM."""
        section, _, key = change.path.rpartition(".")
        kinds = section.split(".")
        if kinds[0] in ("defenses", "attacks") and kinds[1:] == ["*"]:
            members = [s for s in sections if s.startswith(kinds[0] + ".") and key in type(sections[s]).model_fields]
            if not members:
                raise UserError(f"{change.where}: no member of '{kinds[0]}' has a parameter '{key}'")
        elif kinds[0] == "cem" and len(kinds) == 2 and kinds[1] in self.matrix.cem:
            members = ["cem"] if kinds[1] == cem else []
        elif section in sections and key:
            members = [section]
        else:
            settable = [f"{name}.*" for name in sections]
            raise UserError(f"{change.where}: cannot set '{change.path}'; {suggest(section, settable)}")
        for member in members:
            old = sections[member]
            if old is not None:  # `cem.*` does not affect a cell without CEM
                value = old.model_dump() | {key: change.value}
                sections[member] = _validate(type(old), value, lambda path: change.where)

    @staticmethod
    def _check_knowledge(knowledge: Knowledge, dataset: str) -> None:
        """UserError unless the attacker's data set exists and its images fit the encoder."""
        if knowledge.dataset is None:
            return
        if knowledge.dataset not in DATASETS.names():
            raise UserError(
                f"knowledge.dataset: unknown name '{knowledge.dataset}'; "
                f"{suggest(knowledge.dataset, DATASETS.names())}{HINT}"
            )
        sizes = [DATASETS.get(name).image_size for name in (knowledge.dataset, dataset)]
        if sizes[0] != sizes[1]:
            raise UserError(
                f"knowledge.dataset: images of {knowledge.dataset} have {sizes[0]} px, and {dataset}'s encoders take "
                f"{sizes[1]} px; choose another, or other rows"
            )

    def _check_names(self) -> None:
        """Names that the file uses must exist, and each plug-in's parameters must be ones that it has."""
        matrix = self.matrix
        for section in ("cem", "protocols", "suites"):  # parts of the names of folders and files
            for name in getattr(matrix, section):
                if not re.fullmatch(NAME, name) or len(name) > LONGEST_NAME:
                    where = self.where((section, name))
                    allowed = f"at most {LONGEST_NAME} letters, digits, _ . + -, the first no sign"
                    raise UserError(f"{where}: {section}: the name {shown(name)} is not allowed; {allowed}")
        for name in matrix.datasets:
            self._known(DATASETS.names(), name, ("datasets", name), HINT)
        self._defense_params = self._plugin_params(DEFENSES, "defenses", matrix.defenses)
        self._attack_params = self._plugin_params(ATTACKS, "attacks", matrix.attacks)
        for name, ranges in matrix.calibration.ranges.items():
            self._known(matrix.defenses, name, ("calibration", "ranges", name))
            for parameter in ranges:
                fields = DEFENSES.get(name).Params.model_fields
                self._known(fields, parameter, ("calibration", "ranges", name, parameter))
        self._check_suite(matrix.suite_defaults, ("suite_defaults",))
        for name, suite in matrix.suites.items():
            self._check_suite(suite, ("suites", name))

    def _check_suite(self, suite: Suite, path: tuple) -> None:
        """Check a suite, or the defaults, at `path`."""
        for axis in (*DECLARED, "split", "seed", "efficiency"):
            self._once(getattr(suite, axis), (*path, axis))
        for swept, values in suite.sweep.items():
            self._once(values, (*path, "sweep", swept))
        for index, condition in enumerate(suite.exclude):
            self.require_condition(condition, ROW_AXES, self.where((*path, "exclude", index)))
        for index, item in enumerate(suite.overrides):
            self.require_condition(item.where, (*ROW_AXES, "split"), self.where((*path, "overrides", index)))
            foreign = [name for name in item.set if "split" in item.where and not name.startswith("attacks.")]
            if foreign:
                where = self.where((*path, "overrides", index, "set", foreign[0]))
                raise UserError(f"{where}: a split changes attacks alone; '{foreign[0]}' is not of an attack")
        if suite.efficiency:
            self._require_efficiency((*path, "efficiency"))
        for dataset in suite.images:
            self._known(self.matrix.datasets, dataset, (*path, "images", dataset))
        axes = {axis: [*getattr(self.matrix, section), "*"] for axis, section in DECLARED.items()}
        axes |= {"efficiency": self.matrix.datasets, "include": self.matrix.suites}
        for axis, known in axes.items():
            section = DECLARED.get(axis)
            hint = f"; declare it under `{section}` first{HINT}" if section in PLUGGED else ""
            for index, name in enumerate(getattr(suite, axis)):
                self._known(known, name, (*path, axis, index), hint)

    def require_condition(self, condition: dict[str, object], axes: Sequence[str], where: str) -> None:
        """UserError for a condition (axis -> value or values) on other axes, or with a value that no cell can have."""
        for axis, wanted in condition.items():
            if axis not in axes:
                raise UserError(f"{where}: unknown axis '{axis}'; {suggest(axis, axes)}")
            known = getattr(self.matrix, DECLARED[axis]) if axis in DECLARED else get_args(Split)
            for value in wanted if isinstance(wanted, list) else [wanted]:
                if axis == "seed" and not (isinstance(value, int) and value >= 0):
                    raise UserError(f"{where}: seed {shown(value)} is not allowed; give whole numbers from 0")
                if axis != "seed" and value not in known:
                    raise UserError(f"{where}: unknown {axis} {shown(value)}; {suggest(str(value), known)}")

    def _require_efficiency(self, path: tuple) -> None:
        """UserError unless all is declared that the rows of a suite's `efficiency` are about."""
        needed = [("defenses", name) for name in EFFICIENCY.values()] + [("cem", NO_CEM)]
        lacking = [f"{name} under `{section}`" for section, name in needed if name not in getattr(self.matrix, section)]
        if lacking:
            raise UserError(
                f"{self.where(path)}: {'.'.join(path)}: its rows are those of the defences "
                f"{' and '.join(EFFICIENCY.values())} with cem {NO_CEM}; declare {', '.join(lacking)}, or leave it out"
            )

    def _plugin_params(self, registry, section: str, entries: dict) -> dict[str, Any]:
        params = {}
        for name, values in entries.items():
            self._known(registry.names(), name, (section, name), HINT)
            params[name] = _validate(registry.get(name).Params, values, self.where, (section, name))
        return params

    def _once(self, values: list, path: tuple) -> None:
        """UserError for a value that a list has twice: its cells would also occur twice."""
        seen = []
        for index, value in enumerate(values):
            if (type(value), value) in seen:
                where = self.where((*path, index))
                raise UserError(f"{where}: {'.'.join(map(str, path))}: {shown(value)} stands twice; keep one")
            seen.append((type(value), value))

    def _known(self, known, name: str, path: tuple, hint: str = "") -> None:
        if name not in known:
            raise UserError(f"{self.where(path)}: unknown name '{name}'; {suggest(name, known)}{hint}")


class MatrixFile(MatrixValues):
    """A matrix file merged with all that it extends.

    published: the same with the values of the last extended file, the reference for departures; a file that extends
    none is its own reference.
    """

    def __init__(self, path: Path = DEFAULT):
        source, root = read_matrix(Path(path))
        super().__init__(source)
        self.published = self if root is source else MatrixValues(_published(source, root))


def parse_set(texts: list[str]) -> list[Change]:
    """`--set` texts of the command line: path=value, the value read as YAML, or @FILE of `calibrate`."""
    changes = []
    for text in texts:
        if text.startswith("@"):
            changes += read_strengths(Path(os.path.expanduser(text[1:])))
            continue
        path, equals, value = text.partition("=")
        if not equals or not path.strip():
            raise UserError(f"--set {text}: write it as path=value, for example train.epochs=2")
        parsed, _ = read_yaml(value, f"--set {text}")
        changes.append(Change(path.strip(), parsed, f"--set {text}"))
    return changes


def read_strengths(path: Path) -> list[Change]:
    """The changes that `calibrate` wrote to a file, each for its own row. UserError for a file of another form."""
    source = read_source(path, "file of strengths")
    found = _validate(StrengthsFile, source.value, source.where)
    changes = []
    for index, row in enumerate(found.strengths):
        line = source.where(("strengths", index))
        changes += [Change(key, value, line, row.where) for key, value in row.set.items()]
    return changes


def _published(whole: Source, root: Source) -> Source:
    """`whole` without its suites; each data set, defence, attacker and so on takes the root's values if it is there."""
    value = {}
    for section, members in whole.value.items():
        of_root = root.value.get(section, {})
        value[section] = members | of_root if isinstance(of_root, dict) else of_root
    return Source(value | {"suites": {}}, root.over(whole).places)


def _validate(model: type[Checked], value, where: Callable[[tuple], str], path: tuple = ()) -> Checked:
    """The value at `path` as a record; where(path): the place of a path of keys, for messages."""
    with foreign(where(path)):  # a plug-in's Params may have any validators
        try:
            return model.model_validate(value)
        except ValidationError as error:
            raise UserError(explain(error, model, where((*path, *gravest(error)["loc"])))) from None
