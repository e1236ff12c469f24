"""How much each term of a loss counts, and when."""

from lossweights.balancers import Balancer
from lossweights.components import Component
from lossweights.config import LossConfig
from lossweights.controllers import (
    AdaptiveKL,
    AugmentedLagrangian,
    Constraint,
    Controller,
    Lagrangian,
    Plateau,
    ProportionalIntegral,
)
from lossweights.durations import Duration, Horizon, epochs, percent, steps
from lossweights.errors import ConfigError, HorizonError
from lossweights.moment import Moment, State
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
from lossweights.term import Term
from lossweights.transforms import Capacity, FreeBits, Log, Relative, Transform
from lossweights.weighted_loss import WeightedLoss, WrappedLoss

__version__ = "0.1.0"

__all__ = [
    "AdaptiveKL",
    "AugmentedLagrangian",
    "Balancer",
    "Breakdown",
    "Capacity",
    "Component",
    "ConfigError",
    "Constant",
    "Constraint",
    "Controller",
    "CosineShape",
    "Cyclical",
    "DelayedSchedule",
    "Duration",
    "Exponential",
    "ExponentialShape",
    "FreeBits",
    "HoldShape",
    "Horizon",
    "HorizonError",
    "Lagrangian",
    "LinearShape",
    "Log",
    "LossConfig",
    "Moment",
    "Piecewise",
    "Plateau",
    "PowerShape",
    "Product",
    "ProportionalIntegral",
    "Ramp",
    "Relative",
    "Repeat",
    "Report",
    "Schedule",
    "Sequence",
    "Shape",
    "SigmoidShape",
    "Stage",
    "State",
    "Steps",
    "Term",
    "Transform",
    "Values",
    "Warmup",
    "WeightedLoss",
    "WrappedLoss",
    "epochs",
    "percent",
    "steps",
]
