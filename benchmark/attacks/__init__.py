"""Attackers, one file each; base.py says what an attacker is."""

from benchmark.attacks.base import ATTACKS, Attack, Target

__all__ = ["ATTACKS", "Attack", "Target"]
