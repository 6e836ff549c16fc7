"""The local engine: the jobs of a suite on one device, one or several at a time."""

from pathlib import Path

from benchmark.engines import drain
from benchmark.engines.concurrency import share
from benchmark.engines.workers import Here, Workers
from benchmark.jobs.run_job import Machine
from benchmark.matrix.cells import Job
from benchmark.store.store import Store
from benchmark.training.device import pick


def run(
    jobs: list[Job],
    work: dict[str, float],
    store: Store,
    data_root: Path,
    device: str,
    cells: int | None = 1,
    signals=drain.ASK,
) -> list[tuple[Job, str, str]]:
    """As drain.run. cells: how many jobs at once; None: decided here."""
    machine = Machine(store, data_root, pick(device))

    def opened(count: int, display, stop):
        several = share(cells, machine.device, count)
        return Here(machine, display, stop) if several.ceiling <= 1 else Workers(machine, display, stop, several)

    return drain.run(jobs, work, store, opened, signals)
