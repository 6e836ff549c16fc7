"""How much work a job is, and how much of it this machine does in a second."""

import functools
import math
import time

import torch
from torch import nn

from benchmark import models
from benchmark.attacks import ATTACKS
from benchmark.data import DATASETS
from benchmark.defenses import DEFENSES
from benchmark.errors import UserError, foreign
from benchmark.matrix.cells import Job
from benchmark.models import macs
from benchmark.training.device import precision, wait


def work(job: Job) -> float:
    """Rough GFLOP of a job: multiply-accumulates of the networks times images, epochs and passes; 0 if unknown (a
    plug-in that fails, a network too large for the memory); the job itself will then report the error."""
    try:
        with foreign(job.title):
            found = _work(job)
    except UserError:
        return 0.0
    return found if math.isfinite(found) else 0.0


def _work(job: Job) -> float:
    cell = job.cell
    encoder, server, shape = _network(job)
    if job.kind == "efficiency":
        settings = cell["efficiency"]
        return 2 * (encoder + server) * settings["batch_size"] * (settings["batches"] + settings["warmup"]) / 1e9
    facts, epochs, asked = DATASETS.get(cell["dataset"]), cell["train"]["epochs"], cell["data"]
    train = min(asked["train_images"] or facts.nominal[0], facts.nominal[0])
    test = min(asked["test_images"] or facts.nominal[1], facts.nominal[1])
    size = facts.image_size

    def scale(fitted: int, scored: int) -> macs.Scale:
        return macs.Scale(shape, size, encoder, fitted, scored, epochs)

    if job.kind == "train":
        defense = DEFENSES.get(cell["defense"]["name"])
        flop = (6 * (encoder + server) * train + 2 * (encoder + server) * test) * epochs
        extra = defense.extra_flop(defense.Params(**cell["defense"]["params"]), scale(train, test))
        return (flop + extra) / 1e9
    params = job.config["params"]
    if job.kind == "bounds":
        images, features, pixels = params["jacobian_images"], math.prod(shape), 3 * size**2
        jacobians = images * (4 * encoder * features + 6 * features * pixels**2)
        return (2 * encoder * (train + test) + 2 * train * pixels**2 + jacobians) / 1e9
    fitted, scored = (train, test) if job.config["split"] == "train" else (test * 9 // 10, test // 10)
    if "fit" in job.parents:  # it scores what another job has fitted
        fitted = 0
    attack = ATTACKS.get(job.config["attack"])
    return max(1e6, attack.flop(attack.Params(**params), scale(fitted, scored))) / 1e9


def gflops(device: torch.device) -> float:
    """GFLOP/s of a conv's training step on this device, in the arithmetic of a run, from half a second of measuring."""
    conv = nn.Conv2d(128, 128, 3, padding=1).to(device, memory_format=torch.channels_last)
    x = torch.rand(64, 128, 16, 16, device=device).contiguous(memory_format=torch.channels_last).requires_grad_()
    flop, best = 6 * 128 * 128 * 9 * 16 * 16 * 64, float("inf")
    bf16 = precision(device, "auto") == "bf16"
    for _ in range(4):
        start = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            y = conv(x)
        y.float().sum().backward()
        wait(device)
        best = min(best, time.perf_counter() - start)
    # a whole step reaches about half the rate of its large convs alone (BatchNorm, pooling, small layers)
    return flop / best / 1e9 / 2


def _network(job: Job) -> tuple[int, int, tuple[int, int, int]]:
    """Multiply-accumulates of encoder and server for one image, and the shape of the feature between them."""
    cell, facts = job.cell, DATASETS.get(job.cell["dataset"])
    defense = DEFENSES.get(cell["defense"]["name"])
    options = cell["model"] | defense.model_options(defense.Params(**cell["defense"]["params"]))
    return _counted(facts.classes, facts.image_size, tuple(options.items()))


@functools.cache
def _counted(classes: int, size: int, options: tuple) -> tuple[int, int, tuple[int, int, int]]:
    model = macs.blank(lambda: models.build(classes=classes, image_size=size, **dict(options)))
    encoder = macs.multiplications(model.encoder, (3, size, size))
    return encoder, macs.multiplications(model.server, model.feature_shape), model.feature_shape
