"""Controllers: one term's weight, steered by the term's own value."""

from lossweights.controllers.base import Controller

__all__ = ["Controller"]
