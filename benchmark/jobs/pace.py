"""How long jobs take, estimated from similar finished jobs in proportion to their work."""

import json
from collections import Counter, defaultdict
from dataclasses import dataclass
from statistics import median

from benchmark.errors import UserError
from benchmark.jobs.estimate import work
from benchmark.matrix.cells import Job
from benchmark.store.known import finished_jobs
from benchmark.store.store import Store, is_number

LEARNS = ("learns",)  # the likeness of all trainings and attacks


@dataclass(frozen=True)
class Pace:
    """Speed of one device, named as in provenance, from the finished jobs of a store.

    count: how many of them ran there; rates: seconds per GFLOP, by kind of similarity.
    """

    device: str
    count: int
    rates: dict[tuple[str, ...], float]

    def knows(self, job: Job) -> bool:
        return self._rate(job) is not None

    def seconds(self, job: Job, otherwise: float = 1.0) -> float:
        """Estimate from the most similar finished jobs; otherwise: seconds per GFLOP if there are none at all."""
        rate = self._rate(job)
        return work(job) * (otherwise if rate is None else rate)

    def _rate(self, job: Job) -> float | None:
        """Seconds per GFLOP of the most similar finished jobs, else of all trainings and attacks."""
        known = (self.rates[like] for like in [*_likenesses(job), LEARNS] if like in self.rates)
        return next(known, None)


def learn(store: Store, device: str = "", kind: str = "") -> Pace:
    """The pace of `device`; if no job ran on it, of the device of its kind (cpu, cuda; "" for any) with the most jobs.

    The median over jobs, as some had company. Jobs that shared a GPU count with their share of
    the seconds; on a CPU each has cores of its own.
    """
    found = [(job, record) for job, record in _records(store) if kind in ("", record["device_type"])]
    devices = Counter(record["device"] for _, record in found)
    if device not in devices:
        device = next((name for name, _ in devices.most_common(1)), device)
    rates = defaultdict(list)
    for job, record in found:
        if record["device"] == device:
            sharing = 1 if record["device_type"] == "cpu" else record["cells_at_once"]
            for like in _likenesses(job):
                rates[like].append(record["seconds"] / sharing / work(job))
    return Pace(device, devices[device], {like: median(some) for like, some in rates.items()})


def _likenesses(job: Job) -> list[tuple[str, ...]]:
    """Groups of similar jobs that the job belongs to, the most similar first; the last holds all that learn."""
    if job.kind == "train":
        cem = job.config["cem"]
        return [("train", job.config["defense"]["name"], cem["estimator"] if cem else "off"), ("train",), LEARNS]
    if job.kind == "attack":
        attack = job.config["attack"]
        return [("attack", attack, job.config["split"]), ("attack", attack), LEARNS]
    return [(job.kind,)]


def _records(store: Store) -> list[tuple[Job, dict]]:
    """The finished jobs with their device and seconds. Unreadable ones are left out, and those that choose among other
    attacks: their time says nothing about that of computing."""
    found = []
    for job in finished_jobs(store, say=lambda text: None):
        try:
            record = json.loads((store.path(job) / "provenance.json").read_bytes())
            numbers = record["seconds"], record.setdefault("cells_at_once", 1)
            sound = all(is_number(number) and number > 0 for number in numbers)
            sound &= all(isinstance(record[name], str) for name in ("device", "device_type"))
            if sound and store.metrics(job)["status"] == "done" and work(job) and not job.chooses:
                found.append((job, record))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, UserError):
            continue
    return found
