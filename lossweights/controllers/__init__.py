"""Controllers: one term's weight, steered by the term's own value."""

from lossweights.controllers.adaptive_kl import AdaptiveKL
from lossweights.controllers.augmented_lagrangian import AugmentedLagrangian
from lossweights.controllers.base import Controller
from lossweights.controllers.constraint import Constraint
from lossweights.controllers.lagrangian import Lagrangian
from lossweights.controllers.pid import ProportionalIntegral
from lossweights.controllers.plateau import Plateau

__all__ = [
    "AdaptiveKL",
    "AugmentedLagrangian",
    "Constraint",
    "Controller",
    "Lagrangian",
    "Plateau",
    "ProportionalIntegral",
]
