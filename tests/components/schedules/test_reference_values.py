"""Agreement with other implementations, on values recorded from their code.

`reference_values.json` holds, for each case, the call that was made and what it gave at steps 0, 1,
2, ..., to 13 decimals. Where a peer means another thing by the same words, the comment beside the
case says what, and the case tests the conversion.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import pytest
from numpy.typing import ArrayLike

from lossweights import Cyclical, Horizon, Schedule, Values


class Reference(TypedDict):
    call: str
    values: list[float]


REFERENCE: dict[str, Reference] = json.loads(
    Path(__file__).with_name("reference_values.json").read_text(encoding="utf-8")
)


def agree(ours: Values, theirs: ArrayLike, call: str = "") -> None:
    np.testing.assert_allclose(ours, np.asarray(theirs, float), rtol=0, atol=1e-12, err_msg=call)


def ramp(start: float, stop: float, over: str, **rest: Any) -> dict[str, Any]:
    return {"kind": "ramp", "start": start, "stop": stop, "over": over, **rest}


def piecewise(*points: tuple[float, float], **rest: Any) -> dict[str, Any]:
    return {"kind": "piecewise", "points": [(f"{at} steps", w) for at, w in points], **rest}


def sequence(*stages: tuple[Any, str | None]) -> dict[str, Any]:
    return {
        "kind": "sequence",
        "stages": [{"schedule": schedule, "over": over} for schedule, over in stages],
    }


def repeat(schedule: Any, period: str) -> dict[str, Any]:
    return {"kind": "repeat", "schedule": schedule, "period": period}


def cyclical(**fields: Any) -> dict[str, Any]:
    return {"kind": "cyclical", **fields}


# The total steps that the recorded training had, and our schedule for the same curve.
SAME: dict[str, tuple[int, Any]] = {
    # Fu et al.: theirs fills the plateau with `stop` in the README, with 1 in the notebook.
    "fu-linear-100-4-0.5-1.0": (100, cyclical(cycles=4, ratio=0.5)),
    "fu-linear-100-1-0.25-1.0": (100, cyclical(cycles=1, ratio=0.25)),
    "fu-linear-103-4-0.5-1.0": (103, cyclical(cycles=4, ratio=0.5)),
    "fu-linear-97-5-0.3-1.0": (97, cyclical(cycles=5, ratio=0.3)),
    "fu-linear-100-4-0.5-0.5": (100, cyclical(cycles=4, ratio=0.5, stop=0.5)),
    "fu-linear-100-3-0.7-2.5": (100, cyclical(cycles=3, ratio=0.7, stop=2.5)),
    "fu-linear-60-6-0.1-1.0": (60, cyclical(cycles=6, ratio=0.1)),
    "fu-linear-300-10-0.333-1.0": (300, cyclical(cycles=10, ratio=0.333)),
    # Their cosine has start and stop in its argument, which is the same for 0 and 1 alone.
    "fu-cosine-100-4-0.5-1.0": (100, cyclical(cycles=4, ratio=0.5, shape="cosine")),
    "fu-cosine-100-1-0.25-1.0": (100, cyclical(cycles=1, ratio=0.25, shape="cosine")),
    "fu-cosine-103-4-0.5-1.0": (103, cyclical(cycles=4, ratio=0.5, shape="cosine")),
    "fu-cosine-97-5-0.3-1.0": (97, cyclical(cycles=5, ratio=0.3, shape="cosine")),
    "fu-cosine-60-6-0.1-1.0": (60, cyclical(cycles=6, ratio=0.1, shape="cosine")),
    # optax: transition_begin is our delay; its scales multiply, our points are the weights.
    "optax-constant": (5, 0.3),
    "optax-polynomial": (20, ramp(0, 1, "10 steps", delay="5 steps")),
    "optax-cosine-decay": (25, ramp(1, 0.1, "20 steps", shape="cosine")),
    "optax-exponential-decay": (25, {"kind": "exponential", "rate": 0.5, "per": "10 steps"}),
    "optax-piecewise-constant": (15, piecewise((0, 1), (5, 0.5), (10, 0.05), shape="hold")),
    "optax-piecewise-interpolate": (15, piecewise((0, 1), (5, 0.5), (10, 1), shape="cosine")),
    "optax-linear-onecycle": (25, piecewise((0, 0.04), (6, 1), (17, 0.04), (20, 4e-6))),
    # optax joins: decay_steps includes the warm-up in sgdr, and does not in the exponential one.
    "optax-sgdr": (
        30,
        sequence(
            (ramp(0, 1, "3 steps"), "3 steps"),
            (ramp(1, 0.1, "7 steps", shape="cosine"), "7 steps"),
            (ramp(0.1, 0.5, "5 steps"), "5 steps"),
            (ramp(0.5, 0, "10 steps", shape="cosine"), None),
        ),
    ),
    "optax-warmup-exponential": (
        25,
        sequence(
            (ramp(0, 1, "5 steps"), "5 steps"),
            ({"kind": "exponential", "rate": 0.5, "per": "10 steps"}, None),
        ),
    ),
    # fvcore: `where` is the part of training that is done, and at 1 some of it raise.
    "fvcore-constant": (20, 0.3),
    "fvcore-cosine": (20, ramp(0, 1, "100%", shape="cosine")),
    "fvcore-linear": (20, ramp(1e-4, 0.01, "100%")),
    "fvcore-multistep-120": (
        120,
        piecewise((0, 0.1), (30, 0.01), (60, 1e-3), (80, 1e-4), shape="hold"),
    ),
    "fvcore-multistep-9": (9, piecewise((0, 1), (3, 0.1), (6, 0.01), shape="hold")),
    "fvcore-step-120": (
        120,
        piecewise((0, 0.1), (30, 0.01), (60, 1e-3), (90, 1e-4), shape="hold"),
    ),
    # fvcore's "rescaled" runs a schedule from 0 to 1 within its stage; ours has its length said.
    # (Its "fixed", which hands every stage the time of the whole training, we have not.)
    "fvcore-composite-2": (
        20,
        sequence((0.42, "30%"), (ramp(0.42, 1e-4, "70%", shape="cosine"), None)),
    ),
    "fvcore-composite-3": (
        20,
        sequence(
            (0.42, "20%"),
            (ramp(0.42, 1e-4, "30%", shape="cosine"), "30%"),
            (ramp(0, 1, "50%"), None),
        ),
    ),
    # scvi-tools: epochs win over steps where both are given; see below for its staircase.
    "scvi-none": (15, 1.0),
    "scvi-1-step": (15, ramp(0.5, 1, "1 steps")),
    # ignite: its "cyclical" is a triangle, its cosine jumps back at the end of each cycle.
    "ignite-triangle": (30, repeat(piecewise((0, 0), (5, 1), (10, 0)), "10 steps")),
    "ignite-triangle-down": (40, repeat(piecewise((0, 0), (10, 1), (13, 0)), "13 steps")),
    "ignite-cosine": (30, cyclical(period="10 steps", ratio=1, shape="cosine")),
    "ignite-cosine-down": (
        45,
        repeat(
            sequence(
                (ramp(1, 0.1, "10 steps", shape="cosine"), "10 steps"),
                (ramp(0.1, 1, "4 steps"), "4 steps"),
            ),
            "14 steps",
        ),
    ),
    "ignite-piecewise": (40, piecewise((10, 0.5), (20, 0.45), (21, 0.3), (30, 0.1))),
    "ignite-piecewise-short": (6, piecewise((1, 1), (3, 0.8), (5, 0.2))),
    "ignite-concat": (
        40,
        sequence(
            (piecewise((0, 0), (10, 1)), "10 steps"),
            (repeat(piecewise((0, 1), (5, 0), (10, 1)), "10 steps"), "15 steps"),
            (cyclical(period="10 steps", ratio=1, shape="cosine", start=1, stop=0), None),
        ),
    ),
    # composer: factors of a learning rate; batches are steps, "ep" and "dur" read as they are.
    "composer-step": (100, piecewise(*((10 * k, 0.5**k) for k in range(10)), shape="hold")),
    "composer-multistep": (
        100,
        piecewise((0, 1), (10, 0.1), (40, 0.01), (80, 0.001), shape="hold"),
    ),
    "composer-linear": (100, ramp(1, 0, "1dur")),
    "composer-linear-half": (100, ramp(1, 0, "0.5dur")),
    "composer-exponential": (100, {"kind": "exponential", "rate": 0.9, "per": "1ep"}),
    "composer-cosine": (100, ramp(1, 0, "60 steps", shape="cosine")),
    "composer-warm-restarts": (
        100,
        cyclical(period="25 steps", ratio=1, shape="cosine", start=1, stop=0),
    ),
    "composer-constant-warmup": (100, {"kind": "warmup", "over": "10 steps"}),
    "composer-cosine-warmup": (
        100,
        sequence(
            ({"kind": "warmup", "over": "0.1dur"}, "0.1dur"),
            (ramp(1, 0.05, "0.9dur", shape="cosine"), None),
        ),
    ),
    "composer-linear-warmup": (
        100,
        sequence(({"kind": "warmup", "over": "2ep"}, "2ep"), (ramp(1, 0, "8ep"), None)),
    ),
}
CONVERTED = {
    "composer-polynomial",
    "scvi-10-epochs",
    "scvi-both",
    *(name for name in REFERENCE if name.startswith("fu-sigmoid-")),
}


def test_every_recorded_value_is_compared() -> None:
    assert SAME.keys() | CONVERTED == REFERENCE.keys()


@pytest.mark.parametrize("name", SAME)
def test_agrees(name: str) -> None:
    total, table = SAME[name]
    expected = REFERENCE[name]["values"]
    found = Schedule.read(table)(np.arange(len(expected)), Horizon(total, steps_per_epoch=10))
    agree(found, expected, REFERENCE[name]["call"])


def logistic(progress: float) -> float:
    return float(1 / (1 + np.exp(6 - 12 * progress)))


@pytest.mark.parametrize("name", [name for name in REFERENCE if name.startswith("fu-sigmoid-")])
def test_sigmoid_is_the_logistic_of_the_notebook_stretched(name: str) -> None:
    """Theirs runs from 0.0025 to 0.9975 and jumps to 1; ours is (s - s0) / (s1 - s0)."""
    n_iter, n_cycle, ratio, _ = name.removeprefix("fu-sigmoid-").split("-")
    theirs = np.array(REFERENCE[name]["values"])
    bottom, top = logistic(0), logistic(1)
    stretched = np.minimum((theirs - bottom) / (top - bottom), 1.0)
    ours = Cyclical(cycles=int(n_cycle), ratio=float(ratio), shape="sigmoid")
    agree(ours.curve(int(n_iter)), stretched)


def test_polynomial_decay_is_the_power_ramp_backwards() -> None:
    """The decay of composer and optax, (1 - x)**p, is flat at its end; our x**p at its start."""
    theirs = np.array(REFERENCE["composer-polynomial"]["values"])
    rising = Schedule.read(ramp(0.1, 1, "100%", shape={"kind": "power", "exponent": 2}))
    backwards: Values = rising(100 - np.arange(100), Horizon(100))
    agree(backwards, theirs)


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("scvi-10-epochs", ramp(0.1, 0.5, "10 epochs")),
        ("scvi-both", {"kind": "warmup", "over": "5 epochs"}),
    ],
)
def test_a_warmup_in_epochs_moves_each_step(name: str, table: dict[str, Any]) -> None:
    """That of scvi-tools is held for an epoch: ours too if it is said."""
    theirs = REFERENCE[name]["values"]
    ours = Schedule.read(table).curve(len(theirs), steps_per_epoch=2)
    agree(ours[::2], theirs[::2])
    held = Schedule.read({**table, "every": "1 epochs"})
    agree(held.curve(len(theirs), steps_per_epoch=2), theirs)
    assert (np.diff(ours[:10]) > 0).all()
