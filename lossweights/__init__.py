"""How much each term of a loss counts, and when."""

from lossweights.analysis.history import History
from lossweights.components.balancers import Balancer, GradientBalancer, GramianBalancer
from lossweights.components.context import State, StepContext
from lossweights.components.controllers import (
    PID,
    AdaptiveKL,
    AugmentedLagrangian,
    Controller,
    Lagrangian,
    Manual,
    Plateau,
)
from lossweights.components.declaration import Component
from lossweights.components.durations import Duration, Horizon, epochs, percent, steps
from lossweights.components.schedules import (
    Constant,
    Cyclical,
    Exponential,
    Piecewise,
    Product,
    Ramp,
    Repeat,
    Schedule,
    Sequence,
    Shape,
    Stage,
    Steps,
    Values,
    Warmup,
)
from lossweights.components.transforms import Capacity, FreeBits, Log, Relative, Transform
from lossweights.config.loss_config import LossConfig
from lossweights.config.term import Term
from lossweights.criterion.clock import Clock
from lossweights.criterion.report import Breakdown
from lossweights.criterion.weighted_loss import WeightedLoss, WrappedLoss
from lossweights.errors import ConfigError, HorizonError

__version__ = "0.1.0"

__all__ = [
    "PID",
    "AdaptiveKL",
    "AugmentedLagrangian",
    "Balancer",
    "Breakdown",
    "Capacity",
    "Clock",
    "Component",
    "ConfigError",
    "Constant",
    "Controller",
    "Cyclical",
    "Duration",
    "Exponential",
    "FreeBits",
    "GradientBalancer",
    "GramianBalancer",
    "History",
    "Horizon",
    "HorizonError",
    "Lagrangian",
    "Log",
    "LossConfig",
    "Manual",
    "Piecewise",
    "Plateau",
    "Product",
    "Ramp",
    "Relative",
    "Repeat",
    "Schedule",
    "Sequence",
    "Shape",
    "Stage",
    "State",
    "StepContext",
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
