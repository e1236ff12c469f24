"""Sweeps over configs: many trainings, and the front of their trade-offs, by Optuna."""

from lossweights.search.front import Front, Outcome
from lossweights.search.run import sweep

__all__ = ["Front", "Outcome", "sweep"]
