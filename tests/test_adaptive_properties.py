"""Every registered controller, transform and balancer keeps every property, plug-ins too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import pytest
import torch
from pydantic import Field
from torch import Tensor, nn

from lossweights import Controller, Schedule, State, StepContext, Transform
from lossweights.components.balancers import Balancer
from lossweights.testing import (
    ADAPTIVE_PROPERTIES,
    check_compiles_once,
    check_round_trip,
)
from lossweights.testing.training import STEPS, Adaptive, Training


class InverseValue(Balancer, kind="test-inverse"):
    """What a user would write: weights by the inverse of a moving average, and a schedule."""

    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    strength: Schedule = Schedule.read({"kind": "warmup", "over": "50%"})

    def init(self, n: int) -> State:
        return {"average": torch.zeros(n), "updates": torch.zeros(())}

    def weigh(self, losses: Tensor, state: State, now: StepContext) -> Tensor:
        inverse = 1 / state["average"].abs().clamp(1e-6, 1e6)
        return torch.lerp(torch.ones_like(inverse), inverse, now["strength"])

    def update(self, observed: Tensor, state: State, now: StepContext) -> None:
        state["updates"] += 1
        state["average"].lerp_(observed.clamp(-1e9, 1e9), 1 - self.momentum)


class Learned(Balancer, kind="test-learned"):
    """Learned, with a scheduled price."""

    price: Schedule = Schedule.read({"kind": "ramp", "start": 1, "stop": 2, "over": "50%"})

    def init(self, n: int) -> State:
        return {"logits": nn.Parameter(torch.zeros(n)), "seen": torch.zeros(n)}

    def weigh(self, losses: Tensor, state: State, now: StepContext) -> Tensor:
        return torch.sigmoid(state["logits"])

    def penalty(self, state: State, now: StepContext) -> Tensor:
        return now["price"] * state["logits"].square()

    def update(self, observed: Tensor, state: State, now: StepContext) -> None:
        state["seen"] += 1


class Thermostat(Controller, kind="test-thermostat"):
    """Up by a step where the value is above its setting, else down."""

    setting: Schedule
    instant_part: float = 0.0

    def init(self) -> State:
        return {"coefficient": torch.ones(())}

    def weigh(self, value: Tensor, state: State, now: StepContext) -> Tensor:
        return state["coefficient"] * (1 + 0 * now["setting"])

    def update(self, observed: Tensor, state: State, now: StepContext) -> None:
        state["coefficient"] += 0.1 * torch.sign(observed - now["setting"])


class Shifted(Transform, kind="test-shifted"):
    """Less a scheduled offset, and less what it was on average."""

    offset: Schedule = Schedule.read({"kind": "ramp", "start": 0, "stop": 1, "over": "50%"})

    def init(self) -> State:
        return {"average": torch.zeros(())}

    def apply(self, value: Tensor, state: State, now: StepContext) -> Tensor:
        return value - now["offset"] - state["average"].clamp(-1e9, 1e9)

    def update(self, observed: Tensor, state: State, now: StepContext) -> None:
        state["average"].lerp_(observed, 0.1)


EXAMPLES: list[Adaptive] = [
    InverseValue(),
    Learned(),
    Thermostat(setting=0.5),
    Thermostat(setting={"kind": "warmup", "over": "25%"}, source="accuracy"),
    Thermostat(setting=2.0, source="beta"),
    Shifted(),
]
TABLES: dict[type[Adaptive], list[dict[str, Any]]] = {
    Balancer: [
        {"kind": "uncertainty"},
        {"kind": "uncertainty", "regularizer": "log1p", "lowest": -2, "highest": 2},
        {"kind": "uncertainty", "factor": "full", "regularizer": "log_variance"},
        {"kind": "uncertainty", "bounds": [0.2, 1.5], "normalize": "mean"},
        {"kind": "dwa", "every": "3 steps"},
        {"kind": "dwa", "every": "1 steps", "bounds": [0.3, 0.4], "normalize": "sum"},
        {"kind": "dwa"},
        {"kind": "imtl-l"},
        {"kind": "imtl-l", "lowest": -2, "highest": 2},
        {"kind": "softadapt"},
        {"kind": "softadapt", "every": "1 steps", "sharpness": 10},
        {"kind": "softadapt", "every": "2 steps", "variant": "normalized"},
        {"kind": "softadapt", "every": "3 steps", "variant": "loss_weighted", "order": 2},
        {"kind": "relobralo"},
        {"kind": "relobralo", "smoothing": 0.5, "saudade": 0.5, "temperature": 0.1},
        {"kind": "random"},
        {"kind": "geometric"},
        {"kind": "stch"},
        {"kind": "uw-so"},
        {"kind": "uw-so", "temperature": 2, "bounds": [0.1, 10], "normalize": "mean"},
        {"kind": "famo"},
        {"kind": "cov"},
        {"kind": "cov", "smoothing": 0.9},
        {"kind": "moving-average"},
        {"kind": "moving-average", "reference": "beta"},
        {"kind": "gradnorm"},
        {"kind": "gradnorm", "every": "2 steps", "asymmetry": 0.12},
        {"kind": "lr-annealing", "reference": "beta"},
        {"kind": "lr-annealing", "reference": "alpha", "statistic": "mean", "every": "3 steps"},
        {"kind": "lr-annealing", "reference": "alpha", "compared": "plain"},
        {"kind": "norm-balance"},
        {"kind": "norm-balance", "per_item": False, "smoothing": 0.5, "heads": "plain"},
        {"kind": "db-mtl"},
        {"kind": "upgrad"},
        {"kind": "upgrad", "every": "5 steps"},
        {"kind": "dualproj"},
        {"kind": "imtl-g", "heads": "plain"},
        {"kind": "aligned-mtl"},
        {"kind": "aligned-mtl", "scale_mode": "rmse", "heads": "plain"},
        {"kind": "pcgrad", "seed": 3},
        {"kind": "gradvac"},
        {"kind": "gradvac", "smoothing": 0.5, "every": "2 steps", "heads": "plain"},
        {"kind": "mgda"},
        {"kind": "mgda", "divide_by": "loss+"},
        {"kind": "mgda", "every": "2 steps", "bounds": [0.2, 2], "normalize": "mean"},
        {"kind": "cagrad"},
        {"kind": "cagrad", "radius": 1.5, "rescale": 1},
        {"kind": "nash-mtl"},
        {"kind": "nash-mtl", "max_norm": None, "every": "3 steps"},
        {"kind": "fairgrad"},
        {"kind": "fairgrad", "fairness": 2, "max_norm": 1},
        {"kind": "conflict-free"},
    ],
    Controller: [
        {"kind": "manual", "initial": 0.5, "lowest": -1.0},
        {"kind": "pid", "target": 0.5},
        {"kind": "pid", "target": 0.5, "response": "10%", "lowest": 0.1},
        {"kind": "pid", "target": {"kind": "warmup", "over": "25%"}, "source": "accuracy"},
        {"kind": "lagrangian", "at_most": 0.5},
        {"kind": "lagrangian", "at_least": 2.0, "smoothing": 0.9, "learning_rate": 0.1},
        {"kind": "lagrangian", "at_most": 0.5, "ascent": "exponential", "smoothing": 0.9},
        {"kind": "lagrangian", "equal_to": {"kind": "warmup", "over": "50%"}},
        {"kind": "augmented-lagrangian", "at_most": 0.5, "growth": 1.1},
        {"kind": "augmented-lagrangian", "at_least": {"kind": "warmup", "over": "50%"}},
        {"kind": "augmented-lagrangian", "equal_to": 0.5, "learning_rate": 0.1},
        {"kind": "adaptive-kl", "target": 0.5},
        {"kind": "adaptive-kl", "target": {"kind": "warmup", "over": "50%"}, "source": "beta"},
        {"kind": "plateau", "source": "alpha", "patience": 2, "factor": 0.5, "cooldown": 1},
        {"kind": "plateau", "mode": "max", "source": "accuracy", "factor": 2.0},
    ],
    Transform: [
        {
            "kind": "capacity",
            "capacity": {"kind": "ramp", "start": 0, "stop": 1, "over": "50%"},
        },
        {"kind": "free-bits", "threshold": 0.5},
        {"kind": "free-bits", "threshold": {"kind": "warmup", "over": "50%"}, "per": "element"},
        {"kind": "free-bits", "threshold": 0.5, "per": "value"},
        {"kind": "log"},
        {"kind": "relative"},
        {"kind": "relative", "to": "moving-average", "smoothing": 0.9},
    ],
}
EXAMPLES += [family.read(table) for family, tables in TABLES.items() for table in tables]


def test_there_is_an_example_of_every_kind() -> None:
    for family in (Balancer, Controller, Transform):
        ours = {
            kind
            for kind, member in family.kinds().items()
            if member.__module__.startswith(("lossweights.", __name__))
        }
        assert ours == {example.kind for example in EXAMPLES if isinstance(example, family)}


@pytest.mark.parametrize("example", EXAMPLES, ids=repr)
@pytest.mark.parametrize(
    "property_", [check_round_trip, *ADAPTIVE_PROPERTIES], ids=lambda p: p.__name__
)
def test_property(example: Adaptive, property_: Callable[[Adaptive], None]) -> None:
    property_(example)


@pytest.mark.parametrize("example", EXAMPLES, ids=repr)
def test_compiles_once(example: Adaptive) -> None:
    check_compiles_once(example)


@pytest.mark.parametrize("example", EXAMPLES, ids=repr)
def test_the_default_dtype_changes_nothing(example: Adaptive) -> None:
    trained = {}
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        torch.set_default_dtype(dtype)
        try:
            trained[dtype] = Training(example).run(range(STEPS // 3)).criterion
        finally:
            torch.set_default_dtype(torch.float32)
    expected = trained[torch.float32]
    for dtype, found in trained.items():
        seen = found.metrics(tensors=True) | found.state_dict()
        for key, tensor in (expected.metrics(tensors=True) | expected.state_dict()).items():
            assert seen[key].dtype is tensor.dtype, (dtype, key)
            message = f"{dtype}: {key}"  # nan for what was found in a step without gradients
            torch.testing.assert_close(
                seen[key], tensor, rtol=0, atol=0, equal_nan=True, msg=message
            )
