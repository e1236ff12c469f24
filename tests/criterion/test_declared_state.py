"""What a component may declare as its state, and what becomes of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lossweights import Balancer, ConfigError, Controller, State, StepContext, WeightedLoss
from tests.small_components import Priced


def build(balancer: Any, terms: Any) -> WeightedLoss:
    return WeightedLoss(terms=terms, balancer=balancer)


class Declaring(Balancer, kind="test-declaring"):
    """Declares one tensor."""

    key: str = "weights"
    shape: tuple[int, ...] = ()
    learned: bool = False

    def init(self, n: int) -> State:
        tensor = torch.ones(self.shape)
        return {self.key: nn.Parameter(tensor) if self.learned else tensor}

    def weigh(self, losses: Tensor, state: State, now: StepContext) -> Tensor:
        return torch.ones(2)


class DeclaringToo(Controller, kind="test-declaring"):
    """The same of a controller."""

    shape: tuple[int, ...] = ()
    learned: bool = False

    def init(self) -> State:
        tensor = torch.ones(self.shape)
        return {"coefficient": nn.Parameter(tensor) if self.learned else tensor}

    def weigh(self, value: Tensor, state: State, now: StepContext) -> Tensor:
        return torch.ones(())

    def update(self, observed: Tensor, state: State, now: StepContext) -> None:
        """Learns nothing."""


@pytest.mark.parametrize(
    ("terms", "balancer", "problem"),
    [
        (["a", "b"], Declaring(shape=(3,)), r"'weights' of shape \(3,\);.* the 2 terms on its las"),
        (
            ["a", "b"],
            Declaring(shape=(2, 1)),
            r"balancer: init\(\) returns 'weights' of shape \(",
        ),
        (["a", "b"], Declaring(shape=(1,), learned=True), r"'weights' of shape \(1,\)"),
        ({"a": DeclaringToo(shape=(1,))}, None, r"terms.a.controller: init\(\) .* is 0-dim"),
        (
            {"a": DeclaringToo(learned=True)},
            None,
            "'coefficient' is an nn.Parameter, which only a bal",
        ),
        (["a", "b"], Declaring(key="slots", learned=True), "nothing learned can be called 'slots'"),
        (["a", "b"], Declaring(key="a.b", learned=True), "nothing learned can be called 'a.b'"),
    ],
)
def test_state_has_the_shape_that_can_be_kept(terms: Any, balancer: Any, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        WeightedLoss(terms=terms, balancer=balancer)


@pytest.mark.parametrize("key", ["weights", "a.b", "state", "step", "größe"])
def test_state_that_is_not_learned_may_have_any_name(key: str) -> None:
    for shape in ((), (2,), (3, 2)):
        criterion = WeightedLoss(terms=["a", "b"], balancer=Declaring(key=key, shape=shape))
        other = WeightedLoss(terms=["a", "b"], balancer=Declaring(key=key, shape=shape))
        other.load_state_dict(criterion.state_dict())


def test_a_learned_scalar_is_kept_for_other_terms() -> None:
    scalar = Declaring(learned=True)
    criterion, other = build(scalar, ["a", "b"]), build(scalar, ["b", "c"])
    with torch.no_grad():
        next(criterion.parameters()).fill_(7.0)
    with pytest.warns(UserWarning, match="weights is learned for other terms"):
        other.load_state_dict(criterion.state_dict(), strict=False)
    assert other.adaptive.weights == 7.0


def test_low_and_high_precision_are_kept_as_float32() -> None:
    class Precise(Priced, kind="test-precise"):
        def init(self, n: int) -> State:
            learned = nn.Parameter(torch.ones(n, dtype=torch.float64))
            return {"learned": learned, "low": torch.ones(n).half(), "count": torch.zeros(n).int()}

        def update(self, observed: Tensor, state: State, now: StepContext) -> None:
            """Learns nothing."""

    state = build(Precise(), ["a"]).adaptive.slots["balancer"].state
    kinds = [state[key].dtype for key in ("learned", "low", "count")]
    assert kinds == [torch.float32, torch.float32, torch.int32]


def test_building_inside_inference_mode_is_refused() -> None:
    with torch.inference_mode(), pytest.raises(RuntimeError, match="build it outside"):
        build("uncertainty", ["a"])
