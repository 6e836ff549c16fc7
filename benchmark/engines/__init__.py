"""Engines run jobs on this machine (local), a Ray cluster or a Slurm cluster. The results are the same."""

import importlib
from pathlib import Path

from benchmark.errors import UserError
from benchmark.jobs import pace
from benchmark.matrix.cells import Job
from benchmark.store.store import Store

OPTIONS = {
    "local": (),
    "ray": ("address",),
    "slurm": ("partition", "time", "max_jobs", "sbatch", "wait"),
}


def run(
    engine: str, jobs: list[Job], store: Store, data_root: Path, device: str, cells: int | None, options: dict
) -> list[tuple[Job, str, str]]:
    """Run the jobs that the store lacks; returns (job, reason, log path) of each that failed.

    device: a name for device.pick; cells: how many jobs share a GPU, None: the engine decides; options: the engines'
    own, by the names in OPTIONS. UserError for an option of another engine, for an engine that is not installed, and
    for one GPU by its number if the engine chooses it.
    """
    for name, value in options.items():
        if value and name not in OPTIONS[engine]:
            owner = next(other for other, names in OPTIONS.items() if name in names)
            raise UserError(f"--{name.replace('_', '-')} is for --engine {owner}, not for {engine}")
    try:
        module = importlib.import_module(f"benchmark.engines.{engine}")
    except ModuleNotFoundError as error:
        raise UserError(
            f"--engine {engine} needs the package {error.name}; run: pip install 'split-inversion-benchmark[{engine}]'"
        ) from None
    if engine != "local" and device not in ("auto", "cpu", "cuda"):
        name = engine.capitalize()
        raise UserError(f"--device {device}: with --engine {engine} give auto, cpu or cuda; {name} chooses the GPU")
    learned = pace.learn(store)
    work = {job.key: learned.seconds(job) for job in jobs}
    own = {name: options[name] for name in OPTIONS[engine]}
    return module.run(jobs, work, store, data_root, device, cells, **own)
