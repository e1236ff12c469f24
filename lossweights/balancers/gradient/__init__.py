"""Balancers that weigh the terms by their gradients with respect to what they share."""

from lossweights.balancers.gradient.base import GradientBalancer, GramianBalancer

__all__ = ["GradientBalancer", "GramianBalancer"]
