"""The phrases that messages share are short, whatever a user passes."""

from __future__ import annotations

from collections import OrderedDict, UserList
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lossweights.errors import did_you_mean, dotted, quoted, shown


class Failing:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


LOOP: list[Any] = []
LOOP.append(LOOP)
BOMB: Any = 1
for _ in range(20):
    BOMB = {"a": [BOMB] * 9, "b": (BOMB,) * 9}


@pytest.mark.parametrize(
    "value",
    [
        10**5000,
        "x" * 10**6,
        b"x" * 10**6,
        Failing(),
        LOOP,
        BOMB,
        [BOMB],
        np.ones(10**6),
        OrderedDict(a=BOMB),
        {"k" * 10**6: 1},
        UserList("ab"),
        set(range(10**5)),
        "�",
    ],
    ids=lambda value: type(value).__name__,
)
def test_any_value_is_shown_in_a_few_words(value: Any) -> None:
    assert 1 < len(shown(value)) < 210
    assert len(dotted(["terms", value, 0])) < 240


@given(
    st.recursive(
        st.integers(-9, 9) | st.booleans() | st.none() | st.text(max_size=3),
        lambda part: (
            st.lists(part, max_size=2) | st.dictionaries(st.text(max_size=2), part, max_size=2)
        ),
        max_leaves=3,
    )
)
def test_small_values_are_shown_as_they_are(value: Any) -> None:
    assert shown(value, depth=10) == repr(value)


def test_many_names_are_counted() -> None:
    names = [f"n{number}" for number in range(300)]
    assert quoted(names).endswith("'n38', 'n39' and 260 more")
    assert quoted([]) == "none"


def test_the_nearest_of_many_long_names() -> None:
    long = ["x" * 10**6 + str(number) for number in range(100)]
    assert did_you_mean("klx", [*long, "kl"]) == "; did you mean 'kl'?"
    assert did_you_mean(long[0], long) == ""
    assert did_you_mean(3, ["3"]) == ""
