"""Defences, one file each; base.py says what a defence may do."""

from benchmark.defenses.base import DEFENSES, Batch, Defense, Setting

__all__ = ["DEFENSES", "Batch", "Defense", "Setting"]
