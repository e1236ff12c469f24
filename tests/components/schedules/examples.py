"""Schedules to hold every property on: several of each kind, plug-ins among them."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from lossweights import (
    Complement,
    Constant,
    Cyclical,
    Duration,
    Exponential,
    Horizon,
    Piecewise,
    Product,
    Ramp,
    Repeat,
    Schedule,
    Sequence,
    Shape,
    Stage,
    Steps,
    Values,
    Warmup,
    epochs,
    percent,
    steps,
)
from lossweights.components.schedules import (
    DelayedSchedule,
    ExponentialShape,
    GaussianShape,
    PowerShape,
    SigmoidShape,
)


class Spike(Schedule, kind="test-spike"):
    """What a user would write: one moment at `height`, else 0."""

    at_moment: Duration | str = percent(50)
    height: Annotated[float, Field(ge=0)] = 1.0

    def values(self, steps: Steps, horizon: Horizon) -> Values:
        return np.where(steps == horizon.steps(self.at_moment), self.height, 0.0)

    def ends(self, horizon: Horizon) -> float:
        return horizon.steps(self.at_moment) + 1


class Negated(Schedule, kind="test-negated"):
    """A schedule that holds a schedule."""

    schedule: Schedule

    def values(self, steps: Steps, horizon: Horizon) -> Values:
        return -self.schedule(steps, horizon)

    def ends(self, horizon: Horizon) -> float | None:
        return self.schedule.ends(horizon)

    def final(self, horizon: Horizon) -> float:
        return -self.schedule.final(horizon)


class Sawtooth(DelayedSchedule, kind="test-sawtooth"):
    """A delayed schedule that never settles."""

    teeth: Annotated[int, Field(ge=1)] = 3

    def undelayed(self, steps: Steps, horizon: Horizon) -> Values:
        return (steps % self.teeth) / self.teeth


class Smoothstep(Shape, kind="test-smoothstep"):
    """A shape of a plug-in."""

    def values(self, progress: Values) -> Values:
        return progress * progress * (3 - 2 * progress)


THIRDS = Sequence(
    stages=(
        Stage(schedule=Warmup(over="5 steps"), over="1 epochs"),
        Stage(schedule=Cyclical(cycles=2), over=percent(40)),
        Stage(schedule=Exponential(rate=0.9)),
    )
)

EXAMPLES: dict[str, list[Schedule]] = {
    "constant": [Constant(value=0.3), Constant(value=-2.0)],
    "cyclical": [
        Cyclical(),
        Cyclical(cycles=7, ratio=0.3, shape="cosine", start=0.1, stop=0.7),
        Cyclical(cycles=3, ratio=1, shape="sigmoid", delay=steps(5)),
        Cyclical(period="33.3%", start=1.0, stop=-1.0),
        Cyclical(period="10 steps", cycles=3, ratio=0.7, shape=ExponentialShape(sharpness=-3)),
        Cyclical(period="0.25 epochs", shape="hold"),
        Cyclical(period="21 steps", every="0.25 epochs", delay="3 steps"),
    ],
    "exponential": [
        Exponential(rate=0.9, per="2 steps", every="3 steps", delay="5 steps"),
        Exponential(half_life="10 steps"),
        Exponential(start=0.1, stop=1.0, rate=0.99, per=epochs(0.5), delay="10%"),
    ],
    "piecewise": [
        Piecewise(points=(("3 steps", 0.7),)),
        Piecewise(points=(("0 steps", 1.0), ("7 steps", 0.1), ("8 steps", 0.5)), shape="cosine"),
        Piecewise(points=(("10%", 1.0), ("25%", 0.1), ("90%", 0.01)), shape="hold"),
        Piecewise(points=(("0 epochs", 0.0), ("1 epochs", 2.0)), shape=Smoothstep()),
        Piecewise(points=(("3 steps", 1.0), ("17 steps", 0.1)), every="3.7%"),
    ],
    "product": [
        Product(factors=(2.0, Warmup(over="50%"), Exponential(half_life="20 steps"))),
        Product(factors=(Cyclical(period="9 steps"), Ramp(start=1.0, stop=0.1, over="100%"))),
        Product(factors=(Warmup(over="30%", every="4 steps"), 0.3), every="6 steps"),
    ],
    "ramp": [
        Ramp(start=0.0, stop=1.0, over="10 steps"),
        Ramp(start=0.1, stop=0.3, over="30%", shape="sigmoid"),
        Ramp(start=5.0, stop=1e-4, over="1.25 epochs", shape="exponential", delay="3 steps"),
        Ramp(start=-1.0, stop=1.0, over="0 steps", delay="4 steps"),
        Ramp(start=0.0, stop=1.0, over="12.5%", shape=PowerShape(exponent=0.5), delay="20%"),
        Ramp(start=0.0, stop=1.0, over="100%", every="0.35 epochs", delay="2 steps"),
        Ramp(start=1.0, stop=0.0, over="20 steps", every="8 steps"),
    ],
    "repeat": [
        Repeat(schedule=Warmup(over="5 steps"), period="7 steps"),
        Repeat(schedule=Ramp(start=1.0, stop=0.0, over="5%"), cycles=3),
        Repeat(schedule=THIRDS, cycles=2, period="21.7 epochs"),
        Repeat(schedule=Cyclical(cycles=2), cycles=5),
        Repeat(schedule=Warmup(over="5 steps", every="2 steps"), period="7 steps", every="3 steps"),
    ],
    "sequence": [
        THIRDS,
        Sequence(stages=(Stage(schedule=0.5),)),
        Sequence(
            stages=(
                Stage(schedule=0.5, over="4 steps"),
                Stage(schedule=Warmup(over="20 steps"), over="10 steps"),
            )
        ),
        Sequence(
            stages=(
                Stage(schedule=Warmup(over="20 steps", every="1 epochs"), over="13 steps"),
                Stage(schedule=Ramp(start=1.0, stop=0.5, over="10 steps", every="4 steps")),
            )
        ),
        Sequence(stages=(*THIRDS.stages[:2], Stage(schedule=0.1, over="5 steps")), every="2 steps"),
        Sequence(
            stages=(
                Stage(schedule=THIRDS, over="50%"),
                Stage(schedule=Repeat(schedule=Warmup(over="3 steps"), cycles=2)),
            )
        ),
    ],
    "warmup": [
        Warmup(over="10 steps"),
        Warmup(over="25%", shape=SigmoidShape(sharpness=6), delay="1 epochs"),
        Warmup(over="0 steps", delay="2 steps"),
        Warmup(over="25%", every="1 steps"),
        Warmup(over="1 epochs", every="30 epochs"),
    ],
    "test-spike": [Spike(), Spike(at_moment="3 steps", every="2 steps")],
    "test-negated": [
        Negated(schedule=Warmup(over="9 steps", every="2 steps"), every="5 steps"),
        Negated(schedule=Cyclical(cycles=3)),
        Negated(schedule=2.0),
    ],
    "test-sawtooth": [Sawtooth(), Sawtooth(teeth=7, delay="5%", every="2 steps")],
}

# These have no value of their own: tests/config/test_complements.py evaluates them.
IN_CONFIGS: dict[str, list[Schedule]] = {
    "complement": [Complement(of="soft"), Complement(of="a term: of 2", total=2.5)],
}

SHAPES: dict[str, list[Shape]] = {
    "cosine": [Shape.read("cosine")],
    "exponential": [ExponentialShape(sharpness=sharpness) for sharpness in (-500, -2, 5, 500)],
    "gaussian": [GaussianShape(sharpness=sharpness) for sharpness in (-500, -12.5, 5, 500)],
    "hold": [Shape.read("hold")],
    "linear": [Shape.read("linear")],
    "power": [PowerShape(exponent=exponent) for exponent in (0.01, 0.5, 1, 2, 100)],
    "sigmoid": [SigmoidShape(sharpness=sharpness) for sharpness in (0.01, 6, 12, 1000)],
    "test-smoothstep": [Smoothstep()],
}

ALL_SCHEDULES = [schedule for examples in EXAMPLES.values() for schedule in examples]
ALL_SHAPES = [shape for examples in SHAPES.values() for shape in examples]
