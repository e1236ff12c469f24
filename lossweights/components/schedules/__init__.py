"""Schedules: weights as pure functions of the step."""

from lossweights.components.schedules.base import DelayedSchedule, Schedule, Steps
from lossweights.components.schedules.constant import Constant
from lossweights.components.schedules.cyclical import Cyclical
from lossweights.components.schedules.exponential import Exponential
from lossweights.components.schedules.piecewise import Piecewise
from lossweights.components.schedules.product import Product
from lossweights.components.schedules.ramp import Ramp
from lossweights.components.schedules.repeat import Repeat
from lossweights.components.schedules.sequence import Sequence, Stage
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
from lossweights.components.schedules.warmup import Warmup

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
