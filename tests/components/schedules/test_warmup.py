"""The warm-up is the ramp from 0 to 1."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lossweights import Horizon, Ramp, Shape, Warmup
from tests.components.schedules.examples import ALL_SHAPES


@given(st.integers(0, 100), st.sampled_from(ALL_SHAPES))
def test_warmup_is_the_ramp_from_0_to_1(over: int, shape: Shape) -> None:
    steps = np.arange(130)
    warmup = Warmup(over=f"{over} steps", shape=shape, delay="7 steps")
    ramp = Ramp(start=0.0, stop=1.0, over=f"{over} steps", shape=shape, delay="7 steps")
    assert warmup(steps).tolist() == ramp(steps).tolist()
    assert warmup.ends(Horizon()) == ramp.ends(Horizon())


def test_a_length_between_two_steps_is_not_rounded() -> None:
    """15% of 10 steps are one and a half."""
    assert Warmup(over="15%").curve(4 + 6)[:3].tolist() == [0.0, 1 / 1.5, 1.0]
    assert Warmup(over="15%").ends(Horizon(10)) == 1.5


def test_bowmans_monotonic_annealing() -> None:
    """Bowman et al. 2016: from 0 to 1 in the first part of training, then 1; at half way 1/2."""
    weights = Warmup(over="25%", shape="sigmoid").curve(400)
    assert weights[0] == 0.0
    assert weights[50] == 0.5
    assert (weights[100:] == 1.0).all()
