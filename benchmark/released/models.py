"""Turns released folders into cells and finished trainings in the store, and lists the models.

A released model is a job of kind `train` like any other, with the files' checksums in its configuration. So its key
differs from that of any training of ours, and attacks, report and diff need not know where it comes from.
"""

import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from benchmark.analysis import names as titles
from benchmark.analysis import published
from benchmark.departures import Departure
from benchmark.errors import UserError
from benchmark.jobs.provenance import provenance
from benchmark.jobs.run_job import RELEASED, Machine, encoder_of, recipe_of
from benchmark.matrix.cells import Cell, Job
from benchmark.matrix.expand import expand
from benchmark.matrix.load import Change, MatrixFile
from benchmark.released import files
from benchmark.released.names import Row
from benchmark.store.store import CHECKPOINT, ENCODER, Store
from benchmark.training import checkpoint, device
from benchmark.training.train import Recipe, Training, build_model

SUITE = "released"
# departures of our trainings from the published one do not apply to a model that the authors trained
_NOT_OURS = ("model.", "train.", "defense.", "cem.")
_ROWS = ("dataset", "defense", "cem")
NO_SERVER = f"the folder has the encoder alone; the accuracy needs {' and '.join(files.SERVER)}"


@dataclass(frozen=True)
class Model:
    """A released folder, its training job, and the cells of the attacks on it."""

    row: Row
    job: Job
    cells: list[Cell]


def models(
    rows: list[Row],
    file: MatrixFile,
    suite: str,
    dataset: str,
    data_root: Path,
    where: dict[str, list[str]],
    changes: list[Change],
) -> list[Model]:
    """Each row as in the suite (its attackers, splits, protocols), with its training replaced by the released one.

    where chooses attackers, splits, protocols and seeds; changes: the command line's. The cells' `suite` distinguishes
    folders of the same row. UserError if the suite has no such row.
    """
    for axis in _ROWS:
        if axis in where:
            raise UserError(f"--where {axis}=...: rows are chosen by the folder that is given; choose among the others")
    count = Counter((row.defense, row.cem) for row in rows)
    found = []
    for row in rows:
        chosen = where | {"dataset": [dataset], "defense": [row.defense], "cem": [row.cem]}
        cells = expand(file, suite, data_root, chosen, row.changes + changes)
        cells = [cell for cell in cells if cell.kind in ("train", "attack")]
        label = SUITE if count[row.defense, row.cem] == 1 else f"{SUITE} {row.name}"
        checksums = files.digests(row.folder)
        cells = [
            replace(
                cell,
                suite=label + cell.suite.removeprefix(suite),
                job=_with_files(cell.job, checksums),
                departures=_ours(cell),
            )
            for cell in cells
        ]
        found += [
            Model(row, job, [cell for cell in cells if cell.job.parents.get("train", cell.job) == job])
            for job in {cell.job.key: cell.job for cell in cells if cell.kind == "train"}.values()
        ]
    return found


def adopt(model: Model, machine: Machine) -> bool:
    """Make the released model a finished training of the store; False if it already is one.

    Its accuracy is measured on the test images, by the defended pipeline, if the server's files are present.
    UserError for files that are not those of this row.
    """
    job, store, start = model.job, machine.store, time.perf_counter()
    if store.done(job) and not store.damage(job, tensors=True):
        return False
    recipe, images = recipe_of(job), machine.data(job.config)
    precision = device.precision(machine.device, recipe.train.precision)
    best = _read(model, recipe, images, machine)
    values, reason = {}, NO_SERVER
    if len(job.config[RELEASED]) > 1:
        task = Training(recipe, images, machine.device, precision)
        task.model = build_model(recipe, images, machine.device, best["widths"])
        task.model.load_state_dict(best["weights"])
        values, reason = {"accuracy_percent": task.accuracy(images.test.images, images.test.labels)}, ""
    record = provenance(machine.device) | {"precision": precision, "fingerprint": images.fingerprint}
    record |= {"released": {"folder": model.row.name, "files": job.config[RELEASED], "said": model.row.values}}
    if store.done(job):
        store.set_aside(job)
    with store.claim(job) as folder:
        if folder is None:
            return False
        checkpoint.save(folder / ENCODER, encoder_of(best))
        if values:
            checkpoint.save(folder / CHECKPOINT, best)
        record |= {"seconds": round(time.perf_counter() - start, 3)}
        store.finish(job, {"status": "done", "reason": reason, "values": values}, record)
    return True


def described(found: list[Model], store: Store) -> list[list[str]]:
    """Each model under the HEADINGS of report/released.py: its row, its strengths, its accuracy beside the printed one,
    and its files."""
    printed = published.reference().query("metric == 'accuracy_percent'")
    printed = {(cell.dataset, cell.defense, cell.cem): cell.value for cell in printed.itertuples()}
    lines = []
    for model in found:
        config = model.job.config
        accuracy = store.metrics(model.job)["values"].get("accuracy_percent") if store.done(model.job) else None
        lines.append(
            [
                titles.row_label(model.row.defense, model.row.cem),
                model.row.name,
                "; ".join(f"{path} {value}" for path, value in model.row.values.items()),
                _percent(accuracy),
                _percent(printed.get((config["dataset"], model.row.defense, model.row.cem))),
                model.row.doubt,
                "; ".join(f"{name} {digest}" for name, digest in config[RELEASED].items()),
            ]
        )
    return lines


def _read(model: Model, recipe: Recipe, images, machine: Machine) -> dict:
    """{weights, widths} of the whole network, as a training's checkpoint; a missing server is a fresh one."""
    folder, checksums = model.row.folder, model.job.config[RELEASED]
    encoder = files.read(folder / files.ENCODER, checksums[files.ENCODER])
    widths = files.widths(encoder)
    try:
        network = build_model(recipe, images, machine.device, widths)
    except UserError as error:
        raise UserError(f"{folder / files.ENCODER} is no encoder of the row {model.row.defense}: {error}") from None
    files.fill(network.encoder, encoder, str(folder / files.ENCODER))
    if len(checksums) > 1:
        server = {}
        for name in files.SERVER:
            server |= {f"{name} {key}": tensor for key, tensor in files.read(folder / name, checksums[name]).items()}
        files.fill(network.server, server, f"the server in {folder}")
    return {"weights": dict(network.state_dict()), "widths": widths}


def _with_files(job: Job, checksums: dict[str, str]) -> Job:
    """The job with the released training in place of its own training."""
    if job.kind == "train":
        return replace(job, config=job.config | {RELEASED: checksums})
    return replace(job, parents={role: _with_files(parent, checksums) for role, parent in job.parents.items()})


def _ours(cell: Cell) -> tuple[Departure, ...]:
    return tuple(departure for departure in cell.departures if not departure.path.startswith(_NOT_OURS))


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
