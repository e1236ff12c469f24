"""The weights of a config over a training, before any of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lossweights.config import LossConfig
from lossweights.durations import Horizon
from lossweights.schedules import Steps, Values

_UNBOUNDED_STEPS = 1000  # shown of a config that never changes, in a training without end


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
            horizon: The length of training; the config's own where it is left out. In a training
                without end, as far as its schedules move.
            points: How many steps at most, evenly spaced.

        Raises:
            HorizonError: Where a schedule needs more of the horizon than is known.
        """
        known = Horizon(config.total_steps, config.steps_per_epoch) if horizon is None else horizon
        last = known.span - 1 if known.is_bounded else _end(config, known)
        steps = np.unique(np.linspace(0, max(last, 0), points).round().astype(np.int64))
        weights = {}
        for name, term in config.terms.items():
            start = known.steps(term.after)
            found = np.full(len(steps), term.weight)
            if term.schedule is not None:
                local = steps[steps >= start] - start
                found[steps >= start] *= term.schedule(local, known.local(start))
            found[steps < start] = 0.0
            weights[name] = found
        steered = {name for name, term in config.terms.items() if term.controller is not None}
        balanced = set(config.balanced_names) if config.balancer is not None else set()
        return cls(steps, weights, frozenset(steered | balanced))


def _end(config: LossConfig, horizon: Horizon) -> int:
    """Where the last schedule has stopped moving, and a little more."""
    ends = [float(_UNBOUNDED_STEPS)]
    for term in config.terms.values():
        start = horizon.steps(term.after)
        if start:
            ends.append(1.2 * start)
        if term.schedule is not None:
            ends.append(1.2 * (start + (term.schedule.ends(horizon.local(start)) or 0)))
    return math.ceil(max(ends))
