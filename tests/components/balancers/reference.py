"""Values recorded from the code of others, and the training in which they were recorded.

`reference_values.json` holds the losses of three terms at 24 steps, the losses of the same batches
after each step (made up too, for FAMO), and for each case whose code gave it and its values: what
the gradient of the total was in each loss, at each step. All were computed in float64.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor

from lossweights import Horizon, WeightedLoss
from lossweights.components.balancers import Balancer
from lossweights.components.context import StepContext


class Case(TypedDict):
    source: str
    values: list[list[float]]


RECORDED = json.loads(Path(__file__).with_name("reference_values.json").read_text("utf-8"))
CASES: dict[str, Case] = RECORDED["cases"]
LOSSES = torch.tensor(RECORDED["losses"], dtype=torch.float64)
AFTER = torch.tensor(RECORDED["losses_after"], dtype=torch.float64)
NAMES = ("a", "b", "c")


def recorded(name: str) -> Tensor:
    """The values of a case, a row a step."""
    return torch.tensor(CASES[name]["values"], dtype=torch.float64)


def agree(ours: Tensor, theirs: Tensor, *, relative: float = 1e-9, message: str = "") -> None:
    torch.testing.assert_close(
        ours.to(torch.float64), theirs, rtol=relative, atol=relative, msg=message or None
    )


def moment(step: int, terms: tuple[str, ...] = ()) -> StepContext:
    """When `step` steps are done."""
    return StepContext({}, terms=terms, step=step, before=step - 1, horizon=Horizon())


def weights_of(
    balancer: Balancer, losses: Tensor = LOSSES, after: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weights at each step, in the precision of the losses, and the state at the end."""
    state = {k: t.detach().to(losses.dtype) for k, t in balancer.init(losses.shape[1]).items()}
    rows, seen = [], []
    for step, observed in enumerate(losses):
        now = moment(step, NAMES[: losses.shape[1]])
        rows.append(balancer.weigh(observed, state, now).clone())
        seen.append(observed)
        if balancer.interval is None or moment(step + 1).passed(balancer.interval):
            balancer.update(torch.stack(seen).mean(dim=0), state, moment(step + 1))
            seen = []
        if after is not None:
            balancer.update_after(after[step], state, moment(step + 1))
    return torch.stack(rows), state


def trained(
    table: dict[str, Any],
    *,
    steps: int = 8,
    optimizer: Any = None,
    names: Sequence[str] = NAMES,
) -> tuple[Tensor, Tensor]:
    """What a criterion does with the losses, in float32: gradients in them, and totals."""
    criterion = WeightedLoss(terms=names, balancer=table)
    learning = optimizer(criterion.parameters()) if optimizer else None
    weights, totals = [], []
    for before, after in zip(LOSSES[:steps].float(), AFTER[:steps].float(), strict=True):
        terms = {
            name: loss.clone().requires_grad_() for name, loss in zip(NAMES, before, strict=True)
        }
        total = criterion({name: terms[name] for name in names})
        total.backward()
        weights.append(torch.stack([terms[name].grad for name in NAMES]))
        totals.append(total.detach())
        if learning is not None:
            learning.step()
            learning.zero_grad()
        criterion.step()
        if table["kind"] == "famo":
            criterion.observe_after(dict(zip(NAMES, after, strict=True)))
    return torch.stack(weights), torch.stack(totals)
