"""The weights of a config over a training, before any of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lossweights.components.durations import Horizon
from lossweights.components.schedules import Steps, Values
from lossweights.config.loss_config import LossConfig

# In a training without end, how many steps are shown: of weights that do not change, and of one
# that never ceases to.
_STILL_STEPS, _ENDLESS_STEPS = 1000, 10_000


@dataclass(frozen=True)
class Curves:
    """What the terms of a config weigh over a training: base weight times schedule.

    Args:
        steps: Steps of the training, shape (n,).
        weights: For each term its weight there, shape (n,): 0 while it is dormant. For a term that
            has a controller, or that a balancer weighs, what is found in training multiplies it.
        adaptive: Those terms.

    >>> config = LossConfig.read({"terms": {"nll": 1.0, "kl": {"kind": "warmup", "over": "50%"}}})
    >>> curves = Curves.of(config, Horizon(total_steps=4))
    >>> curves.weights["kl"]
    array([0. , 0.5, 1. , 1. ])
    """

    steps: Steps
    weights: dict[str, Values]
    adaptive: frozenset[str]

    @classmethod
    def of(cls, config: LossConfig, horizon: Horizon | None = None, points: int = 2000) -> Curves:
        """Of a config.

        Args:
            config: The declaration.
            horizon: The length of training; what it leaves open is the config's own. In a training
                without end, as far as its schedules move.
            points: How many steps at most, at least 2, evenly spaced.

        Raises:
            HorizonError: Where a schedule needs more of the horizon than is known.
        """
        horizon = Horizon() if horizon is None else horizon
        known = Horizon(
            config.total_steps if horizon.total_steps is None else horizon.total_steps,
            config.steps_per_epoch if horizon.steps_per_epoch is None else horizon.steps_per_epoch,
        )
        last = known.span - 1 if known.is_bounded else _end(config, known)
        steps = np.unique(np.linspace(0, max(last, 0), max(points, 2)).round().astype(np.int64))
        weights = {}
        for name, term in config.terms.items():
            start = known.steps(term.after)
            is_awake = steps >= start
            found = np.where(is_awake, term.weight, 0.0)
            if term.schedule is not None:
                found[is_awake] *= term.schedule(steps[is_awake] - start, known.local(start))
            weights[name] = found + 0.0  # no -0
        steered = {name for name, term in config.terms.items() if term.controller is not None}
        balanced = () if config.balancer is None else config.balanced_names
        return cls(steps, weights, frozenset(steered.union(balanced)))


def _end(config: LossConfig, horizon: Horizon) -> int:
    """Where the last schedule has stopped moving, and a little more."""
    ends = [float(_STILL_STEPS)]
    for term in config.terms.values():
        start = horizon.steps(term.after)
        length: float | None = 0.0
        if term.schedule is not None:
            length = term.schedule.ends(horizon.local(start))
        moves = start + (_ENDLESS_STEPS if length is None else length)
        ends.append(1.2 * moves)
    return math.ceil(max(ends))
