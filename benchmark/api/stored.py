"""The stored results, from Python: numbers of a suite, trained encoders."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from benchmark.analysis.collect import tidy_frame
from benchmark.api.checked import checked
from benchmark.data import DATASETS
from benchmark.defenses import Defense
from benchmark.errors import UserError, foreign
from benchmark.jobs.run_job import recipe_of
from benchmark.matrix.expand import expand, jobs, parse_where
from benchmark.matrix.load import DEFAULT, Change, MatrixFile
from benchmark.store import hygiene, shipped
from benchmark.store.store import ENCODER, Store
from benchmark.training import checkpoint, device
from benchmark.training.train import build_defense, build_model


class StoredEncoder(nn.Module):
    """A trained encoder of the results, in evaluation mode, frozen: normalised images [B, 3, H, W] -> [B, C, h, w].

    dataset: what it was trained on; channel: its defence, which turns a clean feature into what is sent (with the
    defence's masks, whatever the protocol of the row); accuracy_percent: of the whole pipeline, None if it was not
    measured; name: `DATASET/ROW/train-KEY`.
    """

    def __init__(self, encoder: nn.Module, dataset: str, channel: Defense, accuracy_percent: float | None, name: str):
        super().__init__()
        self.encoder, self.channel = encoder, channel
        self.dataset, self.accuracy_percent, self.name = dataset, accuracy_percent, name

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x)


@checked
def load_results(
    suite: str,
    *,
    where: Sequence[str] = (),
    settings: Mapping[str, object] | None = None,
    results: Path | str = "results",
    data: Path | str = "data",
    matrix: Path | str | None = None,
) -> pd.DataFrame:
    """The results of a suite as a tidy frame: a line for each cell, metric and seed, measured or not.

    Columns: suite, dataset, defense, cem, protocol, kind (train, attack, bounds, efficiency), attacker and split ("" if
    it is no attack), metric, seed, value (NaN for none), status (done, failed, diverged, missing, running), reason,
    key, label (how the cell departs from the published setting, separated by `; `).
    where: as `--where`, for example ["defense=patrol,cem=on"]; settings: as `--set`. UserError for unknown names and
    damaged results.

    >>> import benchmark
    >>> frame = benchmark.load_results("smoke", results=results, data=data, matrix=matrix)
    >>> sorted(frame.query("metric == 'mse' and status == 'done'")["split"])
    ['infer']
    """
    shipped.receive(Path(results), lambda text: None)
    file = MatrixFile(Path(matrix or DEFAULT))
    cells = expand(file, suite, Path(data), parse_where(list(where)), changes(settings or {}))
    return tidy_frame(cells, Store(Path(results)))


@checked
def load_encoder(
    name: str,
    *,
    suite: str | None = None,
    results: Path | str = "results",
    data: Path | str = "data",
    matrix: Path | str | None = None,
) -> StoredEncoder:
    """A trained encoder of the results, those shipped with the project included.

    name: `DATASET/ROW`, for example `cifar10/bottleneck+cem`, or `DATASET/ROW/train-KEY`, like the folders; suite: if
    the results hold several trainings of a row, the suite that chooses one. UserError, with a list of what exists, if
    the name does not determine one; also for a damaged result.

    >>> import benchmark, torch
    >>> stored = benchmark.load_encoder("photos/bottleneck", results=results)
    >>> stored(torch.zeros(1, 3, 32, 32)).shape
    torch.Size([1, 8, 8, 8])
    >>> stored.channel.params.noise_std
    0.025
    """
    shipped.receive(Path(results), lambda text: None)
    store = Store(Path(results))
    folder = _one_training(name, store, suite, Path(data), matrix)
    at = "/".join(folder.parts[-3:])
    job = hygiene.training(folder)
    with foreign(f"the result {at}"):
        recipe, cpu = recipe_of(job), torch.device("cpu")
        facts: Any = DATASETS.get(job.config["dataset"])
        best = checkpoint.load(store.checkpoint(job, ENCODER))
        model = build_model(recipe, facts, cpu, best["widths"])
        model.encoder.load_state_dict(best["weights"])
        channel = build_defense(recipe, facts, model, cpu, device.arithmetic(cpu, device.precision(cpu, "fp32")))
        channel.load_learned(best.get("defense", {}))
    accuracy = store.metrics(job)["values"].get("accuracy_percent")
    stored = StoredEncoder(model.encoder, job.config["dataset"], channel, accuracy, at)
    return stored.eval().requires_grad_(False)


def changes(settings: Mapping[str, object]) -> list[Change]:
    """A caller's settings in the form of the matrix."""
    return [Change(path, value, f"settings {path}={value}") for path, value in settings.items()]


def _one_training(name: str, store: Store, suite: str | None, data: Path, matrix: Path | str | None) -> Path:
    """The folder of the finished training that the name and the suite choose."""
    parts = name.split("/")
    if len(parts) not in (2, 3) or not all(parts) or any(part.startswith(".") or "*" in part for part in parts):
        raise UserError(f"the name '{name}' is not DATASET/ROW or DATASET/ROW/train-KEY")
    everything = [path for path in hygiene.finished(store.root) if path.name.startswith("train-")]
    found = [path for path in everything if list(path.relative_to(store.root).parts[: len(parts)]) == parts]
    if suite is not None:
        file = MatrixFile(Path(matrix or DEFAULT))
        keys = {job.key[:12] for job in jobs(expand(file, suite, data)) if job.kind == "train"}
        found = [path for path in found if path.name.removeprefix("train-") in keys]
    if not found:
        rows = sorted({"/".join(path.relative_to(store.root).parts[:2]) for path in everything})
        there = ", ".join(rows) or "none"
        of = f" of the suite '{suite}'" if suite else ""
        raise UserError(f"no encoder '{name}'{of} is in {store.root}; there are: {there}")
    if len(found) > 1:
        choices = ", ".join(_told(path) for path in found)
        raise UserError(
            f"{store.root} holds {len(found)} encoders '{name}': {choices}; give a suite, or one of the names"
        )
    return found[0]


def _told(folder: Path) -> str:
    """A training's folder, and what usually distinguishes it from others."""
    config = hygiene.training(folder).config
    epochs, seed = config.get("train", {}).get("epochs"), config.get("seed")
    return f"{folder.name} ({'released, ' if 'released' in config else ''}{epochs} epochs, seed {seed})"
