"""Rebuilds the images of a finished attack from the state that it kept, for later measurements."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmark.attacks.base import SCORE_BATCH
from benchmark.errors import UserError, foreign
from benchmark.jobs.run_job import Machine, Scene, rebuilt_attack, score_images
from benchmark.matrix.cells import Cell, Job
from benchmark.store.store import CHECKPOINT, ENCODER, Store

TOLERANCE, ROUNDING = 0.01, 2e-6  # relative to the MSE, and absolute: some attacks keep their images in bytes


def require(job: Job, store: Store) -> None:
    """UserError if the attack's images cannot be rebuilt, as something for it is missing."""
    if job.chooses:
        raise UserError("it rebuilds no images of its own")
    if not store.done(job) or store.metrics(job)["status"] != "done":
        raise UserError(f"the attack is not done ({store.status(job)[1] or 'diverged'})")
    files = {"attack": store.path(job) / CHECKPOINT, "training": store.path(job.parents["train"]) / ENCODER}
    if missing := [f"the {what} has no {file}" for what, file in files.items() if not file.is_file()]:
        raise UserError("; ".join(missing))


def ask(cells: list[Cell], measure: Callable[[Cell], str]) -> Iterator[tuple[Cell, str]]:
    """Each attack of `cells` with the result of `measure`, or the UserError for which it was skipped."""
    for cell in cells:
        if cell.kind == "attack":
            try:
                with foreign(cell.job.title):  # somebody else's state may have the right form but wrong contents
                    found = measure(cell)
            except UserError as error:  # only this result is affected
                found = f"skipped: {error}"
            yield cell, found


def rebuild(job: Job, machine: Machine) -> tuple[Scene, Tensor]:
    """The attack, and its images, fp32 [N, 3, H, W] in [0, 1], in the order of `score`, on which it was scored.

    UserError if the MSE shows that they are not those of the result.
    """
    scene = rebuilt_attack(job, machine)
    x01 = torch.cat(list(scene.task.reconstructions()))
    mse = float(score_images(x01.split(SCORE_BATCH), scene.score)[0]["mse"].double().mean())
    values = machine.store.metrics(job)["values"]
    stored = values.get("mse_of_test_images", values["mse"])  # with quirk q14, `mse` of a GAN's `train` is for others
    if stored is None or not abs(mse - stored) <= TOLERANCE * stored + ROUNDING:
        raise UserError(
            f"{job.title}: the images rebuilt anew have MSE {mse:.5f}, those of the result {stored}, so its "
            f"weights are of another run: delete {machine.store.path(job)} and run again"
        )
    return scene, x01
