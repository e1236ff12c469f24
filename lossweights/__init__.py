"""How much each term of a loss counts, and when."""

from lossweights.components import Component
from lossweights.config import LossConfig, Term
from lossweights.durations import Duration, Horizon, epochs, percent, steps
from lossweights.errors import ConfigError, HorizonError
from lossweights.report import Breakdown, Report
from lossweights.schedules import (
    Constant,
    CosineShape,
    Cyclical,
    DelayedSchedule,
    Exponential,
    ExponentialShape,
    HoldShape,
    LinearShape,
    Piecewise,
    PowerShape,
    Product,
    Ramp,
    Repeat,
    Schedule,
    Sequence,
    Shape,
    SigmoidShape,
    Stage,
    Steps,
    Values,
    Warmup,
)
from lossweights.weighted_loss import WeightedLoss, WrappedLoss

__version__ = "0.1.0"

__all__ = [
    "Breakdown",
    "Component",
    "ConfigError",
    "Constant",
    "CosineShape",
    "Cyclical",
    "DelayedSchedule",
    "Duration",
    "Exponential",
    "ExponentialShape",
    "HoldShape",
    "Horizon",
    "HorizonError",
    "LinearShape",
    "LossConfig",
    "Piecewise",
    "PowerShape",
    "Product",
    "Ramp",
    "Repeat",
    "Report",
    "Schedule",
    "Sequence",
    "Shape",
    "SigmoidShape",
    "Stage",
    "Steps",
    "Term",
    "Values",
    "Warmup",
    "WeightedLoss",
    "WrappedLoss",
    "epochs",
    "percent",
    "steps",
]
