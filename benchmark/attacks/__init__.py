"""Attackers, one file each; base.py says what an attacker is."""

from benchmark.attacks.base import ATTACKS, Attack, Attacker, Selection, Target

__all__ = ["ATTACKS", "Attack", "Attacker", "Selection", "Target"]
