"""What a suite expands to: cells, each with the job that measures it. A job's key is a hash of all that its result
depends on."""

import functools
import hashlib
import json
from dataclasses import dataclass, field

from benchmark.attacks import ATTACKS, Selection
from benchmark.config import Resources
from benchmark.departures import Departure

OF_ATTACKS = ("attacks", "knowledge")  # sections of the settings on which no training depends


@dataclass(frozen=True)
class Job:
    """One unit of work. `config` holds only JSON values; `parents` are the jobs whose results it reads.

    Neither its result nor its key depends on `resources`, its requests to a cluster, and on `point`, the point of a
    suite's sweep that it is for.
    """

    kind: str  # train, attack, bounds or efficiency
    config: dict
    parents: dict[str, "Job"] = field(default_factory=dict)
    resources: Resources | None = field(default=None, compare=False)
    point: str = field(default="", compare=False)

    @functools.cached_property
    def key(self) -> str:
        """32 hexadecimal digits: the same key means the same result."""
        content = {
            "kind": self.kind,
            "config": self.config,
            "parents": {role: job.key for role, job in self.parents.items()},
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]

    @property
    def cell(self) -> dict:
        """The configuration of this training, or of the training that the job belongs to."""
        return self.parents["train"].config if "train" in self.parents else self.config

    @property
    def images(self) -> dict[str, str | None]:
        """The data sets whose images it reads, with their fingerprints: the cell's, and the one its attacker has."""
        if self.kind == "efficiency":
            return {}
        read = {self.cell["dataset"]: self.cell["fingerprint"]}
        known = self.config.get("knowledge", {})
        return read | ({known["dataset"]: known["fingerprint"]} if known.get("dataset") else {})

    @property
    def folder(self) -> str:
        """Where the finished job lies below the results folder; its name ends in the key."""
        cell = self.cell
        row = cell["defense"]["name"]
        if cell.get("cem"):
            row += "+cem" if cell["cem"]["estimator"] == "scalar" else f"+cem_{cell['cem']['estimator']}"
        return f"{cell['dataset']}/{row}/{self.what}-{self.key[:12]}"

    @property
    def what(self) -> str:
        """`train`, `bounds`, `efficiency`, or attacker and split."""
        return f"{self.config['attack']}-{self.config['split']}" if self.kind == "attack" else self.kind

    @property
    def chooses(self) -> bool:
        """Whether it only chooses among the results of other attacks."""
        return self.kind == "attack" and issubclass(ATTACKS.get(self.config["attack"]), Selection)

    @property
    def title(self) -> str:
        """A line for people, for example `cifar100 patrol+cem seed 125 decoder-infer`, and the point of a sweep."""
        dataset, row, _ = self.folder.split("/")
        seed = f" seed {self.cell['seed']}" if "seed" in self.cell else ""
        point = self.point or (self.parents["train"].point if "train" in self.parents else "")
        return f"{dataset} {row}{seed} {self.what}{f' {point}' if point else ''}"


@dataclass(frozen=True)
class Point:
    """One value of a suite's sweep. As text: `defenses.*.noise_std=0.05`."""

    path: str
    value: object

    @property
    def of_attacks(self) -> bool:
        """Whether it changes only attacks, so that every point of the sweep attacks the same encoders."""
        return self.path.partition(".")[0] in OF_ATTACKS

    def __str__(self) -> str:
        return f"{self.path}={self.value}"


@dataclass(frozen=True)
class Cell:
    """What one job measures; `departures` are from the published setting.

    kind: of the job; attacker and split are "" unless it is an attack, cem and protocol are for an efficiency.
    strength: the point of the suite's sweep, if it has one; `suite` then ends in it, which distinguishes the points.
    """

    suite: str
    dataset: str
    defense: str
    cem: str
    attacker: str
    split: str
    protocol: str
    seed: int
    job: Job
    departures: tuple[Departure, ...]
    strength: Point | None = None

    @property
    def kind(self) -> str:
        """`train`, `attack`, `bounds` or `efficiency`."""
        return self.job.kind

    @property
    def suite_as_declared(self) -> str:
        """The suite's name in the matrix, without a point of its sweep."""
        return self.suite.removesuffix(f" {self.strength}")
