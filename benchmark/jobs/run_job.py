"""What a job does: train a cell, attack a trained encoder, compute bounds, or time encoder and server."""

import csv
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark import data
from benchmark.attacks import ATTACKS, Attack, Target
from benchmark.attacks.base import NO_QUIRKS, SCORE_BATCH, mean_image, to_bytes, unit
from benchmark.attacks.splits import known, split
from benchmark.bounds.measure import bounds_of
from benchmark.config import CEM, Bounds, Knowledge, Model, Quirks, Train
from benchmark.data import DataSet, ImageSet
from benchmark.defenses import DEFENSES, Defense
from benchmark.errors import Diverged, UserError, writing
from benchmark.jobs.efficiency import measure
from benchmark.jobs.pictures import save_pictures
from benchmark.jobs.provenance import provenance, told_commit
from benchmark.jobs.stages import Stages
from benchmark.matrix.cells import Job
from benchmark.metrics.reconstruction import combine, mse_per_image, summarise
from benchmark.metrics.ssim import ssim_per_image
from benchmark.models import SplitModel
from benchmark.store.store import CHECKPOINT, ENCODER, HISTORY, PER_IMAGE, Store
from benchmark.text import told
from benchmark.training import checkpoint, device, graph, loop
from benchmark.training.loop import seeded
from benchmark.training.train import Recipe, Training, build_defense, build_model

RELEASED = "released"  # in a training's configuration: checksums of the authors' files it was read from
ALL_OFF = NO_QUIRKS.model_dump()


@dataclass
class Features:
    """The clean features of the encoder last attacked, on the device, so that its attacks compute them once.

    Callers must not change them.
    """

    encoder: tuple = ()
    parts: dict[tuple, Tensor] = field(default_factory=dict)

    def get(self, encoder: tuple, part: tuple, compute: Callable[[], Tensor]) -> Tensor:
        """The features of `part` (of the data) by `encoder` (a training and its arithmetic); compute() if new."""
        if encoder != self.encoder:
            self.encoder, self.parts = encoder, {}
        if part not in self.parts:
            self.parts[part] = compute()
        return self.parts[part]

    def clear(self) -> None:
        """Free their memory."""
        self.encoder, self.parts = (), {}


@dataclass
class Machine:
    """What the jobs of one process share: the device, the folders, and the data sets already loaded."""

    store: Store
    data_root: Path
    device: torch.device
    loaded: dict[tuple, DataSet] = field(default_factory=dict)
    features: Features = field(default_factory=Features)
    cells_at_once: int = 1  # how many such processes share the device, for the provenance

    def __post_init__(self):
        device.settle(self.device)
        told_commit()  # a bad value is reported before any job
        if self.device.type == "cuda":
            graph.allowed()

    def data(self, config: dict) -> DataSet:
        """The images of a training's configuration, on the device; the last data set used stays loaded."""
        counts = (config["data"]["train_images"], config["data"]["test_images"])
        key = (config["dataset"], config["fingerprint"], *counts)
        if key not in self.loaded:
            self.loaded.clear()
            self.loaded[key] = data.subset(self._whole(*key[:2]), *counts).to(self.device)
        return self.loaded[key]

    def others(self, knowledge: dict) -> DataSet | None:
        """The other data set in an attack job's configuration, on the device; None if it is the cell's own."""
        name = knowledge["dataset"]
        return None if name is None else self._whole(name, knowledge["fingerprint"]).to(self.device)

    def _whole(self, name: str, fingerprint: str | None) -> DataSet:
        """The prepared data set. UserError unless it is the one that the job's key names by its fingerprint."""
        found = data.load(name, self.data_root)
        if found.fingerprint != fingerprint:
            raise UserError(
                f"the data set {name} in {self.data_root} was prepared from other images since the run began (their "
                f"fingerprint is {found.fingerprint[:8]}, this job's {str(fingerprint)[:8]}); run again for the images "
                "that are there now"
            )
        return found


