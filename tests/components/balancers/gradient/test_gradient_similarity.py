"""Auxiliary terms by the cosine of their gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lossweights import ConfigError, WeightedLoss
from lossweights.components.balancers.gradient.gradient_similarity import (
    GradientSimilarity,
    cosines_with,
)
from lossweights.components.context import Gradients
from tests.components.balancers.gradient.gramians import hostile
from tests.components.balancers.gradient.norms import moment

COUNTING = ("weighted", "gated")
ROWS = torch.tensor(
    [[1.0, 0.0, 0.0], [3.0, 4.0, 0.0], [-1.0, 5.0, 0.0], [0.0, 0.0, 2.0], [0.0, 0.0, 0.0]],
    dtype=torch.float64,
)
NAMES = ["task", "near", "against", "across", "none"]


def known(rows: Tensor, names: list[str]) -> Gradients:
    seen = torch.ones(len(rows), dtype=torch.bool)
    return Gradients(names, {"gramian": rows @ rows.T}, seen)


def weights_of(balancer: GradientSimilarity, rows: Tensor, names: list[str]) -> Tensor:
    now = moment(known(rows, names))
    return balancer.weigh(torch.ones(len(rows)), {}, now)


def trained(rows: Tensor, counting: str, heads: str = "weighted") -> tuple[Tensor, WeightedLoss]:
    """The gradient of linear terms, of which `t0` is primary, and the criterion."""
    shared = torch.ones(rows.shape[1], dtype=torch.float64, requires_grad=True)
    names = [f"t{index}" for index in range(len(rows))]
    balancer = {"kind": "gradient-similarity", "primary": "t0", "counting": counting}
    criterion = WeightedLoss(terms=names, balancer={**balancer, "heads": heads})
    terms = dict(zip(names, rows @ shared, strict=True))
    criterion(terms, shared=shared).backward()
    assert shared.grad is not None
    return shared.grad, criterion


def test_weights_by_hand() -> None:
    """The second gradient has a cosine of 3/5 with the first, the third one below 0."""
    weighted = weights_of(GradientSimilarity(primary="task"), ROWS, NAMES)
    assert weighted.tolist() == pytest.approx([1, 0.6, 0, 0, 0])
    gated = weights_of(GradientSimilarity(primary="task", counting="gated"), ROWS, NAMES)
    assert gated.tolist() == [1, 1, 0, 0, 0]


def test_cosines_are_those_of_torch() -> None:
    rows = torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    wanted = torch.nn.functional.cosine_similarity(rows, rows[2:3])
    torch.testing.assert_close(cosines_with(rows @ rows.T, 2), wanted)


@pytest.mark.parametrize("counting", COUNTING)
def test_the_direction_is_that_of_the_paper(counting: str) -> None:
    """Main gradient, and each auxiliary one times its cosine, or where that is above 0."""
    rows = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    wanted = rows[0].clone()
    counted = 0
    for row in rows[1:]:
        cosine = torch.nn.functional.cosine_similarity(rows[0], row, dim=0)
        if cosine > 0:
            wanted += row if counting == "gated" else cosine * row
            counted += 1
    assert 0 < counted < 3
    found, _ = trained(rows, counting)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0)


@pytest.mark.parametrize("counting", COUNTING)
def test_the_scale_of_a_term_changes_no_weight(counting: str) -> None:
    balancer = GradientSimilarity.model_validate({"primary": "task", "counting": counting})
    scales = torch.tensor([1e-30, 1e30, 1e3, 1.0, 1.0], dtype=torch.float64)
    scaled = weights_of(balancer, scales[:, None] * ROWS, NAMES)
    torch.testing.assert_close(scaled, weights_of(balancer, ROWS, NAMES))


@pytest.mark.parametrize("counting", COUNTING)
@pytest.mark.parametrize("name", hostile())
def test_the_direction_never_conflicts_with_the_primary_term(name: str, counting: str) -> None:
    rows = torch.from_numpy(hostile()[name])
    found, criterion = trained(rows, counting)
    weights = np.array(list(criterion.metrics(include=["weight"]).values()))
    assert ((weights >= 0) & (weights <= 1)).all()
    assert weights[0] == 1
    unit = rows[0] / rows[0].norm().clamp(min=1e-300)
    left = 1e-6 * rows.norm(dim=1).max()  # weights are kept in float32
    assert unit @ found >= rows[0].norm() - left


@pytest.mark.parametrize("counting", COUNTING)
def test_where_the_primary_gradient_is_0_training_ends(counting: str) -> None:
    rows = torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=torch.float64)
    found, _ = trained(rows, counting)
    assert found.tolist() == [0, 0]


def test_without_the_primary_term_all_keep_their_weights() -> None:
    x = torch.zeros(2, requires_grad=True)
    terms: dict[str, Any] = {"task": {"optional": True}, "near": 1.0, "against": 1.0}
    balancer = {"kind": "gradient-similarity", "primary": "task"}
    criterion = WeightedLoss(terms=terms, balancer=balancer)
    both = {"near": 3 * x[0] + 4 * x[1], "against": x[1] - x[0]}

    def weights() -> dict[str, float]:
        return {name: criterion.report().weight[name].item() for name in both}

    criterion(both, shared=x)
    criterion.step()
    assert weights() == {"near": 1, "against": 1}
    criterion({"task": x[0], **both}, shared=x)
    criterion.step()
    assert weights() == pytest.approx({"near": 0.6, "against": 0})
    criterion(both, shared=x)
    criterion.step()
    assert weights() == pytest.approx({"near": 0.6, "against": 0})


def test_with_plain_heads_an_auxiliary_head_learns_on() -> None:
    """As in the code of AuxiLearn: only gradients of what is shared are combined."""
    x, head = torch.zeros(2, requires_grad=True), torch.ones((), requires_grad=True)
    balancer = {"kind": "gradient-similarity", "primary": "task", "heads": "plain"}
    criterion = WeightedLoss(terms=["task", "other"], balancer=balancer)
    criterion({"task": x[0] - 1, "other": head * (1 - x[0]) + x[1]}, shared=x).backward()
    assert x.grad is not None
    assert head.grad is not None
    assert x.grad.tolist() == [1, 0]
    assert head.grad.item() == 1


def test_gradients_that_are_not_finite() -> None:
    rows = ROWS.clone()
    _, criterion = trained(ROWS, "weighted")
    assert criterion.report().weight["t1"].item() == pytest.approx(0.6)
    criterion.step()
    rows[1, 0] = torch.inf
    shared = torch.ones(3, dtype=torch.float64, requires_grad=True)
    criterion({f"t{i}": row @ shared for i, row in enumerate(rows)}, shared=shared)
    criterion.step()
    assert criterion.report().weight["t1"].item() == pytest.approx(0.6)


def test_nothing_waits_for_the_device() -> None:
    gradients = known(ROWS.to("meta"), NAMES)
    weights = GradientSimilarity(primary="task").weigh(
        torch.ones(5, device="meta"), {}, moment(gradients)
    )
    assert weights.shape == (5,)


def test_the_primary_term_is_balanced() -> None:
    message = r"balancer: primary 'tsk' is not a balanced term; did you mean 'task'\? "
    with pytest.raises(ConfigError, match=message + r"\(balanced: 'other', 'task'\)"):
        WeightedLoss(["task", "other"], balancer={"kind": "gradient-similarity", "primary": "tsk"})


def test_negative_weights_are_refused() -> None:
    with pytest.raises(ConfigError, match="mistake its agreement with other terms for conflict"):
        WeightedLoss(
            {"task": 1.0, "other": -1.0},
            balancer={"kind": "gradient-similarity", "primary": "task"},
        )


def test_refused() -> None:
    table = {"kind": "gradient-similarity", "primary": "a", "counting": "squared"}
    with pytest.raises(ConfigError, match=r"balancer\.counting: must be"):
        WeightedLoss(terms=["a"], balancer=table)
    with pytest.raises(ConfigError, match=r"balancer\.primary: this field is needed"):
        WeightedLoss(terms=["a"], balancer="gradient-similarity")
