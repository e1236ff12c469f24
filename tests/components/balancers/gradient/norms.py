"""Statistics of gradients on which balancers are tested, and what others make of some.

`reference_values_norms.json` holds a problem whose terms are $l_i = c_i |A_i \\theta - b_i|^2 / 2$
with the losses of the balancers' other tests for $c$, the gradients of three terms with respect to
each of four items, and for each case whose code gave it and its values, a row a step, in float64.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lossweights import Horizon
from lossweights.components.balancers import GradientBalancer
from lossweights.components.context import Gradients, State, Statistic, StepContext
from tests.components.balancers.reference import LOSSES

RECORDED = json.loads(Path(__file__).with_name("reference_values_norms.json").read_text("utf-8"))
THETA = torch.tensor(RECORDED["toy"]["theta"], dtype=torch.float64)
ITEM_GRADIENTS = torch.tensor(RECORDED["item_gradients"], dtype=torch.float64)
NORMS: tuple[Statistic, ...] = ("norms", "max_abs", "mean_abs", "item_norms")

# Norms of gradients at each step.
HOSTILE: dict[str, list[list[float]]] = {
    "one term": [[3.0]],
    "one term of 0": [[0.0]],
    "all 0": [[0.0, 0.0, 0.0]],
    "one 0": [[0.0, 1.0, 2.0]],
    "all 0 but one": [[0.0, 1.0, 0.0]],
    "0 now and then": [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 1e-3]],
    "equal": [[2.0, 2.0, 2.0]],
    "tiny": [[1e-30, 2e-30, 1e-29]],
    "huge": [[1e30, 2e30, 1e29]],
    "scales between": [[1e-30, 1.0, 1e30]],
    "scales between steps": [[1e-30, 1e-30], [1e30, 1e30], [1.0, 1.0]],
    "through all scales": [[1e-30, 1e30], [1e30, 1e-30]],
    "beyond float32": [[1e300, 1.0, 1e39], [1.0, 1.0, 1.0]],
    "20 terms": [[1.5**i for i in range(20)]],
    "20 equal terms": [[1e-3] * 20],
}


def recorded(case: str) -> Tensor:
    """The values of a case, a row a step."""
    return torch.tensor(RECORDED["cases"][case]["values"], dtype=torch.float64)


def toy_losses(theta: Tensor, step: int) -> Tensor:
    """The three losses of the recorded problem."""
    a, b = (torch.tensor(RECORDED["toy"][key], dtype=theta.dtype) for key in ("A", "b"))
    return LOSSES[step].to(theta) * (a @ theta - b).square().sum(dim=1) / 2


def toy_gradients(theta: Tensor, step: int) -> Tensor:
    """Their gradients, a row a term."""
    jacobian: Tensor = torch.func.jacrev(toy_losses)(theta, step)
    return jacobian


def gradients(
    norms: Tensor, names: Sequence[str] | None = None, *, seen: Sequence[bool] | None = None
) -> Gradients:
    """What is known of gradients of which each has one entry: all statistics are equal."""
    n = len(norms)
    found = dict.fromkeys(NORMS, norms)
    there = torch.ones(n, dtype=torch.bool) if seen is None else torch.tensor(seen)
    return Gradients(names or [f"t{i:02}" for i in range(n)], found, there)


def of_rows(rows: Tensor, names: Sequence[str] = ("a", "b", "c")) -> Gradients:
    """What is known of some gradients, a row a term; beyond the row, its first axis is of items."""
    flat, items = rows.flatten(1), rows.flatten(2) if rows.ndim > 2 else rows[:, None]
    found: dict[Statistic, Tensor] = {
        "norms": flat.norm(dim=1),
        "max_abs": flat.abs().amax(dim=1),
        "mean_abs": flat.abs().mean(dim=1),
        "item_norms": items.norm(dim=2).mean(dim=1),
    }
    return Gradients(names, found, torch.ones(len(rows), dtype=torch.bool))


def moment(known: Gradients | Tensor, step: int = 0) -> StepContext:
    """What a balancer is told of gradients, or of norms, when `step` steps are done."""
    if isinstance(known, Tensor):
        known = gradients(known)
    return StepContext({}, step=step, before=step - 1, horizon=Horizon(), gradients=known)


def initial(balancer: GradientBalancer, n: int, dtype: torch.dtype = torch.float64) -> State:
    """The state at the start, in float64 to compare with recorded values."""
    return {key: tensor.to(dtype) for key, tensor in balancer.init(n).items()}


def weights_of(
    balancer: GradientBalancer,
    known: Sequence[Gradients] | Tensor,
    losses: Tensor | None = None,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, State]:
    """The weights at each step, and the state at the end.

    Args:
        balancer: Which.
        known: Gradients at each step, or their norms, a row a step.
        losses: The losses at each step; 1 where None.
        dtype: Of the state.
    """
    steps = [gradients(row) for row in known] if isinstance(known, Tensor) else list(known)
    n = len(steps[0].names)
    values = torch.ones(len(steps), n, dtype=dtype) if losses is None else losses
    state, rows = initial(balancer, n, dtype), []
    for step, (at, given) in enumerate(zip(values, steps, strict=True)):
        rows.append(balancer.weigh(at, state, moment(given, step)).double().clone())
        balancer.update(at, state, moment(given, step + 1))
    return torch.stack(rows), state


def hostile_weights(balancer: GradientBalancer, name: str, steps: int = 60) -> Tensor:
    """The weights under hostile norms, with the state in float32 as a criterion has it."""
    norms = torch.tensor(HOSTILE[name], dtype=torch.float64)
    norms = norms.repeat(-(-steps // len(norms)), 1)
    weights, state = weights_of(balancer, norms, dtype=torch.float32)
    assert weights.isfinite().all()
    for key, tensor in state.items():
        assert tensor.isfinite().all(), key
    return weights


def some_seen(
    balancer: GradientBalancer,
    state: State,
    losses: Tensor,
    norms: Tensor,
    seen: Sequence[bool],
    *,
    step: int = 1,
) -> None:
    """An update; what it wrote for terms that were not seen is undone, as by a criterion."""
    there = torch.tensor(seen)
    before: dict[str, Any] = {key: tensor.clone() for key, tensor in state.items()}
    known = gradients(torch.where(there, norms, 0.0), seen=seen)
    balancer.update(losses, state, moment(known, step))
    for key, tensor in state.items():
        tensor.copy_(torch.where(there if tensor.ndim else there.any(), tensor, before[key]))


def is_no_number_where_any_is_not(balancer: GradientBalancer) -> None:
    """What is not finite gives weights that are not: then those of the last step stand."""
    for bad in (torch.nan, torch.inf):
        for place in (0, 1):
            norms = torch.tensor([3.0, 2.0], dtype=torch.float64)
            norms[place] = bad
            weights = balancer.weigh(torch.ones(2), initial(balancer, 2), moment(norms))
            assert not weights.isfinite().all(), norms


def goes_without_values(balancer: GradientBalancer) -> None:
    """Weighs and updates with tensors that have no values: whoever looks at one fails."""
    with torch.device("meta"):
        known, losses = torch.ones(3, dtype=torch.float64), torch.ones(3)
    state = {key: tensor.to("meta") for key, tensor in balancer.init(3).items()}
    now = moment(known, 1)
    assert balancer.weigh(losses, state, now).shape == (3,)
    balancer.update(losses, state, now)
