"""Scores finished results of others again: do their numbers follow from what is stored?

An attack that kept its state rebuilds its images from it. A closed form without a state is computed again from the
encoder alone, without training. Other attacks would have to be run again. The images are rebuilt and scored on this
machine, from its own copy of the data set.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count

from benchmark import data
from benchmark.attacks import ATTACKS
from benchmark.attacks.held_out import ClosedForm
from benchmark.errors import UserError, foreign
from benchmark.jobs.reconstruct import ROUNDING, TOLERANCE
from benchmark.jobs.run_job import Machine, Scene, mean_image_mse, prepare_attack, rebuilt_attack, score_images
from benchmark.matrix.cells import Job
from benchmark.store.store import CHECKPOINT, ENCODER, Store
from benchmark.training import loop

SSIM_TOLERANCE = 0.01
REBUILT, ANEW = "from the state that it kept", "computed again from the encoder"


@dataclass(frozen=True)
class Rescored:
    """The check of a result. agrees: whether all numbers agree; text: what was compared, or why it could not be."""

    job: Job
    agrees: bool
    text: str


def candidates(jobs: Iterable[Job], store: Store) -> list[Job]:
    """The finished attacks that can be scored again; the strongest of each training first, then the second, ..."""
    able = [job for job in jobs if job.kind == "attack" and _way(job, store)]
    able.sort(key=lambda job: (store.metrics(job)["values"]["mse"], job.key))
    places: dict[str, Iterator[int]] = {}
    ranked = [(next(places.setdefault(job.parents["train"].key, count())), job) for job in able]
    return [job for _, job in sorted(ranked, key=lambda item: item[0])]


def rescore(job: Job, machine: Machine, say: Callable[[str], None]) -> Rescored:
    """One of the `candidates`, scored again; `say` gets a line before long computations."""
    way = _way(job, machine.store)
    say(f"{job.title}: {way}")
    try:
        with foreign(job.title):  # somebody else's state may have the right form but wrong contents
            name = job.cell["dataset"]
            if data.fingerprint(name, machine.data_root) != job.cell["fingerprint"]:
                raise UserError(f"{job.title}: it is of other images than those prepared here as {name}")
            scene = rebuilt_attack(job, machine) if way == REBUILT else prepare_attack(job, machine)
            if way == ANEW:
                loop.run(scene.task)
            return _compared(job, way, machine.store.metrics(job)["values"], _scores(scene))
    except UserError as error:
        return Rescored(job, False, str(error))


def _way(job: Job, store: Store) -> str:
    """How the attack can be scored again; "" if it cannot."""
    if job.config["attack"] not in ATTACKS.names() or not (store.path(job.parents["train"]) / ENCODER).is_file():
        return ""
    found = store.metrics(job)
    if job.chooses or found["status"] != "done" or found["values"].get("mse") is None:
        return ""
    if (store.path(job) / CHECKPOINT).is_file():
        return REBUILT
    return ANEW if issubclass(ATTACKS.get(job.config["attack"]), ClosedForm) else ""


def _scores(scene: Scene) -> dict[str, float]:
    per_image, _ = score_images(scene.task.reconstructions(), scene.score)
    found = {name: float(values.double().mean()) for name, values in per_image.items()}
    return found | {"mse_of_mean_image": mean_image_mse(scene.fit, scene.score)}


def _compared(job: Job, way: str, stated: dict, found: dict[str, float]) -> Rescored:
    # with quirk q14, `mse` and `ssim` of a GAN are not only for the test images
    stated = stated | ({"mse": stated["mse_of_test_images"], "ssim": None} if "mse_of_test_images" in stated else {})
    agrees, texts = True, []
    for name, value in found.items():
        if stated.get(name) is not None:
            limit = SSIM_TOLERANCE if name == "ssim" else TOLERANCE * stated[name] + ROUNDING
            agrees &= abs(value - stated[name]) <= limit
            texts.append(f"{name} {value:.5f} (stated {stated[name]:.5f})")
    return Rescored(job, agrees, f"{way}: {', '.join(texts)}")
