"""Balancers: weights for all terms at once."""

from lossweights.components.balancers.base import Balancer
from lossweights.components.balancers.cov import CoefficientOfVariation
from lossweights.components.balancers.dwa import DynamicWeightAverage
from lossweights.components.balancers.famo import FastAdaptiveMultitask
from lossweights.components.balancers.geometric import GeometricMean
from lossweights.components.balancers.gradient import (
    ConflictAverse,
    ConflictFreeInverseGradients,
    DualBalancing,
    DualConeProjection,
    FairResourceAllocation,
    GradientBalancer,
    GradientVaccine,
    GradNorm,
    GramianBalancer,
    ImpartialGradientBalancing,
    IndependentComponentAlignment,
    LearningRateAnnealing,
    MultipleGradientDescent,
    NashBargaining,
    NormBalance,
    ProjectingConflictingGradients,
    UnconflictingProjection,
)
from lossweights.components.balancers.imtl_l import ImpartialLossBalancing
from lossweights.components.balancers.moving_average import MovingAverage
from lossweights.components.balancers.random import RandomWeighting
from lossweights.components.balancers.relobralo import RelativeLossBalancing
from lossweights.components.balancers.softadapt import SoftAdapt
from lossweights.components.balancers.stch import SmoothTchebycheff
from lossweights.components.balancers.uncertainty import UncertaintyWeighting

__all__ = [
    "Balancer",
    "CoefficientOfVariation",
    "ConflictAverse",
    "ConflictFreeInverseGradients",
    "DualBalancing",
    "DualConeProjection",
    "DynamicWeightAverage",
    "FairResourceAllocation",
    "FastAdaptiveMultitask",
    "GeometricMean",
    "GradNorm",
    "GradientBalancer",
    "GradientVaccine",
    "GramianBalancer",
    "ImpartialGradientBalancing",
    "ImpartialLossBalancing",
    "IndependentComponentAlignment",
    "LearningRateAnnealing",
    "MovingAverage",
    "MultipleGradientDescent",
    "NashBargaining",
    "NormBalance",
    "ProjectingConflictingGradients",
    "RandomWeighting",
    "RelativeLossBalancing",
    "SmoothTchebycheff",
    "SoftAdapt",
    "UncertaintyWeighting",
    "UnconflictingProjection",
]
