"""Schedules: weights as pure functions of the step."""

from lossweights.schedules.base import Constant, DelayedSchedule, Schedule, Steps
from lossweights.schedules.combined import Product, Sequence, Stage
from lossweights.schedules.cyclical import Cyclical, Repeat
from lossweights.schedules.exponential import Exponential
from lossweights.schedules.piecewise import Piecewise
from lossweights.schedules.ramp import Ramp, Warmup
from lossweights.schedules.shapes import (
    CosineShape,
    ExponentialShape,
    HoldShape,
    LinearShape,
    PowerShape,
    Shape,
    SigmoidShape,
    Values,
)

__all__ = [
    "Constant",
    "CosineShape",
    "Cyclical",
    "DelayedSchedule",
    "Exponential",
    "ExponentialShape",
    "HoldShape",
    "LinearShape",
    "Piecewise",
    "PowerShape",
    "Product",
    "Ramp",
    "Repeat",
    "Schedule",
    "Sequence",
    "Shape",
    "SigmoidShape",
    "Stage",
    "Steps",
    "Values",
    "Warmup",
]
