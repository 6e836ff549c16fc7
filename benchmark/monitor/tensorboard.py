"""Each epoch's metrics as TensorBoard scalars: a folder for each job, named like the job's own.

The folder is in the environment variable VARIABLE, so that worker processes on this machine know it as well.
"""

import contextlib
import importlib.util
import os
from pathlib import Path

from benchmark.matrix.cells import Job
from benchmark.output import tell
from benchmark.text import told

VARIABLE = "BENCHMARK_TENSORBOARD"


def write_to(folder: Path) -> None:
    """Let the jobs of this process and of its workers write scalars below `folder`; an error message if they cannot."""
    if importlib.util.find_spec("tensorboard") is None:
        os.environ.pop(VARIABLE, None)
        tell("TensorBoard is not installed: no scalars; pip install tensorboard brings it")
    else:
        os.environ[VARIABLE] = str(folder.absolute())


class Scalars:
    """The scalars of one job; nothing is written if the variable is not set. Close it when the job is over.

    They are for looking at: what keeps them from being written is told once, and the job goes on without them.
    """

    def __init__(self, job: Job):
        self.writer = None
        if folder := os.environ.get(VARIABLE):
            with self._tried(folder):
                from torch.utils.tensorboard import SummaryWriter  # takes seconds

                self.writer = SummaryWriter(os.path.join(os.path.expanduser(folder), job.folder), flush_secs=10)

    def epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        if self.writer:
            with self._tried(self.writer.log_dir):
                for name, value in metrics.items():
                    self.writer.add_scalar(name, value, epoch)

    def close(self) -> None:
        if self.writer:
            with self._tried(self.writer.log_dir):
                self.writer.close()

    @contextlib.contextmanager
    def _tried(self, folder: str):
        try:
            yield
        except (ImportError, OSError) as error:
            self.writer = None
            tell(f"no scalars for TensorBoard in {folder}: {told(error)}")
