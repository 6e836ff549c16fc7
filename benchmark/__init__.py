"""Reproducibility benchmark for defences against model inversion in split inference."""

import os

__version__ = "0.1.0"

# Threads that wait for others sleep, instead of spinning: beside another busy process on the same cores, spinning takes
# the core from the thread that is waited for (docs/SPEED.md). OpenMP reads it when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
