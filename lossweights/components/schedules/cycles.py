"""The arithmetic of cycles."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from lossweights.components.durations import Duration, Horizon
from lossweights.components.schedules.shapes import Values

if TYPE_CHECKING:
    from lossweights.components.schedules.base import Steps


def since_cycle_began(steps: Steps, period: Fraction, cycles: int | None) -> Values:
    r"""The whole steps since the cycle of each step began: $t - \lfloor c P \rfloor$.

    Args:
        steps: int64, at least 0.
        period: $P$, above 0; a fraction, so that the floors are exact.
        cycles: Number of cycles; the last one never ends.

    >>> since_cycle_began(np.arange(7), Fraction(5, 2), None)
    array([0., 1., 0., 1., 2., 0., 1.])
    """
    # In float64, sums and products of whole numbers are exact, and the rounding of one division
    # crosses no whole number as long as (t + 1) * denominator is below 2**53.
    above, below = float(period.numerator), float(period.denominator)
    time = steps.astype(np.float64)
    cycle = np.floor((time * below + (below - 1.0)) / above)
    if cycles is not None:
        cycle = np.minimum(cycle, cycles - 1.0)
    began = np.floor(cycle * above / below)
    return np.maximum(time - began, 0.0)  # steps beyond 2**53 may round below 0


def cycle_length(period: Duration | str | None, cycles: int | None, horizon: Horizon) -> Fraction:
    """`period` in steps; without one, `cycles` divide the training evenly."""
    if period is None:
        return Fraction(horizon.span, cycles or 1)
    return Fraction(horizon.length(period)).limit_denominator(10_000)


def check_period(period: Duration | str | None) -> None:
    """Raises ValueError for a period of length 0."""
    if period is not None and Duration.parse(period).value == 0:
        raise ValueError("give `period` a length above 0")
