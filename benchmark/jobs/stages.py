"""Where a job's time went: seconds in each of its stages, and how busy the GPU was."""

import contextlib
import threading
import time

import torch

from benchmark.training.device import wait

EVERY = 1.0  # seconds between looks at the GPU


class Stages:
    """Use it as a context manager around the job, and `with stages("fit"):` around each stage.

    utilisation: percent of time in which the GPU ran any kernel (by its own count), or None if unknown.
    """

    def __init__(self, device: torch.device, read=torch.cuda.utilization):
        self.device, self.read = device, read
        self.seconds: dict[str, float] = {}
        self.earlier = 0.0  # part of these seconds: in runs that were interrupted
        self.samples: list[float] = []
        self.over = threading.Event()

    def __enter__(self) -> "Stages":
        self.watcher = None
        if self.device.type == "cuda":
            self.watcher = threading.Thread(target=self._watch, daemon=True)
            self.watcher.start()
        return self

    def __exit__(self, *_) -> None:
        self.over.set()
        if self.watcher:
            self.watcher.join()

    @contextlib.contextmanager
    def __call__(self, name: str):
        start = time.perf_counter()
        try:
            yield
            wait(self.device)  # kernels that a stage has queued count as its time
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def add(self, name: str, seconds: float) -> None:
        """Count the seconds that a stage took in earlier, interrupted runs of this job."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        self.earlier += seconds

    def record(self) -> dict:
        """JSON values for the provenance."""
        busy = round(sum(self.samples) / len(self.samples), 1) if self.samples else None
        stages = {name: round(seconds, 3) for name, seconds in self.seconds.items()}
        return {"stage_seconds": stages, "gpu_utilisation_percent": busy}

    def _watch(self) -> None:
        while not self.over.wait(EVERY):
            try:
                self.samples.append(float(self.read(self.device)))
            except Exception:  # no NVML, no permission, another vendor: the record says null
                return
