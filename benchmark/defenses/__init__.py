"""Defences, one file each, registered by name; `Defense` says what a defence may do.

A defence is a file in this folder, or in an installed package (entry-point group `benchmark.defenses`).
"""

from benchmark.registry import Registry
from benchmark.training.defense import SHARPEST, Batch, Defense, Masking, Setting, add_gaussian, add_laplace

DEFENSES: Registry[Defense] = Registry("defence", "benchmark.defenses", "benchmark.defenses")

__all__ = ["DEFENSES", "SHARPEST", "Batch", "Defense", "Masking", "Setting", "add_gaussian", "add_laplace"]
