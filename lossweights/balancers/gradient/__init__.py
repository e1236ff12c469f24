"""Balancers that weigh the terms by their gradients with respect to what they share."""

from lossweights.balancers.gradient.bargaining import FairResourceAllocation, NashBargaining
from lossweights.balancers.gradient.base import GradientBalancer, GramianBalancer
from lossweights.balancers.gradient.component_alignment import IndependentComponentAlignment
from lossweights.balancers.gradient.conflict_averse import ConflictAverse
from lossweights.balancers.gradient.conflict_free import ConflictFreeInverseGradients
from lossweights.balancers.gradient.conflicting_gradients import ProjectingConflictingGradients
from lossweights.balancers.gradient.db_mtl import DualBalancing
from lossweights.balancers.gradient.dual_cone import DualConeProjection, UnconflictingProjection
from lossweights.balancers.gradient.gradient_vaccine import GradientVaccine
from lossweights.balancers.gradient.gradnorm import GradNorm
from lossweights.balancers.gradient.impartial_gradients import ImpartialGradientBalancing
from lossweights.balancers.gradient.lr_annealing import LearningRateAnnealing
from lossweights.balancers.gradient.multiple_gradient_descent import MultipleGradientDescent
from lossweights.balancers.gradient.norm_balance import NormBalance

__all__ = [
    "ConflictAverse",
    "ConflictFreeInverseGradients",
    "DualBalancing",
    "DualConeProjection",
    "FairResourceAllocation",
    "GradNorm",
    "GradientBalancer",
    "GradientVaccine",
    "GramianBalancer",
    "ImpartialGradientBalancing",
    "IndependentComponentAlignment",
    "LearningRateAnnealing",
    "MultipleGradientDescent",
    "NashBargaining",
    "NormBalance",
    "ProjectingConflictingGradients",
    "UnconflictingProjection",
]
