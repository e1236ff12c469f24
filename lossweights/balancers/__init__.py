"""Balancers: weights for all terms at once."""

from lossweights.balancers.base import Balancer
from lossweights.balancers.coefficient_of_variation import CoefficientOfVariation
from lossweights.balancers.dynamic_weight_average import DynamicWeightAverage
from lossweights.balancers.fast_adaptive_multitask import FastAdaptiveMultitask
from lossweights.balancers.geometric_mean import GeometricMean
from lossweights.balancers.gradient import (
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
from lossweights.balancers.impartial import ImpartialLossBalancing
from lossweights.balancers.moving_average import MovingAverage
from lossweights.balancers.random_weighting import RandomWeighting
from lossweights.balancers.relative_loss_balancing import RelativeLossBalancing
from lossweights.balancers.smooth_tchebycheff import SmoothTchebycheff
from lossweights.balancers.soft_adapt import SoftAdapt
from lossweights.balancers.uncertainty import UncertaintyWeighting

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
