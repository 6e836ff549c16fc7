"""Numbers as text: a dash for one that there is not, and an interval behind one that has it."""

import math

DASH = "–"


def number(value: float, spec: str, unit: str = "") -> str:
    return DASH if math.isnan(value) else f"{value:{spec}}{unit}"


def between(low: float, high: float, spec: str, unit: str = "") -> str:
    """The interval alone."""
    return DASH if math.isnan(low) else f"{low:{spec}}{unit} to {high:{spec}}{unit}"


def with_interval(value: float, low: float, high: float, spec: str, unit: str = "") -> str:
    interval = "" if math.isnan(value) or math.isnan(low) else f" ({between(low, high, spec, unit)})"
    return number(value, spec, unit) + interval


def with_half_width(value: float, half_width: float, decimals: int) -> str:
    width = "" if math.isnan(value) or math.isnan(half_width) else f" ± {half_width:.{decimals}f}"
    return number(value, f".{decimals}f") + width
