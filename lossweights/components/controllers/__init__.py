"""Controllers: feedback that adjusts one term's weight."""

from lossweights.components.controllers.adaptive_kl import AdaptiveKL
from lossweights.components.controllers.augmented_lagrangian import AugmentedLagrangian
from lossweights.components.controllers.base import Controller
from lossweights.components.controllers.constraint import Constraint
from lossweights.components.controllers.lagrangian import Lagrangian
from lossweights.components.controllers.pid import PID
from lossweights.components.controllers.plateau import Plateau

__all__ = [
    "PID",
    "AdaptiveKL",
    "AugmentedLagrangian",
    "Constraint",
    "Controller",
    "Lagrangian",
    "Plateau",
]
