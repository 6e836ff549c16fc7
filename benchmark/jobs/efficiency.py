"""Table S6: parameters, multiply-accumulates and inference time of encoder and server."""

import functools
import time

import torch

from benchmark import models
from benchmark.config import Efficiency
from benchmark.data import DATASETS
from benchmark.defenses import DEFENSES
from benchmark.models import macs
from benchmark.training.device import wait


def measure(config: dict, device: torch.device) -> dict:
    """{part_metric: value} for the parts encoder and server; config: of the job.

    params_m: millions; mmac: 1e6 multiply-accumulates for one image by the printed table's convention (see
    models/macs.py), mmac_conv: those of conv and linear layers alone; inference_ms: milliseconds for 100 batches,
    in fp32, from `batches` timed ones after `warmup` untimed ones.
    """
    facts, defense = DATASETS.get(config["dataset"]), DEFENSES.get(config["defense"]["name"])
    params, settings = defense.Params(**config["defense"]["params"]), Efficiency(**config["efficiency"])
    options = config["model"] | defense.model_options(params)
    build = functools.partial(models.build, classes=facts.classes, image_size=facts.image_size, **options)
    network = build(widths=defense.final_widths(params, build().encoder.widths))
    network = network.to(device, memory_format=torch.channels_last).eval()
    size = facts.image_size
    inputs = {
        "encoder": torch.rand(settings.batch_size, 3, size, size, device=device),
        "server": torch.rand(settings.batch_size, *network.feature_shape, device=device),
    }
    values = {}
    for part, x in inputs.items():
        module = getattr(network, part)
        counts = macs.count(module, x[:1])
        values[f"{part}_params_m"] = counts["params"] / 1e6
        values[f"{part}_mmac"] = counts["macs_all"] / 1e6
        values[f"{part}_mmac_conv"] = counts["macs_conv"] / 1e6
        values[f"{part}_inference_ms"] = _milliseconds(module, x, settings, device)
    return values


@torch.inference_mode()
def _milliseconds(module, x, settings: Efficiency, device: torch.device) -> float:
    x = x.contiguous(memory_format=torch.channels_last)
    for _ in range(settings.warmup):
        module(x)
    wait(device)
    start = time.perf_counter()
    for _ in range(settings.batches):
        module(x)
    wait(device)
    return (time.perf_counter() - start) / settings.batches * 100 * 1000
