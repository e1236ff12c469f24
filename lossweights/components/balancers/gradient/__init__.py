"""Balancers that weigh the terms by their gradients with respect to what they share."""

from lossweights.components.balancers.gradient.aligned_mtl import IndependentComponentAlignment
from lossweights.components.balancers.gradient.base import GradientBalancer, GramianBalancer
from lossweights.components.balancers.gradient.cagrad import ConflictAverse
from lossweights.components.balancers.gradient.conflict_free import ConflictFreeInverseGradients
from lossweights.components.balancers.gradient.db_mtl import DualBalancing
from lossweights.components.balancers.gradient.dual_cone import (
    DualConeProjection,
    UnconflictingProjection,
)
from lossweights.components.balancers.gradient.gradnorm import GradNorm
from lossweights.components.balancers.gradient.gradvac import GradientVaccine
from lossweights.components.balancers.gradient.imtl_g import ImpartialGradientBalancing
from lossweights.components.balancers.gradient.lr_annealing import LearningRateAnnealing
from lossweights.components.balancers.gradient.mgda import MultipleGradientDescent
from lossweights.components.balancers.gradient.nash_mtl import (
    FairResourceAllocation,
    NashBargaining,
)
from lossweights.components.balancers.gradient.norm_balance import NormBalance
from lossweights.components.balancers.gradient.pcgrad import ProjectingConflictingGradients

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
