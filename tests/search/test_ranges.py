"""What varies is checked before the first training."""

from __future__ import annotations

from typing import Any

import pytest

from lossweights import ConfigError, Cyclical, LossConfig, sweep
from lossweights.search.ranges import Choices, Range, grid, read_vary
from tests.search.trainings import CONFIG

LOSS = LossConfig.read(CONFIG)


@pytest.mark.parametrize(
    ("vary", "message"),
    [
        ({"kl.weigt": [1.0]}, r"vary 'kl\.weigt': 1\.0 is refused: .*did you mean 'weight'"),
        ({"lk.weight": [1.0]}, r"no term or field is called 'lk'; did you mean 'kl'"),
        ({"kl.schedule.cycles": [1, 0, 2]}, r"vary 'kl\.schedule\.cycles': 0 is refused"),
        ({"kl.schedule.cycles": (0, 4)}, r"vary 'kl\.schedule\.cycles': 0 is refused"),
        ({"kl.schedule.ratio": (0.5, 1.5)}, r"vary 'kl\.schedule\.ratio': 1\.5 is refused"),
        ({"kl.weight": (2, 1)}, "low must be below high"),
        ({"kl.weight": (1.0, 1.0)}, "low must be below high"),
        ({"kl.weight": (0.0, 1.0, "log")}, "begins above 0"),
        ({"kl.weight": (0.1, 1.0, "lin")}, "can only be 'log', found 'lin'"),
        ({"kl.weight": (0.1, float("inf"))}, "the ends of a range are numbers"),
        ({"kl.weight": (False, True)}, "the ends of a range are numbers"),
        ({"kl.weight": ("5%", "10 steps")}, "both ends of a range need one unit"),
        ({"kl.weight": 0.5}, r"write a range, \(low, high\)"),
        ({"kl.weight": []}, "an empty list"),
        ({"kl.weight": [1, 1.0]}, "is there twice"),
        ({}, "a table of ranges and choices by path is needed"),
    ],
)
def test_what_is_wrong_is_named(vary: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_vary(vary, LOSS)


def test_all_problems_are_listed_and_nothing_is_trained() -> None:
    calls: list[int] = []

    def train(config: LossConfig, seed: int, report: Any) -> dict[str, float]:
        calls.append(seed)
        return {"nll": 1.0}

    vary = {"kl.weigt": [1.0], "kl.schedule.cycles": [0, -1]}
    with pytest.raises(ConfigError) as caught:
        sweep(CONFIG, train, vary=vary, minimize=["nll"], trials=3)
    assert len(str(caught.value).splitlines()) == 3
    assert calls == []


def test_a_path_inside_one_that_comes_later_is_refused() -> None:
    tables = [{"weight": 0.5}, {"weight": 2.0}]
    with pytest.raises(ConfigError, match=r"vary 'kl\.weight': 'kl' comes later and replaces it"):
        read_vary({"kl.weight": (0.1, 1.0), "kl": tables}, LOSS)
    schedules = [{"kind": "cyclical", "cycles": 3}, None]
    with pytest.raises(ConfigError, match=r"'kl\.schedule' comes later"):
        read_vary({"kl.schedule.cycles": [1, 2], "kl.schedule": schedules}, LOSS)
    assert len(read_vary({"kl": tables, "kl.weight": (0.1, 1.0)}, LOSS)) == 2
    dotted = LossConfig.read({"terms": {"kl": 1.0, "kl.x": 1.0}})  # two terms
    assert len(read_vary({"kl.x.weight": [2.0, 3.0], "kl": [2.0, 3.0]}, dotted)) == 2


def test_two_whole_numbers_are_a_range_of_whole_numbers() -> None:
    (whole,) = read_vary({"kl.schedule.cycles": (1, 4)}, LOSS)
    (real,) = read_vary({"kl.weight": (1, 4.0)}, LOSS)
    assert isinstance(whole, Range)
    assert isinstance(real, Range)
    assert (whole.whole, real.whole) == (True, False)
    assert whole.values() == [1, 4]


def test_durations_are_a_range_in_their_unit() -> None:
    (percent,) = read_vary({"kl.after": ("5%", "60%")}, LOSS)
    (steps,) = read_vary({"kl.after": ("5 steps", "60 steps", "log")}, LOSS)
    assert isinstance(percent, Range)
    assert isinstance(steps, Range)
    assert (percent.values(), percent.whole) == (["5%", "60%"], False)
    assert (steps.values(), steps.whole) == (["5 steps", "60 steps"], True)


def test_a_choice_may_be_any_part_of_a_config() -> None:
    parts = [{"weight": 2.0}, {"kind": "pid", "target": 3.0, "response": "5%"}, Cyclical(cycles=2)]
    (choices,) = read_vary({"kl": parts}, LOSS)
    assert isinstance(choices, Choices)
    assert choices.values() == parts
    assert all(isinstance(label, str) for label in choices.by_label)


def test_the_grid_has_every_combination_but_the_unchanged_one() -> None:
    varied = read_vary({"kl.weight": [0.5, 1.0], "kl.schedule.cycles": [1, 2, 4]}, LOSS)
    found = grid(varied, LOSS, most=5)
    assert found is not None
    assert len(found) == 5
    assert {"kl.weight": 0.5, "kl.schedule.cycles": 4} not in found
    assert grid(read_vary({"kl.weight": (0.5, 1.0)}, LOSS), LOSS, most=5) is None


def test_a_grid_of_too_many_combinations_is_not_written_out() -> None:
    varied = read_vary({"kl.weight": [0.5, 1.0], "kl.schedule.cycles": [1, 2, 4]}, LOSS)
    assert grid(varied, LOSS, most=4) is None
    many = {path: [0.1 * n for n in range(1, 101)] for path in ("kl.weight", "nll.weight")}
    many["kl.schedule.ratio"] = [0.01 * n for n in range(1, 101)]
    assert grid(read_vary(many, LOSS), LOSS, most=10) is None  # of a million


def test_a_function_in_a_config_cannot_be_stored() -> None:
    with pytest.raises(ConfigError, match="a sweep stores its configs"):
        sweep(
            LossConfig.read({"terms": {"kl": lambda step: 1.0}}),
            lambda *_: {"nll": 1.0},
            vary={"kl.weight": [1.0, 2.0]},
            minimize=["nll"],
            trials=3,
        )
