"""Everything in a store, from any suite, as cells: for questions that no single suite answers.

A cell's `suite` is here a hash of the training's configuration without its seed, so that the seeds of one setting
stand together and no two settings do.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pandas as pd

from benchmark.attacks import ATTACKS
from benchmark.config import Data
from benchmark.data import DATASETS
from benchmark.departures import Departure
from benchmark.errors import UserError, foreign
from benchmark.jobs.run_job import RELEASED, recipe_of
from benchmark.matrix.cells import Cell, Job
from benchmark.matrix.departed import of_attack, of_training
from benchmark.matrix.load import MatrixFile
from benchmark.store.known import finished_jobs
from benchmark.store.store import Store
from benchmark.training.train import version

ABOUT = ["suite", "epochs", "measured_by"]


def stored_cells(store: Store, say: Callable[[str], None]) -> list[Cell]:
    """The finished attacks on trainings on a whole data set, and these trainings, once for each of their protocols.

    Only attackers with all images of their split. If one attacker has several results on one training (other budgets),
    the one with the lowest MSE is taken. `say` gets a line about each unreadable result, and about each row with an
    unknown defence or data set.
    """
    matrix, attacks, trainings = MatrixFile(), {}, {}
    for job in finished_jobs(store, say):
        try:
            with foreign(f"{store.root / job.folder} is left out of the leaderboard"):
                if job.kind != "attack" or any(job.cell["data"].values()) or "knowledge" in job.config:
                    continue
                value = store.metrics(job)["values"].get("mse")
                cell = _cell(job, matrix)
                training = replace(cell, attacker="", split="", job=job.parents["train"])
                store.metrics(training.job)
        except UserError as error:
            say(str(error))
            continue
        place = (training.job.key, cell.protocol, cell.attacker, cell.split)
        if value is not None and value < attacks.get(place, (float("inf"),))[0]:
            attacks[place] = (value, cell)
            trainings[training.job.key, cell.protocol] = training
    return [*trainings.values(), *(cell for _, cell in attacks.values())]


def about(cells: list[Cell], store: Store) -> pd.DataFrame:
    """A line for each `suite` of `stored_cells`: epochs of the training, and who measured it (the names that archives
    give, and the devices); the columns are ABOUT."""
    lines = []
    for suite, some in pd.Series(cells).groupby([cell.suite for cell in cells]):
        config = some.iloc[0].job.cell
        records = [(store.submitter(cell.job), store.provenance(cell.job).get("device", "unknown")) for cell in some]
        who = [", ".join(sorted(set(map(str, named)) - {""})) for named in zip(*records, strict=True)]
        who += ["trained by the paper's authors"] if RELEASED in config else []
        lines.append([suite, config["train"]["epochs"], "; ".join(filter(None, who))])
    return pd.DataFrame(lines, columns=ABOUT)


def _cell(job: Job, matrix: MatrixFile) -> Cell:
    training = job.parents["train"].config
    seedless = {name: value for name, value in training.items() if name != "seed"}
    estimator = training["cem"]["estimator"] if training["cem"] else "off"
    cem = "on" if estimator == "scalar" else estimator
    quirks = training["quirks"] | job.config["quirks"]
    off = [name.partition("_")[0] for name, on in quirks.items() if not on]
    protocol = "published" if not off else "corrected" if len(off) == len(quirks) else f"without {', '.join(off)}"
    return Cell(
        suite=hashlib.sha256(json.dumps(seedless, sort_keys=True).encode()).hexdigest()[:12],
        dataset=training["dataset"],
        defense=training["defense"]["name"],
        cem=cem,
        attacker=job.config["attack"],
        split=job.config["split"],
        protocol=protocol,
        seed=training["seed"],
        job=job,
        departures=_departures(job, cem, matrix),
    )


def _images(training: dict[str, Any]) -> list[Departure]:
    """Which images they were, where these are not known to be the whole data set: a store holds no data to count."""
    name, fingerprint = training["dataset"], training["fingerprint"]
    source = DATASETS.get(name) if name in DATASETS.names() else None
    if source is None or source.embedded or fingerprint == source.official:
        return []
    return [Departure("data.fingerprint", str(fingerprint)[:8], source.official[:8] or "unknown")]


def _departures(job: Job, cem: str, matrix: MatrixFile) -> tuple[Departure, ...]:
    """How an attack and its training depart from the values of the shipped matrix, where it has them."""
    training, known = job.cell, matrix.matrix
    recipe, defense, attacker = recipe_of(job.parents["train"]), training["defense"]["name"], job.config["attack"]
    dataset = training["dataset"] if training["dataset"] in known.datasets else next(iter(known.datasets))
    shipped = matrix.settings(dataset, defense if defense in known.defenses else next(iter(known.defenses)), cem, [])
    ours: Any = SimpleNamespace(
        data=Data(**training["data"]),
        model=recipe.model,
        train=recipe.train,
        params=recipe.params if defense in known.defenses else None,
        cem=recipe.cem,
    )
    found = [*_images(training), *of_training(ours, shipped)]
    if attacker in known.attacks:
        found += of_attack(attacker, ATTACKS.get(attacker).Params(**job.config["params"]), shipped)
    now = version(recipe.model.arch)
    if training["version"] != now:
        found.append(Departure("train.version", training["version"], now, "now"))
    return tuple(found)
