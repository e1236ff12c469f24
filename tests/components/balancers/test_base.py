"""What the base class of balancers asks of a class."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import Tensor

from lossweights.components.balancers import Balancer
from lossweights.components.context import State, StepContext

REFUSED = (
    r"Forgotten has an update_after\(\), which would never be called: write "
    r"`learns_after: ClassVar\[bool\] = True` in the class"
)


class Base(Balancer):
    """A base that learns after the step."""

    learns_after: ClassVar[bool] = True

    def weigh(self, losses: Tensor, state: State, now: StepContext) -> Tensor:
        return torch.ones(len(losses))


@pytest.mark.parametrize("kind", ["forgotten", ""])
def test_an_update_after_that_would_never_be_called_is_refused(kind: str) -> None:
    with pytest.raises(TypeError, match=REFUSED):

        class Forgotten(Balancer, kind=kind):
            def weigh(self, losses: Tensor, state: State, now: StepContext) -> Tensor:
                return torch.ones(len(losses))

            def update_after(self, observed: Tensor, state: State, now: StepContext) -> None:
                """Never called."""

    assert not Balancer.has_kind("forgotten")


def test_learns_after_may_come_from_a_base() -> None:
    class Heir(Base):
        def update_after(self, observed: Tensor, state: State, now: StepContext) -> None:
            """Called after the step."""

    assert Heir.learns_after
