"""How much each term of a loss counts, and when."""

import importlib
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lossweights.analysis.history import History
    from lossweights.components.balancers import Balancer, GradientBalancer, GramianBalancer
    from lossweights.components.context import State, StepContext
    from lossweights.components.controllers import (
        PID,
        AdaptiveKL,
        AugmentedLagrangian,
        Controller,
        Increment,
        Lagrangian,
        Manual,
        Plateau,
    )
    from lossweights.components.declaration import Component
    from lossweights.components.durations import Duration, Horizon, epochs, percent, steps
    from lossweights.components.schedules import (
        Complement,
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
    from lossweights.components.transforms import (
        Capacity,
        FreeBits,
        Log,
        OptimalSigma,
        Relative,
        Transform,
    )
    from lossweights.config.loss_config import LossConfig
    from lossweights.config.term import Term
    from lossweights.criterion.clock import Clock
    from lossweights.criterion.report import Breakdown
    from lossweights.criterion.weighted_loss import WeightedLoss, WrappedLoss
    from lossweights.errors import ConfigError, HorizonError
    from lossweights.search.front import Front
    from lossweights.search.run import sweep

__version__ = "0.2.0"

__all__ = [
    "PID",
    "AdaptiveKL",
    "AugmentedLagrangian",
    "Balancer",
    "Breakdown",
    "Capacity",
    "Clock",
    "Complement",
    "Component",
    "ConfigError",
    "Constant",
    "Controller",
    "Cyclical",
    "Duration",
    "Exponential",
    "FreeBits",
    "Front",
    "GradientBalancer",
    "GramianBalancer",
    "History",
    "Horizon",
    "HorizonError",
    "Increment",
    "Lagrangian",
    "Log",
    "LossConfig",
    "Manual",
    "OptimalSigma",
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
    "sweep",
]

# Where the names are, for `__getattr__`.
_HOMES = {
    "analysis.history": "History",
    "components.balancers": "Balancer GradientBalancer GramianBalancer",
    "components.context": "State StepContext",
    "components.controllers": "PID AdaptiveKL AugmentedLagrangian Controller Increment Lagrangian "
    "Manual Plateau",
    "components.declaration": "Component",
    "components.durations": "Duration Horizon epochs percent steps",
    "components.schedules": "Complement Constant Cyclical Exponential Piecewise Product Ramp "
    "Repeat Schedule Sequence Shape Stage Steps Values Warmup",
    "components.transforms": "Capacity FreeBits Log OptimalSigma Relative Transform",
    "config.loss_config": "LossConfig",
    "config.term": "Term",
    "criterion.clock": "Clock",
    "criterion.report": "Breakdown",
    "criterion.weighted_loss": "WeightedLoss WrappedLoss",
    "errors": "ConfigError HorizonError",
    "search.front": "Front",
    "search.run": "sweep",
}


@cache
def _import_all() -> None:
    for home, names in _HOMES.items():
        module = importlib.import_module(f"{__name__}.{home}")
        globals().update({name: getattr(module, name) for name in names.split()})


if not TYPE_CHECKING:  # for a type checker, it would define every name

    def __getattr__(name: str) -> Any:
        """Imports everything with the first name that is used: `--help` needs no torch."""
        if not name.startswith("_"):
            _import_all()
            if name in globals():
                return globals()[name]
        hint = ""
        for package in ("analysis", "search"):
            if name in getattr(sys.modules.get(f"{__name__}.{package}"), "__all__", ()):
                hint = f": write `from {__name__}.{package} import {name}`"
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}")

    def __dir__() -> list[str]:
        return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])
