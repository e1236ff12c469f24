"""Balancers: weights for all terms at once."""

from lossweights.balancers.base import Balancer
from lossweights.balancers.dynamic_weight_average import DynamicWeightAverage
from lossweights.balancers.uncertainty import UncertaintyWeighting

__all__ = ["Balancer", "DynamicWeightAverage", "UncertaintyWeighting"]
