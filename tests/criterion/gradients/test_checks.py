"""What lies between terms and what they share: found once, before gradients are taken."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lossweights.criterion.gradients.checks import GraphChecks, check_graph
from lossweights.criterion.gradients.shared import Shared


def features() -> Tensor:
    return torch.ones(2, 3, requires_grad=True) * 1.0


def test_float16_between_a_term_and_what_is_shared() -> None:
    x = features()
    assert not check_graph({"a": x.sum()}, Shared(x))
    assert not check_graph({"a": x.bfloat16().sum().float()}, Shared(x))
    assert check_graph({"a": x.sum(), "b": x.half().sum().float()}, Shared(x))


def test_float16_beyond_what_is_shared_is_no_matter() -> None:
    x = features().half().float()
    assert not check_graph({"a": x.sum()}, Shared(x))


def test_what_was_found_stays_and_a_graph_is_gone_through_once() -> None:
    x, checks = features(), GraphChecks()
    checks.check({"a": x.sum()}, Shared(x))
    checks.check({"a": x.half().sum().float()}, Shared(x))
    assert not checks.is_half  # it was not checked
    checks.check({"a": x.sum(), "b": x.half().sum().float()}, Shared(x))
    assert checks.is_half
    checks.check({"c": x.sum()}, Shared(x))
    assert checks.is_half


def test_a_term_that_does_not_depend_on_what_is_shared() -> None:
    x, y = features(), features()
    with pytest.raises(ValueError, match=r"term 'b' does not depend .*balanced: false at terms.b"):
        check_graph({"a": x.sum(), "b": y.sum()}, Shared(x))
    check_graph({"a": x.sum(), "b": y.sum()}, Shared([x, y]))


def test_of_an_operation_with_several_results_each_is_a_tensor_of_its_own() -> None:
    first, second = features().unbind()
    with pytest.raises(ValueError, match="term 'b' does not depend"):
        check_graph({"a": first.sum(), "b": second.sum()}, Shared(first))


@pytest.mark.parametrize("of", ["features", "parameters"])
def test_terms_of_another_graph(of: str) -> None:
    x, y = features(), nn.Parameter(torch.ones(3))
    hint = "One compiled model" if of == "features" else "reentrant checkpointing"
    with pytest.raises(ValueError, match=f"no term depends .*{hint}"):
        check_graph({"a": features().sum()}, Shared(x if of == "features" else y))


def test_terms_without_a_gradient_are_left_to_those_who_take_it() -> None:
    x = features()
    checks = GraphChecks()
    checks.check({"a": x.sum(), "b": torch.tensor(1.0)}, Shared(x))
    with pytest.raises(ValueError, match="term 'b' does not depend"):
        checks.check({"a": x.sum(), "b": features().sum()}, Shared(x))


def test_parameters_under_reentrant_checkpointing_are_not_left_out_in_silence() -> None:
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    hidden = second(checkpoint(first, features(), use_reentrant=True)).sum()
    seen = second(checkpoint(first, features(), use_reentrant=False)).sum()
    both = [*first.parameters(), *second.parameters()]
    with pytest.raises(RuntimeError, match="use_reentrant=False"):
        check_graph({"a": hidden}, Shared(both))
    check_graph({"a": hidden}, Shared(second.parameters()))
    check_graph({"a": seen}, Shared(both))
    check_graph({"a": seen}, Shared([*both, nn.Parameter(torch.ones(1))]))  # it may be of no use