def execute(job: Job, folder: Path, machine: Machine, monitor) -> dict:
    """Run a job in its working folder and move it to its place in the store; returns its metrics.

    A run whose loss stops being finite is a result too: it is recorded as `diverged`, with no values.
    """
    start = time.perf_counter()
    if machine.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(machine.device)
    with Stages(machine.device) as stages:
        try:
            for role, parent in job.parents.items():
                known = machine.store.metrics(parent)
                if known["status"] == "diverged" and (role == "train" or not job.chooses):
                    raise Diverged(f"{parent.what} diverged: {known['reason']}")
            values, extra = _KINDS[job.kind](job, folder, machine, monitor, stages)
            # a reason says why values that this kind of job could have are missing
            metrics = {"status": "done", "reason": extra.pop("reason", ""), "values": values}
        except Diverged as error:
            metrics, extra = {"status": "diverged", "reason": told(error), "values": {}}, {}
    seconds = time.perf_counter() - start + stages.earlier
    record = provenance(machine.device) | extra
    record |= {"seconds": round(seconds, 3), "peak_memory_mib": peak_memory(machine.device)}
    record |= stages.record() | {"cells_at_once": machine.cells_at_once}
    machine.store.finish(job, metrics, record)
    return metrics


def _train(job: Job, folder: Path, machine: Machine, monitor, stages: Stages) -> tuple[dict, dict]:
    if RELEASED in job.config:
        raise UserError("a released model is read, not trained: run attack-released on its folder again")
    machine.features.clear()  # room for the training
    with stages("load"):
        recipe, images = recipe_of(job), machine.data(job.config)
    with stages("prepare"):
        precision = device.precision(machine.device, recipe.train.precision)
        task = Training(recipe, images, machine.device, precision)
    _fit(task, folder, monitor, stages)
    values: dict[str, float] = {"best_epoch": int(task.best_accuracy[1])}
    if recipe.quirks.q6_test_selection:
        values["accuracy_percent"] = float(task.best_accuracy[0])
    else:
        task.model = build_model(recipe, images, machine.device, task.best["widths"])
        task.model.load_state_dict(task.best["weights"])
        task.defense.load_learned(task.best.get("defense", {}))
        with stages("evaluate"):
            values["accuracy_percent"] = task.accuracy(images.test.images, images.test.labels)
    with stages("save"):
        checkpoint.save(folder / CHECKPOINT, task.best)
        checkpoint.save(folder / ENCODER, encoder_of(task.best))
    return values, _record(task, task.epochs * task.steps, images)


def _attack(job: Job, folder: Path, machine: Machine, monitor, stages: Stages) -> tuple[dict, dict]:
    attack = ATTACKS.get(job.config["attack"])
    if job.chooses:
        return _select(job, folder, machine)
    with stages("prepare"):
        scene = prepare_attack(job, machine)
    task, images = scene.task, scene.images
    if "warm_start" in job.parents:
        task.warm_up(checkpoint.load(machine.store.checkpoint(job.parents["warm_start"])))
    if "start" in job.parents:
        with stages("prepare"):
            task.start(
                {"images": torch.cat(list(rebuilt_attack(job.parents["start"], machine).task.reconstructions()))}
            )
    if fit := job.parents.get("fit"):
        task.start(checkpoint.load(machine.store.checkpoint(fit)))
        shutil.copyfile(machine.store.path(fit) / HISTORY, folder / HISTORY)
        final_loss = {"final_loss": machine.store.metrics(fit)["values"]["final_loss"]}
    else:
        history = _fit(task, folder, monitor, stages)
        final_loss = {"final_loss": history[-1]["loss"]} if history else {}
    with stages("evaluate"):
        per_image, rebuilt = score_images(task.reconstructions(), scene.score)
        blind = mean_image_mse(scene.fit, scene.score)
    with stages("save"):
        checkpoint.save(folder / PER_IMAGE, per_image)
        if images.publishable:  # pictures of people never reach the results
            save_pictures(folder, scene.score.images.cpu(), rebuilt, **per_image)
        if attack.keeps_state and (images.publishable or not attack.keeps_pictures):
            checkpoint.save(folder / CHECKPOINT, task.fitted())
    values = summarise(per_image["mse"], per_image["ssim"], attack.psnr_batch)
    values |= task.found(values) | {"mse_of_mean_image": blind}
    values |= {"fitted_on": len(scene.fit), "scored_on": len(scene.score)} | final_loss
    return values, _record(task, 0 if fit else task.epochs * task.steps, images)


