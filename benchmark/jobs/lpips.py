"""How similar the rebuilt images and the originals are to a network: LPIPS of every finished attack.

Measured after the attacks, from the state that each attack kept, and stored beside its result, as in `recognise`.
"""

from collections.abc import Iterator
from pathlib import Path

import torch

from benchmark import data
from benchmark.attacks.base import SCORE_BATCH
from benchmark.jobs.reconstruct import ask, rebuild, require
from benchmark.jobs.run_job import Machine
from benchmark.matrix.cells import Cell, Job
from benchmark.metrics import lowest_percent
from benchmark.metrics.lpips import Lpips, weights_at_hand
from benchmark.store import checksums


def measure(cells: list[Cell], machine: Machine, weights: Path | None) -> Iterator[tuple[Cell, str]]:
    """LPIPS of every finished attack of `cells`; yields each cell with its result, or why there is none.

    weights: file of AlexNet's weights; None looks in torch's cache. UserError if LPIPS cannot be computed at all.
    """
    network = Lpips(weights_at_hand(weights), machine.device)
    return ask(cells, lambda cell: _told(_measure(cell.job, network, machine)))


def _measure(job: Job, network: Lpips, machine: Machine) -> dict:
    """Read from an earlier call with the same weights if there was one."""
    require(job, machine.store)
    if (found := machine.store.lpips(job)).get("weights") == network.sha256:
        return found
    scene, x01 = rebuild(job, machine)
    originals = data.to_unit(scene.score.images)
    pairs = zip(x01.split(SCORE_BATCH), originals.split(SCORE_BATCH), strict=True)
    values = torch.cat([network(a, b) for a, b in pairs]).double().cpu()
    found = {
        "weights": network.sha256,
        "lpips": float(values.mean()),
        "lpips_worst_1_percent": float(lowest_percent(values)),
    }
    machine.store.add(job, checksums.LPIPS, found)
    return found


def _told(found: dict) -> str:
    return f"LPIPS {found['lpips']:.4f} (mean of the best rebuilt 1 %: {found['lpips_worst_1_percent']:.4f})"
