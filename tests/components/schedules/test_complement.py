"""A complement outside a config; its weights are tested with configs."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
import yaml
from pydantic import ValidationError

from lossweights import Complement, Horizon, Schedule
from tests.components.schedules.examples import IN_CONFIGS

every_complement = pytest.mark.parametrize("complement", IN_CONFIGS["complement"], ids=repr)


@every_complement
def test_survives_a_file_pickle_and_copies(complement: Schedule) -> None:
    for again in (
        Schedule.read(complement.model_dump()),
        Schedule.read(json.loads(complement.model_dump_json(exclude_defaults=True))),
        Schedule.read(yaml.safe_load(str(complement))),
        pickle.loads(pickle.dumps(complement)),
        copy.deepcopy(complement),
    ):
        assert again == complement
        assert hash(again) == hash(complement)


def test_has_no_value_outside_a_config() -> None:
    complement, horizon = Complement(of="soft"), Horizon(10)
    message = r"\{kind: complement, of: soft\} can only be evaluated in a config, as the whole"
    for call in (
        lambda: complement([0, 1], horizon),
        lambda: complement.at(3),
        lambda: complement.curve(10),
        lambda: complement.ends(horizon),
        lambda: complement.final(horizon),
        lambda: complement.final(Horizon()),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_the_rest_is_the_total_minus_the_other_weight() -> None:
    complement = Complement(of="soft", total=2.0)
    assert complement.rest(np.array([0.0, 0.5, 2.0, -1.0])).tolist() == [2.0, 1.5, 0.0, 3.0]
    assert complement.rest(np.array([])).tolist() == []
    assert complement.rest(np.array([3.0, 1.0]), np.array([False, True])).tolist() == [-1.0, 1.0]
    with pytest.raises(ValueError, match=r"goes down to -1, because 'soft' goes up to 3"):
        complement.rest(np.array([1.0, 3.0]))


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({}, "of\n  Field required"),
        ({"of": 3}, "of\n  Input should be a valid string"),
        ({"of": "soft", "total": float("nan")}, "total\n  Input should be a finite number"),
        (
            {"of": "soft", "every": "3 steps"},
            "follows the other term at each step: write `every` th",
        ),
    ],
)
def test_refuses(fields: dict[str, object], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        Complement.model_validate(fields)
