"""Schedules: weights as pure functions of the step."""

from lossweights.components.schedules.base import Constant, DelayedSchedule, Schedule, Steps
from lossweights.components.schedules.combined import Product, Sequence, Stage
from lossweights.components.schedules.cyclical import Cyclical, Repeat
from lossweights.components.schedules.exponential import Exponential
from lossweights.components.schedules.piecewise import Piecewise
from lossweights.components.schedules.ramp import Ramp, Warmup
from lossweights.components.schedules.shapes import (
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
