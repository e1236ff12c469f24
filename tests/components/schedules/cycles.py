"""Cycles in exact arithmetic."""

from __future__ import annotations

from fractions import Fraction
from math import floor


def exact_local(step: int, period: Fraction, cycles: int | None) -> int:
    """Steps since the last cycle that began: found by looking, one cycle after the other."""
    cycle = 0
    while (cycles is None or cycle + 1 < cycles) and floor((cycle + 1) * period) <= step:
        cycle += 1
    return step - floor(cycle * period)