def _fit(task: Training | Attack, folder: Path, monitor, stages: Stages) -> list[dict[str, float]]:
    """Fit the task and return its history, which is also written; a closed form has none."""
    monitor.images = task.steps * task.batch_size
    with stages("fit"):
        history = loop.run(task, folder / "state.safetensors", monitor)
    stages.add("fit", task.earlier)
    if history:
        path = folder / HISTORY
        with writing(path), open(path, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            writer = csv.DictWriter(file, history[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(history)
    return history


def _record(task: Training | Attack, steps: int, images: DataSet) -> dict:
    """How a training or an attack ran, for its provenance."""
    precision, graphs = task.where["precision"], task.captured.used
    return {"precision": precision, "cuda_graphs": graphs, "steps": steps, "fingerprint": images.fingerprint}


def _select(job: Job, folder: Path, machine: Machine) -> tuple[dict, dict]:
    """The best of the other attackers' finished results; those that diverged have none.

    If one is chosen for a metric, its numbers count, and its per-image values are kept if they are here: results that
    come with the project are without them.
    """
    selection, store = ATTACKS.get(job.config["attack"])(), machine.store
    others = {role: store.metrics(parent) for role, parent in job.parents.items() if role != "train"}
    found = {role: metrics["values"] for role, metrics in others.items() if metrics["status"] == "done"}
    if not found:
        raise Diverged("all other attackers of the row diverged")

    def per_image_of(role: str) -> dict[str, Tensor]:
        return checkpoint.load(store.checkpoint(job.parents[role], PER_IMAGE))

    told = {"members": list(found), "chosen": {}}
    if selection.by_image:
        per_image = selection.select({role: per_image_of(role) for role in found})
        values = summarise(per_image["mse"], per_image["ssim"], SCORE_BATCH)
    else:
        chosen = told["chosen"] = selection.choose(found)
        values = combine(found[chosen["mse"]], found[chosen["ssim"]])
        kept = all(store.checkpoint(job.parents[role], PER_IMAGE).is_file() for role in chosen.values())
        per_image = {metric: per_image_of(role)[metric] for metric, role in chosen.items() if kept}
    if per_image:
        checkpoint.save(folder / PER_IMAGE, per_image)
    return values | {"scored_on": next(iter(found.values()))["scored_on"]}, told


@dataclass(frozen=True)
class Scene:
    """An attack ready to be fitted: the images it is fitted and scored on, and the attacked split network."""

    task: Attack
    fit: ImageSet
    score: ImageSet
    images: DataSet


def prepare_attack(job: Job, machine: Machine) -> Scene:
    """An attack's task on its trained encoder, which must be in the store with its weights."""
    parent, attack = job.parents["train"], ATTACKS.get(job.config["attack"])
    model, defense, images = _trained(job, machine)
    autocast, seed = defense.setting.autocast, parent.config["seed"]
    images_of = "train" if "fit" in job.parents else job.config["split"]
    ordered = images_of == "infer" and defense.setting.quirks.q5_ordered_split
    fit, score = split(images_of, images, ordered, seed)
    knowledge, passes = job.config.get("knowledge"), 1
    if knowledge:
        other = machine.others(knowledge)
        fit, passes = known(fit, Knowledge(**{name: knowledge[name] for name in Knowledge.model_fields}), other)
        # images rebuilt by a closed form are mixtures of the attacker's images
        images = replace(images, publishable=images.publishable and (other is None or other.publishable))

    def features_of(role: str, part: ImageSet) -> Tensor:
        named = (role, images_of, ordered, *(knowledge.items() if knowledge and role == "fit" else ()))
        return machine.features.get(
            (parent.key, autocast["enabled"]), named, lambda: encode(model, images, part, autocast)
        )

    scored = features_of("score", score)
    params = attack.Params(**job.config["params"])
    send = attack.channel(params, lambda z, generator: defense.transform(z, generator, "attack"), defense.kept)
    target = Target(
        features=features_of("fit", fit),
        images=fit.images,
        send=send,
        image_size=images.image_size,
        device=machine.device,
        seed=seed,
        autocast=autocast,
        encode=encoder_on(model, images, autocast),
        kept=defense.kept,
        misfit=defense.misfit,
        received=send(scored, seeded(machine.device, "score", seed)),
        split=job.config["split"],
        quirks=Quirks(**(ALL_OFF | job.config["quirks"])),
        tested=(scored, score.images),
        passes=passes,
    )
    return Scene(attack(params, target), fit, score, images)


def rebuilt_attack(job: Job, machine: Machine) -> Scene:
    """A finished attack as it was when it was scored. UserError if its state is missing."""
    scene = prepare_attack(job, machine)
    scene.task.start(checkpoint.load(machine.store.checkpoint(job)))
    return scene


def trained_model(weights: Path, machine: Machine, recipe: Recipe, images: DataSet) -> SplitModel:
    """The network of a finished training, in evaluation mode, its weights frozen. weights: its verified checkpoint."""
    best = checkpoint.load(weights)
    model = build_model(recipe, images, machine.device, best["widths"])
    model.load_state_dict(best["weights"])
    return model.eval().requires_grad_(False)


def encoder_on(model, images: DataSet, autocast: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    """Images in [0, 1] -> clean features fp32, differentiable."""

    def encode(x01: Tensor) -> Tensor:
        with torch.autocast(**autocast):
            return model.encoder(data.normalise(x01, images.mean, images.std)).float()

    return encode


def _bounds(job: Job, folder: Path, machine: Machine, monitor, stages: Stages) -> tuple[dict, dict]:
    with stages("load"):
        model, defense, images = _trained(job, machine)
    autocast, seed = defense.setting.autocast, job.cell["seed"]
    with stages("prepare"):
        train, test = (encode(model, images, part, autocast).flatten(1) for part in (images.train, images.test))
    with stages("measure"):
        params = Bounds(**job.config["params"])
        values, reason = bounds_of(model, defense, images, train, test, params, seed, monitor)
    return values, {
        "precision": device.where(autocast)["precision"],
        "fingerprint": images.fingerprint,
        "reason": reason,
    }


def encoder_of(best: dict) -> dict:
    """The small part of a training's checkpoint that an attacker needs: the encoder's weights, its widths, and what the
    defence learned, if anything."""
    prefix = "encoder."
    weights = {name.removeprefix(prefix): value for name, value in best["weights"].items() if name.startswith(prefix)}
    return best | {"weights": weights}


def _trained(job: Job, machine: Machine) -> tuple[SplitModel, Defense, DataSet]:
    """(network in evaluation mode, defence, data set) of the finished training that an attack, or bounds, are about.

    Only the encoder of the network is loaded. The defence knows the quirks of `job`, and the arithmetic.
    """
    parent = job.parents["train"]
    recipe, images = recipe_of(parent, job.config["quirks"]), machine.data(parent.config)
    autocast = device.arithmetic(machine.device, _precision_of(parent, machine))
    best = checkpoint.load(machine.store.checkpoint(parent, ENCODER))
    model = build_model(recipe, images, machine.device, best["widths"])
    model.encoder.load_state_dict(best["weights"])
    del model.server
    defense = build_defense(recipe, images, model, machine.device, autocast)
    defense.load_learned(best.get("defense", {}))
    return model.eval().requires_grad_(False), defense.requires_grad_(False), images


def _efficiency(job: Job, folder: Path, machine: Machine, monitor, stages: Stages) -> tuple[dict, dict]:
    with stages("measure"):
        return measure(job.config, machine.device), {}


_KINDS = {"train": _train, "attack": _attack, "bounds": _bounds, "efficiency": _efficiency}


def _precision_of(parent: Job, machine: Machine) -> str:
    """Of an attack: that of its training, if it ran on the same kind of device, but fp32 where bf16 would be emulated.

    A CPU without instructions for bf16 would take days for an attack on an encoder that was trained on another one.
    """
    record, here = machine.store.provenance(parent), device.precision(machine.device, "auto")
    if record.get("device_type") == machine.device.type and record.get("precision") in ("fp32", here):
        return record["precision"]
    wanted = parent.config["train"]["precision"]
    return here if wanted == "auto" else wanted


def recipe_of(job: Job, quirks: dict | None = None) -> Recipe:
    """The recipe in a training job's configuration; `quirks` are those of an attack on it."""
    config = job.config
    defense = DEFENSES.get(config["defense"]["name"])
    return Recipe(
        model=Model(**config["model"]),
        train=Train(**config["train"]),
        defense=defense,
        params=defense.Params(**config["defense"]["params"]),
        cem=CEM(**config["cem"]) if config["cem"] else None,
        quirks=Quirks(**(ALL_OFF | config["quirks"] | (quirks or {}))),
        seed=config["seed"],
    )


@torch.no_grad()
def encode(model, images: DataSet, part: ImageSet, autocast: dict[str, Any]) -> Tensor:
    """Clean features of un-augmented images, fp32 [N, C, h, w]; computed once, kept on the device."""
    encoder = encoder_on(model, images, autocast)
    features = torch.empty(len(part), *model.feature_shape, device=part.images.device)
    for images_of, found in zip(part.images.split(SCORE_BATCH), features.split(SCORE_BATCH), strict=True):
        found.copy_(encoder(unit(images_of)))
    return features


def score_images(rebuilt: Iterable[Tensor], score: ImageSet) -> tuple[dict[str, Tensor], Tensor]:
    """Per-image MSE and SSIM of reconstructions (fp32 [N]), and the images as bytes (uint8 [N, 3, H, W]); on the CPU.

    rebuilt: consecutive batches [B, 3, H, W] in [0, 1], of all the images of `score`.
    """
    mse, ssim, pictures, start = [], [], [], 0
    for batch in rebuilt:
        x01 = data.to_unit(score.images[start : start + len(batch)])
        mse.append(mse_per_image(batch, x01))
        ssim.append(ssim_per_image(batch, x01))
        pictures.append(to_bytes(batch).cpu())
        start += len(batch)
    return {"mse": torch.cat(mse).cpu(), "ssim": torch.cat(ssim).cpu()}, torch.cat(pictures)


def mean_image_mse(fit: ImageSet, score: ImageSet) -> float:
    """The MSE of the mean-image baseline: answering every feature with the mean of the attacker's images."""
    mean = mean_image(fit.images, torch.float64)
    squares = [(data.to_unit(part).double() - mean).square().sum() for part in score.images.split(SCORE_BATCH)]
    return float(sum(squares) / score.images.numel())


def peak_memory(where: torch.device) -> float:
    """MiB: the job's peak on a GPU; on a CPU the process's peak so far, which is all the system reports."""
    if where.type == "cuda":
        return round(torch.cuda.max_memory_allocated(where) / 2**20, 1)
    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, KiB on Linux
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)
