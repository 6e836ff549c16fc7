"""Are the rebuilt images recognised? A classifier without a defence names the class of each.

For FaceScrub a class is a person, so this is an identification rate. It is measured after the attacks, from the state
that each attack kept, and stored beside its result: no job's key or number depends on it.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmark import data
from benchmark.attacks.base import SCORE_BATCH
from benchmark.errors import UserError
from benchmark.jobs.reconstruct import ask, rebuild, require
from benchmark.jobs.run_job import Machine, Scene, recipe_of, trained_model
from benchmark.matrix.cells import Cell, Job
from benchmark.metrics import correct_count
from benchmark.models import SplitModel
from benchmark.store import checksums, solid
from benchmark.store.store import CHECKPOINT


def recognise(
    cells: list[Cell], suite: list[Cell], machine: Machine, classifier: Path | None
) -> Iterator[tuple[Cell, str]]:
    """Measure every finished attack of `cells`; yields each cell with its result, or why there is none.

    suite: all cells of their suite. classifier: the folder of a finished training; None takes the row `none` of the
    suite, with the same data set, protocol and seed.
    """
    given = (_read_job(classifier), classifier) if classifier else None

    def measure(cell: Cell) -> str:
        require(cell.job, machine.store)
        return _told(_measure(cell, *(given or _undefended(cell, suite, machine)), machine))

    return ask(cells, measure)


def _undefended(cell: Cell, suite: list[Cell], machine: Machine) -> tuple[Job, Path]:
    """The cell's own classifier without a defence, and its folder."""
    wanted = (cell.dataset, "none", "off", cell.protocol, cell.seed, "train")
    for other in suite:
        if (other.dataset, other.defense, other.cem, other.protocol, other.seed, other.job.kind) == wanted:
            return other.job, machine.store.path(other.job)
    raise UserError("the suite has no row `none` of this data set, protocol and seed; give one with --classifier")


def _measure(cell: Cell, judge: Job, folder: Path, machine: Machine) -> dict:
    """The rates in percent, read from an earlier call with the same classifier if there was one."""
    job = cell.job
    if judge.config["dataset"] != cell.dataset:
        raise UserError(f"the classifier is of {judge.config['dataset']}")
    if not (folder / CHECKPOINT).is_file():
        raise UserError(f"the classifier has no {folder / CHECKPOINT}")
    if (found := machine.store.recognition(job)).get("classifier") == judge.key:
        return found
    scene, x01 = rebuild(job, machine)
    checksums.verify(folder / CHECKPOINT)
    model = trained_model(folder / CHECKPOINT, machine, recipe_of(judge), scene.images)
    found = {
        "classifier": judge.key,
        "recognised_percent": _rate(model, x01, scene),
        "originals_recognised_percent": _rate(model, data.to_unit(scene.score.images), scene),
        "chance_percent": 100 / scene.images.classes,
    }
    machine.store.add(job, checksums.RECOGNITION, found)
    return found


@torch.no_grad()
def _rate(model: SplitModel, x01: torch.Tensor, scene: Scene) -> float:
    """Percent of the images [N, 3, H, W] in [0, 1] whose class the model names."""
    mean, std = scene.images.mean, scene.images.std
    pairs = zip(x01.split(SCORE_BATCH), scene.score.labels.split(SCORE_BATCH), strict=True)
    right = sum(int(correct_count(model(data.normalise(x, mean, std)), labels)) for x, labels in pairs)
    return 100 * right / len(scene.score)


def _told(found: dict) -> str:
    return (
        f"{found['recognised_percent']:.1f} % recognised (originals {found['originals_recognised_percent']:.1f} %, "
        f"chance {found['chance_percent']:.1f} %)"
    )


def _read_job(folder: Path) -> Job:
    """The training in this finished folder."""
    try:
        solid.require(folder.resolve(), folder.resolve())
        content = json.loads((folder / "job.json").read_text())
        job = Job(content["kind"], content["config"])
        if content["kind"] != "train" or job.key != content["key"]:
            raise ValueError("not a training of this version")
        return job
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"--classifier {folder} is not the folder of a finished training ({error}); give one below the results, "
            "such as results/cifar100/none/train-..."
        ) from None
