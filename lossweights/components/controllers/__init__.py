"""Controllers: feedback that adjusts one term's weight."""

from lossweights.components.controllers.adaptive_kl import AdaptiveKL as AdaptiveKL
from lossweights.components.controllers.augmented_lagrangian import (
    AugmentedLagrangian as AugmentedLagrangian,
)
from lossweights.components.controllers.base import Controller as Controller
from lossweights.components.controllers.constraint import Constraint as Constraint
from lossweights.components.controllers.increment import Increment as Increment
from lossweights.components.controllers.lagrangian import Lagrangian as Lagrangian
from lossweights.components.controllers.manual import Manual as Manual
from lossweights.components.controllers.pid import PID as PID
from lossweights.components.controllers.plateau import Plateau as Plateau
