"""Scales and ticks of a chart, in the units of its SVG's view box."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """start, end: where `low` and `high` are drawn; ticks: (position, label)."""

    title: str
    low: float
    high: float
    start: float
    end: float
    log: bool
    ticks: list[tuple[float, str]]

    def at(self, value: float) -> float:
        """Where a value is drawn; `value` must be positive on a logarithmic axis."""
        return _at(value, self.low, self.high, self.start, self.end, self.log)


def axis(title: str, values: Sequence[float], start: float, end: float, log: bool = False, whole: bool = False) -> Axis:
    """An axis that holds all of `values` (at least one; positive ones alone count where `log`), with some room.

    whole: ticks at whole numbers only.
    """
    values = [value for value in values if value > 0] if log else list(values)
    low, high = (min(values), max(values)) if values else (1.0, 10.0)
    if log:
        room = max((high / low) ** 0.08, 1.15)
        low, high = low / room, high * room
    else:
        room = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
        low, high = low - room, high + room
    ticks = _log_ticks(low, high) if log else _linear_ticks(low, high)
    ticks = [tick for tick in ticks if not whole or tick == round(tick)]
    return Axis(
        title, low, high, start, end, log, [(_at(tick, low, high, start, end, log), f"{tick:.6g}") for tick in ticks]
    )


def _at(value: float, low: float, high: float, start: float, end: float, log: bool) -> float:
    if log:
        value, low, high = math.log(value), math.log(low), math.log(high)
    return round(start + (value - low) / (high - low) * (end - start), 1)


def _linear_ticks(low: float, high: float, about: int = 5) -> list[float]:
    raw = (high - low) / about
    power = 10 ** math.floor(math.log10(raw))
    step = next(step * power for step in (1, 2, 5, 10) if step * power >= raw)
    return [index * step for index in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten; only the powers over many decades, plain steps within a part of one."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    digits = (1,) if math.log10(high / low) > 3 else (1, 2, 5)
    ticks = [digit * 10.0**power for power in powers for digit in digits if low <= digit * 10.0**power <= high]
    return ticks if len(ticks) >= 3 else _linear_ticks(low, high, 4)
