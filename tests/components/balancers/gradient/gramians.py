"""Jacobians on which balancers that read a Gramian are tested, and what others make of some.

`reference_values_gramian.json` holds Jacobians, a row a term, with the weights or directions
(the weighted sum of the rows) that the code of others gave for them, in float64; its `sources` say
which code, in which version, called how. A name is "<source> <weights or direction> <method>".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lossweights import Horizon, WeightedLoss
from lossweights.components.balancers import GramianBalancer
from lossweights.components.balancers.gradient.mgda import mgda_weights
from lossweights.components.context import Gradients, StepContext

Array = npt.NDArray[np.float64]

RECORDED = json.loads(Path(__file__).with_name("reference_values_gramian.json").read_text("utf-8"))


@dataclass(frozen=True)
class Case:
    name: str
    jacobian: Array
    recorded: Mapping[str, Array]

    @property
    def gramian(self) -> Array:
        return gramian(self.jacobian)


def gramian(jacobian: Array) -> Array:
    """The products of the rows."""
    product: Array = jacobian @ jacobian.T
    return product


def cases(*wanted: str) -> list[Case]:
    """The recorded cases; those for which `wanted` values were recorded."""
    found = [
        Case(
            name, np.array(case["jacobian"]), {k: np.array(v) for k, v in case["recorded"].items()}
        )
        for name, case in RECORDED["cases"].items()
    ]
    return [case for case in found if set(wanted) <= set(case.recorded)]


def hostile() -> dict[str, Array]:
    """Jacobians on which formulas break: of low rank, opposed, 0, and of every scale."""
    rng = np.random.default_rng(0)
    some = rng.normal(size=(4, 7))
    zeros = some.copy()
    zeros[1] = 0
    opposed = np.stack((some[0], -some[0]))
    thirds = 2 * np.pi * np.arange(3) / 3
    return {
        "one term": some[:1],
        "one term of 0": np.zeros((1, 3)),
        "all 0": np.zeros((3, 4)),
        "one 0": zeros,
        "all 0 but one": np.eye(3, 5)[:1] * np.array([[0.0], [2.0], [0.0]]),
        "equal": np.repeat(some[:1], 4, axis=0),
        "two equal": some[[0, 0, 1]],
        "nearly equal": np.repeat(some[:1], 3, axis=0) + 1e-9 * rng.normal(size=(3, 7)),
        "collinear": some[:1] * np.array([[1.0], [2.0], [0.5]]),
        "opposed": opposed,
        "opposed, unequal": opposed * np.array([[1.0], [3.0]]),
        "opposed, with another": np.concatenate((opposed, some[1:2])),
        "nearly opposed": opposed + np.array([[0.0], [1e-9]]) * some[1],
        "orthogonal": np.eye(3),
        "stationary": np.stack((np.cos(thirds), np.sin(thirds)), axis=1),
        "nearly stationary": np.stack((np.cos(thirds), np.sin(thirds), [1e-7] * 3), axis=1),
        "stationary, with another": np.stack(
            (np.append(np.cos(thirds), 0), np.append(np.sin(thirds), 0), [0, 0, 0, 1.0]), axis=1
        ),
        "more terms than rank": rng.normal(size=(6, 2)),
        "20 terms": rng.normal(size=(20, 50)),
        "20 terms of rank 5": rng.normal(size=(20, 5)),
        "20 terms of rank 5, on one side": np.abs(rng.normal(size=(20, 5))),
        "scales between": some * np.array([[1e-30], [1e-10], [1.0], [1e30]]),
        "tiny": some * 1e-30,
        "huge": some * 1e30,
        "one tiny": some * np.array([[1.0], [1e-30], [1.0], [1.0]]),
        "one huge": some * np.array([[1.0], [1e30], [1.0], [1.0]]),
        "badly scaled": some * np.array([[1e-4], [1.0], [1e4], [1e2]]),
    }


def scattered(count: int, *, seed: int = 0) -> list[Array]:
    """Random Jacobians of 1 to 8 terms: some are of low rank, badly scaled, or have equal rows."""
    rng = np.random.default_rng(seed)
    found = []
    for index in range(count):
        terms, width = rng.integers(1, 9), rng.integers(1, 12)
        jacobian = rng.normal(size=(terms, width))
        if index % 3 == 0:
            jacobian *= 10 ** rng.uniform(-3, 3, size=(terms, 1))
        if index % 5 == 0:
            jacobian[-1] = jacobian[0]
        if index % 7 == 0:
            jacobian += 3 * rng.normal(size=(1, width))
        found.append(jacobian)
    return found


def moment(
    gramian: Array, fields: Mapping[str, torch.Tensor] | None = None, step: int = 0
) -> StepContext:
    """What a balancer is told in a forward pass whose terms' gradients have this Gramian."""
    names = [f"t{i:02}" for i in range(len(gramian))]
    seen = torch.ones(len(gramian), dtype=torch.bool)
    gradients = Gradients(names, {"gramian": torch.from_numpy(gramian)}, seen)
    return StepContext(
        fields or {}, step=step, before=step - 1, horizon=Horizon(), gradients=gradients
    )


def weights_of(
    balancer: GramianBalancer,
    jacobian: Array,
    losses: Sequence[float] | None = None,
    state: Any = None,
) -> Array:
    """The weights that a balancer gives for a Jacobian; losses are 1 where none are given."""
    terms = len(jacobian)
    values = torch.ones(terms) if losses is None else torch.tensor(losses)
    found = balancer.weigh(values, state or balancer.init(terms), moment(gramian(jacobian)))
    weights: Array = found.numpy()
    return weights


def stationary(jacobian: Array) -> bool:
    """Whether no direction is down for all terms."""
    units = jacobian / np.maximum(np.linalg.norm(jacobian, axis=1, keepdims=True), 1e-300)
    return bool(np.linalg.norm(units.T @ mgda_weights(gramian(units))) < 1e-3)


def gradient(jacobian: Array, kind: str) -> Array:
    """What a criterion with this balancer leaves in `.grad`, for linear terms."""
    x = torch.zeros(jacobian.shape[1], requires_grad=True)
    values = torch.tensor(jacobian, dtype=torch.float32) @ x
    names = [f"t{i}" for i in range(len(values))]
    criterion = WeightedLoss(terms=names, balancer=kind)
    criterion(dict(zip(names, values, strict=True)), shared=x).backward()
    assert x.grad is not None
    return x.grad.numpy()
