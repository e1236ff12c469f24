"""Inputs for the tests that try anything: how many, and what an answer may be."""

from __future__ import annotations

import os
import resource
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from lossweights import ConfigError, HorizonError, LossConfig, WeightedLoss

#: Examples of each test; `LOSSWEIGHTS_EXAMPLES=100000` tries for hours.
EXAMPLES = int(os.environ.get("LOSSWEIGHTS_EXAMPLES", "150"))

many = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

SECONDS = 10  # of processor time: a limit for what never ends, on the slowest machine


def answer(read: Callable[[], Any]) -> WeightedLoss | None:
    """A criterion that works, or None for a config that is refused by an error of ours.

    Fails for any other error, for one without a message, and for one that is too long to read.
    """
    before = resource.getrusage(resource.RUSAGE_SELF)
    criterion, problem = None, "none"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            criterion = WeightedLoss(read())
            with suppress(HorizonError):
                assert set(criterion.weights) == set(criterion.config.all_terms)
            criterion.describe()
    except (ConfigError, HorizonError) as error:
        problem = str(error)
    assert 0 < len(problem) < 30_000
    problem.encode()  # without half characters
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert after.ru_utime - before.ru_utime < SECONDS
    assert after.ru_maxrss - before.ru_maxrss < 300_000, "KiB"
    return criterion


def read(source: Any, at: str | None = None) -> WeightedLoss | None:
    """The answer to a mapping or a file."""
    return answer(lambda: LossConfig.read(source, at))


NUMBERS = st.one_of(
    st.integers(-3, 10),
    st.floats(),
    st.integers(),
    st.sampled_from([2**53, 2**53 + 1, -(2**53) - 1, 2**63, 2**64, 10**40, 10**400, 3.5e38, 1e-46]),
)
TEXTS = st.one_of(
    st.text(max_size=6),
    st.characters().map(lambda character: f"a{character}b"),
    st.sampled_from(
        [
            "",
            "5 steps",
            "10%",
            "2 epochs",
            "3 tokens",
            "-1 steps",
            "1e400 steps",
            "5",
            "017",
            "1e-3",
            "*",
            "a*",
        ]
    ),
    st.sampled_from(["g", "b/first", "g/in", "/", "a/"]),
    st.sampled_from(["a{0..5}", "{b,first}", "{{x}}", "{", "{0..9999}", "{0..99999999}", "{9..}"]),
    st.sampled_from(
        ["linear", "cosine", "uncertainty", "ramp", "final", "off", "yes", "\0", "a\nb"]
    ),
)
