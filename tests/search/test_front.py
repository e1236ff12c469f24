"""Dominance beyond the spread, the knee and the hypervolume, against values by hand."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from lossweights import Front
from lossweights.search import Outcome


def front(*rows: Sequence[Sequence[float]], maximize: Sequence[str] = ("b",)) -> Front:
    """A front of a (small) and b; each config has one (a, b) by seed."""
    outcomes = [
        Outcome(number, "done", {}, {seed: {"a": a, "b": b} for seed, (a, b) in enumerate(row)})
        for number, row in enumerate(rows)
    ]
    minimize = [name for name in ("a", "b") if name not in maximize]
    return Front(outcomes, minimize=minimize, maximize=maximize, seeds=range(len(rows[0])))


def numbers(found: Front) -> list[int]:
    return [each.number for each in found.points]


def test_with_one_seed_any_difference_counts() -> None:
    found = front([(1.0, 1.0)], [(1.0, 2.0)], [(1.0 - 1e-9, 2.0)], [(0.0, 0.0)])
    assert numbers(found) == [2, 3]


def test_equal_configs_are_both_on_the_front() -> None:
    assert numbers(front([(1.0, 1.0)], [(1.0, 1.0)])) == [0, 1]


def test_a_difference_within_the_spread_does_not_dominate() -> None:
    """Differences of a, seed by seed: (1, -0.5), mean 0.25, deviation 1.06."""
    first, second = [(1.0, 1.0), (2.0, 1.0)], [(2.0, 1.0), (1.5, 1.0)]
    assert numbers(front(first, second)) == [0, 1]


def test_differences_are_paired_by_seed() -> None:
    """The seeds differ by 10, the configs by 0.1 under each seed: that is beyond the spread."""
    first, second = [(0.0, 1.0), (10.0, 1.0)], [(0.1, 1.0), (10.11, 1.0)]
    assert numbers(front(first, second)) == [0]


def test_a_config_that_is_worse_in_the_mean_of_one_objective_does_not_dominate() -> None:
    first, second = [(0.0, 1.0), (0.0, 1.0)], [(5.0, 1.0), (5.0, 1.1)]
    assert numbers(front(first, second)) == [0, 1]


def test_with_one_seed_the_front_is_that_of_a_brute_force_search() -> None:
    points = np.random.default_rng(0).integers(0, 6, (40, 2)).astype(float)
    found = front(*([tuple(point)] for point in points))

    def beats(one: np.ndarray, other: np.ndarray) -> bool:
        gains = (other[0] - one[0], one[1] - other[1])
        return bool(min(gains) >= 0 and max(gains) > 0)

    expected = [i for i, p in enumerate(points) if not any(beats(q, p) for q in points)]
    assert numbers(found) == expected


@pytest.mark.parametrize("seeds", [1, 2, 4])
def test_the_front_is_what_no_other_config_dominates(seeds: int) -> None:
    results = np.random.default_rng(seeds).normal(size=(30, 1, 2)).repeat(seeds, axis=1)
    results += 0.3 * np.random.default_rng(0).normal(size=results.shape)
    found = front(*results.tolist())
    by_pairs = [
        each.number
        for each in found.done
        if not any(found.dominates(other, each) for other in found.done if other is not each)
    ]
    assert 0 < len(by_pairs) < 30
    assert numbers(found) == by_pairs


def test_the_front_is_never_empty_and_has_every_best_mean() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        found = front(*rng.normal(size=(12, 3, 2)).round(1))
        best = min(found.done, key=lambda each: (each.mean("a"), -each.mean("b")))
        assert best in found.points


def test_configs_that_are_not_done_are_not_on_it() -> None:
    good = {0: {"a": -9.0, "b": 9.0}}
    done = front([(1.0, 1.0)]).outcomes
    others = [
        Outcome(n, state, {}, good, "why")
        for n, state in enumerate(("failed", "pruned", "running"), 1)
    ]
    found = Front([*done, *others], minimize=["a"], maximize=["b"])
    assert numbers(found) == [0]
    assert "failed: why" in found.table()


def test_the_knee_bulges_most_towards_the_ideal() -> None:
    """Scaled, the sums are 1, 0.1 + 0.6, 0.2 + 0.2, 0.8 + 0.1 and 1."""
    rows = [(0.0, 10.0), (1.0, 6.0), (2.0, 2.0), (8.0, 1.0), (10.0, 0.0)]
    found = front(*([row] for row in rows), maximize=())
    knee = found.knee()
    assert knee is not None
    assert knee.number == 2
    mirrored = front(*([(a, -1000 * b)] for a, b in rows), maximize=("b",)).knee()
    assert mirrored is not None
    assert mirrored.number == 2, "neither scale nor direction matters"


@pytest.mark.parametrize(
    "rows",
    [
        [(0.0, 1.0), (1.0, 0.0)],
        [(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)],
        [(0.0, 1.0), (0.7, 0.7), (1.0, 0.0)],
    ],
    ids=["two points", "straight", "curved away"],
)
def test_some_fronts_have_no_knee(rows: list[tuple[float, float]]) -> None:
    assert front(*([row] for row in rows), maximize=()).knee() is None


def test_a_config_on_the_front_by_its_spread_alone_makes_no_knee() -> None:
    """The means are on a line; the last config is worse than the first, but within the spread."""
    line = [[(0.0, 10.0)] * 2, [(5.0, 5.0)] * 2, [(10.0, 0.0)] * 2]
    noisy = [(-0.1, 9.9), (0.2, 13.0)]
    found = front(*line, noisy, maximize=())
    assert numbers(found) == [0, 1, 2, 3]
    assert found.knee() is None
    better = front(*line, noisy, [(2.0, 2.0)] * 2, maximize=()).knee()
    assert better is not None
    assert better.number == 4


def test_seeds_are_paired_by_number_not_by_order() -> None:
    first, second = front([(0.0, 1.0), (10.0, 1.0)], [(0.1, 1.0), (10.11, 1.0)]).outcomes
    turned = Outcome(1, "done", {}, dict(reversed([*second.results.items()])))
    found = Front([first, turned], minimize=["a"], maximize=["b"], seeds=[0, 1])
    assert numbers(found) == [0]


def test_one_bad_config_does_not_change_the_hypervolume() -> None:
    rows = [[(0.0, 8.0)], [(4.0, 0.0)], [(2.0, 2.0)]]
    bad = front(*rows, [(1e6, 1e9)], maximize=()).hypervolume()
    assert bad[:3] == pytest.approx(front(*rows, maximize=()).hypervolume())
    assert bad[3] == pytest.approx(bad[2])


def test_the_hypervolume_with_one_best_config_has_no_unit() -> None:
    rows = np.array([(3.0, 3.0), (2.0, 2.0), (1.0, 1.0)])
    small, large = (front(*([row] for row in rows * unit), maximize=()) for unit in (1, 1e3))
    assert small.hypervolume() == pytest.approx([0.01, 0.36, 1.21])
    assert large.hypervolume() == pytest.approx([0.01, 0.36, 1.21])


def test_the_hypervolume_is_the_area_that_is_dominated() -> None:
    """Scaled, the points are (0, 1), (1, 0) and (0.5, 0.25); the reference is (1.1, 1.1).

    0.11; then 0.11 + 0.11 - 0.01; then the third adds 0.6 x 0.85 without what is counted:
    0.6 x 0.1 and 0.1 x 0.85, which have 0.1 x 0.1 in common.
    """
    found = front([(0.0, 8.0)], [(4.0, 0.0)], [(2.0, 2.0)], maximize=())
    assert found.hypervolume() == pytest.approx([0.11, 0.21, 0.21 + 0.51 - 0.06 - 0.085 + 0.01])


def test_the_hypervolume_is_that_of_a_fine_grid() -> None:
    points = np.random.default_rng(2).random((9, 2))
    volume = front(*([tuple(p)] for p in points)).hypervolume()[-1]
    costs = points * [1, -1]
    beaten = (costs[:, None] < costs[None]).all(axis=2).any(axis=0)
    best = costs[~beaten]
    scaled = (costs - best.min(axis=0)) / np.ptp(best, axis=0)
    ticks = (np.arange(550) + 0.5) / 500
    cells = np.array([*itertools.product(ticks, ticks)])
    covered = (cells[:, None] >= scaled[None]).all(axis=2).any(axis=1)
    assert volume == pytest.approx(covered.mean() * 1.1**2, abs=5e-3)
    assert front([(1.0, 1.0)]).hypervolume() == pytest.approx([1.21])


def test_one_objective_has_a_best_config() -> None:
    outcomes = front([(3.0, 0.0)], [(1.0, 0.0)], [(2.0, 0.0)]).outcomes
    assert Front(outcomes, minimize=["a"]).best.number == 1
    assert Front(outcomes, maximize=["a"]).best.number == 0
    with pytest.raises(ValueError, match="there is no best config for several objectives"):
        _ = Front(outcomes, minimize=["a", "b"]).best
    with pytest.raises(ValueError, match="no config is done"):
        _ = Front([], minimize=["a"]).best


def test_the_table_has_means_spreads_and_marks() -> None:
    found = front([(0.0, 10.0), (0.2, 10.0)], [(1.0, 5.0), (1.1, 5.0)], [(9.0, 10.0), (9.0, 10.0)])
    lines = found.table().splitlines()
    assert lines[0].split() == ["config", "a", "b"]
    assert lines[1].split() == ["*", "0", "0.10", "±", "0.14", "10", "±", "0"]
    assert lines[2].split()[:2] == ["1", "1.050"]
    assert lines[3].split()[0] == "2"


def test_a_sweep_without_results_has_a_table() -> None:
    found = Front([Outcome(0, "running")], minimize=["a", "b"])
    assert "running" in found.table()
    assert (found.points, found.knee(), found.hypervolume()) == ((), None, [])


@pytest.mark.filterwarnings("error")
def test_perplexities_of_diverged_trainings_are_compared_and_shown() -> None:
    """Their squares, and the sums of the largest, are not finite."""
    good, diverged = [(20.0, 1.0), (21.0, 1.0)], [(2e304, 1.0), (3e304, 1.0)]
    found = front(good, diverged)
    assert numbers(found) == [0]
    assert found.outcomes[1].mean("a") == pytest.approx(2.5e304)
    assert found.outcomes[1].std("a") == pytest.approx(0.5**0.5 * 1e304)
    assert "2.5e+304 ± 7.1e+303" in found.table()
    largest = 1.7e308
    assert front([(largest, 1.0), (largest, 1.0)]).outcomes[0].mean("a") == largest


@pytest.mark.filterwarnings("error")
def test_further_measures_may_be_infinite_or_nan() -> None:
    by_seed = {0: {"a": 1.0, "x": np.inf, "y": np.nan, "z": np.inf}}
    by_seed[1] = {"a": 2.0, "x": np.inf, "y": 1.0, "z": -np.inf}
    found = Front([Outcome(0, "done", {}, by_seed)], minimize=["a"], seeds=[0, 1])
    assert found.table().splitlines()[1].split() == [
        "b",
        "0",
        *["1.50", "±", "0.71", "inf", "nan", "nan"],
    ]


def test_a_choice_of_none_is_shown() -> None:
    outcomes = [Outcome(n, "done", {"kl.schedule": None}, {0: {"a": 1.0}}) for n in (0, 1)]
    table = Front(outcomes, minimize=["a"]).table()
    assert table.splitlines()[2].split() == ["*", "1", "null", "1"]


@pytest.mark.parametrize("minimize", [["a"], ["a", "b"]])
def test_before_a_config_is_done_the_front_is_empty(minimize: list[str]) -> None:
    found = Front([Outcome(0, "running"), Outcome(1, "waiting")], minimize=minimize)
    assert (found.points, found.knee(), found.hypervolume()) == ((), None, [])
    assert found.table().splitlines()[1].split() == ["0", "running"]


def test_a_config_that_does_not_exist_is_an_error() -> None:
    found = front([(0.0, 1.0)])
    with pytest.raises(ValueError, match="no config has the number 4: there are 0 to 0"):
        found.config(4)
    with pytest.raises(ValueError, match="config 0 is done: its values are known once it starts"):
        found.config(0)


@pytest.mark.parametrize("objectives", [("a",), ("a", "b"), ("a", "b", "c")])
def test_a_picture_shows_every_config(objectives: tuple[str, ...], tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    outcomes = [
        Outcome(n, "done", {}, {s: dict(zip("abc", rng.random(3), strict=True)) for s in (0, 1)})
        for n in range(8)
    ]
    found = Front(outcomes, minimize=objectives, seeds=[0, 1])
    figure = found.plot(tmp_path / "front.png")
    assert (tmp_path / "front.png").stat().st_size > 1000
    assert len(figure.axes) == {1: 1, 2: 2, 3: 4}[len(objectives)]
    drawn = sum(
        len(line.get_xdata()) for container in figure.axes[0].containers for line in container[:1]
    )
    assert drawn == 8


def test_a_picture_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="no config is done yet"):
        Front([], minimize=["a"]).plot()
