"""From the store to the tidy frame: one row for each cell, metric and seed, measured or not."""

import math

import numpy as np
import pandas as pd

from benchmark.analysis import baseline, columns, convergence, doubts
from benchmark.analysis.frame import COLUMNS
from benchmark.analysis.verdicts import Images
from benchmark.departures import Departure, column, told
from benchmark.errors import foreign
from benchmark.matrix.cells import Cell, Job
from benchmark.metrics.facts import PARTS
from benchmark.store.store import HISTORY, PER_IMAGE, Store
from benchmark.training import checkpoint

TRAINING = ("accuracy_percent", doubts.METRIC)
ATTACK = (
    "mse",
    "ssim",
    "psnr_db",
    "psnr_db_per_image",
    "psnr_db_of_mean_mse",
    "mse_worst_1_percent",
    "ssim_worst_1_percent",
    convergence.METRIC,
    baseline.METRIC,
    columns.METRIC,
)
BOUNDS = (
    "eq7_nats",
    "logdet_nats",
    "released_objective",
    "mi_lower_nats",
    "mi_upper_nats",
    "mi_upper_half_width_nats",
    "mi_images",
    "image_dims",
    "van_trees_mse",
    "van_trees_mse_half",
    "linearised_mse",
    "dfil",
)
EFFICIENCY = tuple(f"{part}_{name}" for part in PARTS for name in ("params_m", "mmac", "mmac_conv", "inference_ms"))
METRICS = {"train": TRAINING, "attack": ATTACK, "bounds": BOUNDS, "efficiency": EFFICIENCY}  # by a job's kind


def tidy_frame(cells: list[Cell], store: Store) -> pd.DataFrame:
    """The results of `cells`, with NaN and a reason for missing ones. UserError for a damaged results file."""
    mean_images = baseline.mean_images(cells, store)
    rows = [row for cell in cells for row in _rows(cell, store, mean_images.get(baseline.place(cell)))]
    return pd.DataFrame(rows, columns=COLUMNS)


def per_image_reader(cells: list[Cell], store: Store) -> Images:
    """Reads per_image.safetensors by job key; None if it is missing (weights and tensors are not shared)."""
    jobs = {cell.job.key: cell.job for cell in cells}

    def read(off: str, on: str, metric: str) -> tuple[np.ndarray, np.ndarray] | None:
        files = [store.checkpoint(jobs[key], PER_IMAGE) for key in (off, on)]
        if not all(file.is_file() for file in files):
            return None
        with foreign(f"cannot read {' and '.join(map(str, files))}"):
            one, other = (checkpoint.load(file)[metric].double().flatten().numpy() for file in files)
        return (one, other) if len(one) == len(other) else None

    return read


def devices(cells: list[Cell], store: Store) -> list[dict]:
    """Provenance of the finished jobs of `cells`, a record for each job, in order."""
    return [{"job": job.title} | store.provenance(job) for job in all_jobs(cells).values() if store.done(job)]


def all_jobs(cells: list[Cell]) -> dict[str, Job]:
    """By key: the jobs of `cells` and those that they build on, in order."""
    return {job.key: job for cell in cells for job in (cell.job, *cell.job.parents.values())}


def epochs(cells: list[Cell], store: Store) -> dict[tuple[str, str, str], str]:
    """(suite, protocol, data set) -> `Epochs: training 240, decoder 50, gan 150.`, of what is done; several numbers
    where cells differ."""
    found: dict[tuple[str, str, str], dict[str, set[int]]] = {}
    for cell in cells:
        if cell.kind not in ("train", "attack") or not store.done(cell.job):
            continue
        counts = found.setdefault((cell.suite, cell.protocol, cell.dataset), {})
        counts.setdefault("training", set()).add(cell.job.cell["train"]["epochs"])
        if cell.kind == "attack" and "epochs" in cell.job.config["params"]:
            counts.setdefault(cell.attacker, set()).add(cell.job.config["params"]["epochs"])
    told = {}
    for place, counts in found.items():
        parts = [f"{what} {'/'.join(map(str, sorted(some)))}" for what, some in counts.items()]
        told[place] = f"Epochs: {', '.join(parts)}."
    return told


def _rows(cell: Cell, store: Store, mean_image: float | None) -> list[dict]:
    status, reason = store.status(cell.job)
    status = {"waiting": "missing"}.get(status, status)
    values = store.metrics(cell.job)["values"] if status == "done" else {}
    departures, judged = cell.departures, {}
    if cell.kind == "attack" and status == "done":
        judged[columns.METRIC] = columns.as_named(cell.job)
        mean_image = values.get("mse_of_mean_image", mean_image)
        losses = convergence.read_losses(store.path(cell.job) / HISTORY)
        if losses:  # else nothing was fitted, or the history is missing
            judged[convergence.METRIC] = convergence.verdict(convergence.decrease_percent(losses)) == "yes"
        # else no attack of the place has recorded it: `ensemble` alone, which has no images of its own
        if mean_image is not None and values.get("mse") is not None:
            judged[baseline.METRIC] = baseline.beats(values["mse"], mean_image)
    if cell.kind == "train" and values.get("accuracy_percent") is not None:
        judged[doubts.METRIC] = not doubts.at_chance(cell.dataset, values["accuracy_percent"], departures)
    if cell.kind == "efficiency" and status == "done":
        device = store.provenance(cell.job).get("device", "unknown")
        departures = (*departures, Departure("device", device, "RTX 4090"))
    place = ("suite", "dataset", "defense", "cem", "protocol", "kind", "attacker", "split", "seed")
    shared = {name: getattr(cell, name) for name in place}
    shared |= {"key": cell.job.key, "label": column(told(departures))}
    # judgements that could not be made have no row; of an attack that is not done they are missing, as all else
    unknown = {doubts.METRIC, *((convergence.METRIC, baseline.METRIC) if status == "done" else ())} - judged.keys()
    values = values | {name: float(verdict) for name, verdict in judged.items()}
    rows = []
    for metric in (name for name in METRICS[cell.kind] if name not in unknown):
        value = values.get(metric)
        lost = status == "done" and metric not in values
        own = {
            "metric": metric,
            "value": math.nan if value is None else value,
            "status": "missing" if lost else status,
            "reason": (reason or "not recorded") if lost else "" if status == "done" else reason,
        }
        rows.append(shared | own)
    return rows
