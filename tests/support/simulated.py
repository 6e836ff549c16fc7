"""A store full of made-up results, for tests of what shows them: real photographs, blurred as if rebuilt."""

import csv
import functools
import importlib.util
import json
import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import avg_pool2d, interpolate

from benchmark.analysis import published
from benchmark.analysis.collect import BOUNDS
from benchmark.analysis.frame import CELL
from benchmark.data import DATASETS
from benchmark.data.photos import PHOTOGRAPHS
from benchmark.jobs.pictures import save_pictures
from benchmark.matrix.cells import Cell, Job
from benchmark.matrix.expand import expand, jobs
from benchmark.matrix.load import DEFAULT, MatrixFile
from benchmark.metrics import mse_per_image, ssim_per_image
from benchmark.metrics.reconstruction import summarise
from benchmark.store.store import Store

PUBLISHED = {tuple(row[name] for name in CELL): row["value"] for row in published.reference().to_dict("records")}
DEVICE = {
    "device": "made up, for a test",
    "precision": "fp32",
    "platform": "Linux x86_64",
    "python": "3.11.7",
    "packages": {"torch": "2.13.0", "numpy": "2.4.6"},
    "commit": "0" * 40,
}


def simulate(folder: Path, suite: str, change=lambda value: None, seeds=(125,)) -> tuple[list[Cell], Store]:
    """The cells of a suite of the shipped matrix, under `seeds`, each with a result below `folder`.

    change: edits the matrix, as plain data, before.
    """
    value = MatrixFile(DEFAULT).source.value
    value["suites"][suite] = dict(value["suites"][suite]) | {"seed": list(seeds)}
    change(value)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "matrix.yaml").write_text(json.dumps(value))  # JSON is YAML
    cells = expand(MatrixFile(folder / "matrix.yaml"), suite, folder / "data")
    store = Store(folder / "results")
    for job in jobs(cells):
        fill(job, store, pictures=job.cell.get("seed") == seeds[0])
    return cells, store


def fill(job: Job, store: Store, pictures: bool) -> None:
    """Put a result of the job into the store, as a run would leave it; `pictures`: those, too."""
    draw = random.Random(job.key)
    make = {"train": _train, "attack": _attack, "efficiency": _efficiency, "bounds": _bounds}[job.kind]
    with store.claim(job) as work:
        values = make(job, work, draw, pictures)
        record = DEVICE | {"seconds": round(draw.uniform(10, 500), 3), "peak_memory_mib": 900.0}
        record |= {"finished": "2026-01-01T00:00:00Z", "fingerprint": "0" * 64}
        store.finish(job, {"status": "done", "reason": "", "values": values}, record)


def _row(job: Job) -> tuple[str, str, str]:
    cell = job.cell
    return cell["dataset"], cell["defense"]["name"], "on" if cell.get("cem") else "off"


def _train(job: Job, work: Path, draw: random.Random, _: bool) -> dict:
    final = PUBLISHED.get((*_row(job), "", "", "accuracy_percent"), 60.0) + draw.gauss(0, 0.4)
    epochs = job.config["train"]["epochs"]
    lines = []
    for epoch in range(1, epochs + 1):
        done = 1 - 0.9 * np.exp(-6 * epoch / epochs)
        accuracy = final * done + draw.gauss(0, 0.5)
        lines.append({"epoch": epoch, "loss": 4.6 * (1.02 - done) + 0.02, "selection_accuracy_percent": accuracy})
    _history(work, lines)
    return {"accuracy_percent": final, "best_epoch": epochs}


def _attack(job: Job, work: Path, draw: random.Random, pictures: bool) -> dict:
    dataset, _, cem = _row(job)
    attack, split = job.config["attack"], job.config["split"]
    facts = DATASETS.get(dataset)
    originals = crops(facts.image_size)[:40] if split == "train" else crops(facts.image_size)[40:]
    strength = draw.uniform(0.3, 0.7) + (0.2 if cem == "on" else 0)
    blurred = interpolate(avg_pool2d(originals, 4), scale_factor=4, mode="bilinear")
    noise = torch.rand(originals.shape, generator=torch.Generator().manual_seed(draw.randrange(2**31))) - 0.5
    rebuilt = (originals + strength * (blurred - originals) + 0.08 * noise).clamp(0, 1)
    mse, ssim = mse_per_image(rebuilt, originals), ssim_per_image(rebuilt, originals)
    if facts.publishable and pictures:
        save_pictures(work, (originals * 255).round().byte(), (rebuilt * 255).round().byte(), mse, ssim)
    values = summarise(mse, ssim)
    for metric in ("mse", "ssim", "psnr_db"):
        printed = PUBLISHED.get((*_row(job), attack, split, metric))
        if printed is not None:
            values[metric] = printed * (1 + draw.gauss(0, 0.12))
    epochs = job.config["params"]["epochs"]
    _history(
        work,
        [
            {"epoch": epoch, "loss": values["mse"] * (1 + 4 * np.exp(-5 * epoch / epochs))}
            for epoch in range(1, epochs + 1)
        ],
    )
    return values


def _efficiency(job: Job, work: Path, draw: random.Random, _: bool) -> dict:
    sizes = {"encoder": (0.085, 21.9, 55.0), "server": (9.7, 133.6, 170.0)}
    return {
        f"{part}_{name}": value * draw.uniform(0.99, 1.01)
        for part, row in sizes.items()
        for name, value in zip(("params_m", "mmac", "inference_ms"), row, strict=True)
    }


def _bounds(job: Job, work: Path, draw: random.Random, _: bool) -> dict:
    return {metric: draw.uniform(0.5, 1.5) for metric in BOUNDS} | {"image_dims": 3072}


def _history(work: Path, lines: list[dict]) -> None:
    with open(work / "history.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        writer.writerows(lines)


@functools.cache
def crops(size: int, count: int = 80) -> torch.Tensor:
    """Square parts of the photographs inside the scikit-image wheel, in [0, 1]: [count, 3, size, size]."""
    folder = Path(importlib.util.find_spec("skimage").origin).parent / "data"
    draw, found = random.Random(size), []
    pictures = [Image.open(folder / name).convert("RGB") for name, _ in PHOTOGRAPHS.values()]
    pictures = [np.asarray(picture.reduce(2)) for picture in pictures]
    while len(found) < count:
        picture = draw.choice(pictures)
        top, left = (draw.randrange(extent - size) for extent in picture.shape[:2])
        part = picture[top : top + size, left : left + size]
        if part.std() > 30:
            found.append(part)
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).float() / 255
