"""Reproducibility benchmark for defences against model inversion in split inference.

From Python: `evaluate` attacks any encoder, `load_encoder` gives one of the results, `load_results` a suite's numbers
(benchmark/api, docs/API.md). They are loaded on first use, so `import benchmark` alone does not load torch.
"""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmark.api import Evaluation, StoredEncoder, evaluate, load_encoder, load_results

__version__ = "0.1.0"

# Waiting threads sleep instead of spinning. Beside another busy process on the same cores, a spinning thread takes
# the core from the thread it waits for (docs/SPEED.md). OpenMP reads this when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

__all__ = ["Evaluation", "StoredEncoder", "evaluate", "load_encoder", "load_results"]


def __getattr__(name: str):
    if name in __all__:
        from benchmark import api

        return getattr(api, name)
    raise AttributeError(f"module 'benchmark' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
