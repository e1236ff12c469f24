"""What terms share: which tensors count, gradients of single terms, and early errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lossweights.criterion.gradients.shared import Shared


def features() -> Tensor:
    return torch.arange(6.0, requires_grad=True).reshape(2, 3) * 1.0


def test_one_tensor_a_sequence_a_mapping_and_what_is_nested() -> None:
    a, b, c = features(), features(), features()
    assert [id(t) for t in Shared(a).tensors] == [id(a)]
    assert [id(t) for t in Shared({"p3": a, "rest": [b, (c,)]}).tensors] == [id(a), id(b), id(c)]


def test_parameters_of_a_module_come_as_a_generator() -> None:
    trunk = nn.Linear(3, 2)
    shared = Shared(trunk.parameters())
    assert len(shared.tensors) == 2
    assert not shared.are_features
    assert Shared(features()).are_features


def test_frozen_repeated_and_whole_numbers_are_left_out() -> None:
    trunk = nn.Linear(3, 2)
    trunk.bias.requires_grad = False
    shared = Shared([trunk.weight, trunk.bias, trunk.weight, torch.arange(3)])
    assert [id(t) for t in shared.tensors] == [id(trunk.weight)]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "it is empty"),
        (torch.ones(3), "none of them needs a gradient"),
        (nn.Linear(2, 2), r"found Linear: give its features, or module.parameters\(\)"),
        ("features", "found str"),
        (3.0, "found float"),
        ([features(), nn.Parameter(torch.ones(2))], "both features and parameters"),
    ],
)
def test_what_cannot_be_shared(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Shared(given)


def test_rows_are_the_gradients_of_single_terms() -> None:
    x, y = features(), features()
    losses = {"a": (x**2).sum(), "b": (3 * x + y).sum()}
    rows = Shared([x, y]).rows(losses)
    assert torch.equal(_there(rows["a"][0]), 2 * x)
    assert torch.equal(_there(rows["b"][0]), torch.full_like(x, 3.0))
    assert torch.equal(_there(rows["b"][1]), torch.ones_like(y))
    unused = rows["a"][1]
    assert unused is None or not unused.any()
    sum(losses.values()).backward()  # type: ignore[union-attr]  # the graph is still there


def test_rows_are_multiplied_by_the_scale() -> None:
    x = features()
    losses = {"a": (x**2).sum(), "b": x.double().sum()}
    rows = Shared(x).rows(losses, torch.tensor(8.0))
    assert torch.equal(_there(rows["a"][0]), 16 * x)
    assert torch.equal(_there(rows["b"][0]), torch.full_like(x, 8.0))


def _there(part: Tensor | None) -> Tensor:
    assert part is not None
    return part


def test_a_constant_term_is_named() -> None:
    x = features()
    with pytest.raises(
        ValueError, match=r"term 'b' carries no gradient.*optional: true at terms.b"
    ):
        Shared(x).rows({"a": x.sum(), "b": torch.tensor(1.0)})


def test_a_term_that_does_not_depend_on_what_is_shared_is_named() -> None:
    x, y = features(), features()
    losses = {"a": x.sum(), "b": y.sum()}
    with pytest.raises(ValueError, match=r"term 'b' does not depend .*balanced: false at terms.b"):
        Shared(x).rows(losses)


def test_a_copy_of_the_features_is_not_what_the_terms_depend_on() -> None:
    x = features()
    with pytest.raises(ValueError, match="no term depends on the tensors in shared="):
        Shared(x.clone()).rows({"a": x.sum()})


def test_a_graph_that_is_gone_is_explained() -> None:
    x = features()
    loss = (x**2).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    with pytest.raises(RuntimeError, match="call the criterion first"):
        Shared(x).rows({"a": loss})


def test_other_errors_pass_as_they_are() -> None:
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.sum()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            raise RuntimeError("of the user")

    x = features()
    with pytest.raises(RuntimeError, match=r"^of the user$"):
        Shared(x).rows({"a": Broken.apply(x)})  # type: ignore[no-untyped-call]


def test_float16_is_known_by_the_tensors_or_by_autocast() -> None:
    x = features()
    assert not Shared(x).is_half
    assert Shared([x, x.half()]).is_half
    with torch.autocast("cpu", torch.float16):
        assert Shared(x).is_half
    with torch.autocast("cpu", torch.bfloat16):
        assert not Shared(x).is_half


def test_a_generator_that_is_used_up_is_said() -> None:
    parameters = nn.Linear(3, 2).parameters()
    Shared(parameters)
    with pytest.raises(ValueError, match=r"empty the second time, give list\(...\)"):
        Shared(parameters)


def test_what_a_model_has_not_is_left_out() -> None:
    x = features()
    assert [id(t) for t in Shared({"p3": x, "p4": None}).tensors] == [id(x)]
