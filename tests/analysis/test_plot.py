"""Pictures show what is there, and all of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lossweights import History, Horizon, HorizonError, LossConfig, WeightedLoss
from lossweights.analysis import Monitor, plot
from lossweights.config.timeline import Curves

OF_HISTORIES = (plot.values, plot.weights, plot.shares, plot.overview)


def history(terms: Mapping[str, Any], weights: Mapping[str, float] | None = None) -> History:
    """One with these values at steps 0, 10, ...; None where a term is missing."""
    found, rows = History(), zip(*terms.values(), strict=True)
    for index, values in enumerate(rows):
        pairs = zip(terms, values, strict=True)
        given = {name: value for name, value in pairs if value is not None}
        weight = {name: (weights or {}).get(name, 1.0) for name in given}
        sizes = {name: abs(value * weight[name]) for name, value in given.items()}
        total = sum(sizes.values())
        row: dict[str, float] = {"step": 10 * index}
        for name, value in given.items():
            share = sizes[name] / total if total else 0.0
            row |= {f"raw/{name}": value, f"weight/{name}": weight[name], f"share/{name}": share}
        found.rows.append(row)
    return found


def many(count: int, rows: int = 5, spread: float = 1.5) -> History:
    scales = np.geomspace(1.0, spread, count)
    columns = {f"term {i}": list(scale * np.linspace(2, 1, rows)) for i, scale in enumerate(scales)}
    return history(columns)


def lines(panel: Axes) -> list[Any]:
    """The lines that join points."""
    return [line for line in panel.get_lines() if line.get_linestyle() != "None"]


def curves(panel: Axes) -> Any:
    return [np.asarray(line.get_ydata()).tolist() for line in lines(panel)]


def titles(figure: Figure) -> list[str]:
    return [panel.get_title(loc="left") for panel in figure.axes]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for each in figure.legends for text in each.get_texts()]


# What is drawn


def test_terms_of_a_size_share_a_panel_and_a_legend() -> None:
    figure = plot.values(history({"a": [3.0, 2.0, 1.0], "b": [0.3, math.inf, 0.2]}))
    (panel,) = figure.axes
    np.testing.assert_equal(curves(panel), [[3.0, 2.0, 1.0], [0.3, math.nan, 0.2]])
    assert list(lines(panel)[0].get_xdata()) == [0, 10, 20]
    assert legend(figure) == ["a", "b"]
    assert (panel.get_xlabel(), panel.get_ylabel(), titles(figure)) == ("step", "value", [""])


def test_terms_of_other_sizes_have_each_a_panel_and_a_scale() -> None:
    figure = plot.values(history({"a": [30.0, 20.0], "b": [1.0, 0.1], "c": [5.0, -5.0]}))
    assert titles(figure) == ["a", "b", "c"]
    assert [curves(panel) for panel in figure.axes] == [[[30, 20]], [[1, 0.1]], [[5, -5]]]
    limits = [panel.get_ylim() for panel in figure.axes]
    assert limits[1][1] < 2 < limits[0][0]
    assert legend(figure) == []
    assert len(plot.values(many(7)).axes) == 1
    assert len(plot.values(many(8)).axes) == 8


def test_no_panel_has_two_scales() -> None:
    for picture in OF_HISTORIES:
        figure = picture(history({"a": [300.0, 200.0], "b": [0.1, 0.2]}))
        figure.draw_without_rendering()  # which lays it out
        places = [panel.get_position().bounds for panel in figure.axes]
        assert len(set(places)) == len(places)


@pytest.mark.parametrize(
    ("column", "scale"),
    [
        ([100.0, 1.0], "log"),
        ([99.0, 1.0], "linear"),
        ([100.0, 0.0], "linear"),
        ([100.0, -1.0], "linear"),
        ([100.0, math.nan, 1.0], "log"),
        ([math.inf, 1.0], "linear"),
        ([math.nan, math.nan], "linear"),
        ([1e-38, 1e38], "log"),
    ],
)
def test_values_that_span_two_decades_above_zero_are_logarithmic(
    column: list[float], scale: str
) -> None:
    assert plot.values(history({"a": column})).axes[0].get_yscale() == scale


def test_weights_are_read_from_zero() -> None:
    weights = {"a": 5.0, "b": 4.0, "c": -1.0}
    (panel,) = plot.weights(history({name: [1.0, 1.0] for name in weights}, weights)).axes
    assert (panel.get_yscale(), panel.get_ylabel()) == ("linear", "weight")
    assert panel.get_ylim()[0] < -1
    low, high = plot.weights(history({"a": [1.0, 1.0]}, {"a": 5.0})).axes[0].get_ylim()
    assert low == 0
    assert high > 5
    low, high = plot.weights(history({"a": [1.0, 1.0]}, {"a": -5.0})).axes[0].get_ylim()
    assert low < -5
    assert high == 0


def test_a_gap_stays_a_gap_and_a_point_between_gaps_is_seen() -> None:
    (panel,) = plot.values(history({"a": [1.0, 2.0, None, 3.0, math.nan, 4.0, 5.0]})).axes
    nan = math.nan
    np.testing.assert_equal(curves(panel), [[1.0, 2.0, nan, 3.0, nan, 4.0, 5.0]])
    (points,) = (line for line in panel.get_lines() if line.get_marker() == ".")
    np.testing.assert_equal(points.get_xydata(), [[30, 3.0]])


# Groups


def grouped(
    weights: Mapping[str, float], rows: Mapping[str, Sequence[float]], include: Any = None
) -> History:
    """The history of a criterion with `task`, and a group `deep` that has `a`, `b` and `in`."""
    inside = {"x": weights["x"], "y": weights["y"]}
    deep = {"a": weights["a"], "b": weights["b"], "in": {"weight": 2.0, "terms": inside}}
    terms: dict[str, Any] = {
        "task": weights["task"],
        "deep": {"weight": weights["deep"], "terms": deep},
    }
    criterion = WeightedLoss(terms)
    found = History(criterion, every="1 steps", include=include)
    for values in zip(*rows.values(), strict=True):
        given = dict(zip(rows, map(torch.tensor, values), strict=True))
        x, y, a, b = (given.pop(name) for name in "xyab")
        criterion({**given, "deep": {"a": a, "b": b, "in": {"x": x, "y": y}}})
        criterion.step()
    return found


WEIGHTS = {"task": 1.0, "deep": 0.5, "a": 1.0, "b": -2.0, "x": 1.0, "y": 0.25}
ROWS = {"task": [4.0, 2.0], "a": [3.0, 1.0], "b": [0.5, 1.0], "x": [1.0, 2.0], "y": [4.0, 4.0]}


@pytest.mark.parametrize("is_loaded", [False, True])
def test_terms_are_drawn_or_the_members_of_one_group(is_loaded: bool, tmp_path: Path) -> None:
    found = grouped(WEIGHTS, ROWS)
    if is_loaded:
        found.save(tmp_path / "history.jsonl")
        found = History.load(tmp_path / "history.jsonl")
    for picture in OF_HISTORIES:
        assert legend(picture(found)) == ["task", "deep"]
        assert legend(picture(found, group="deep")) == ["deep/a", "deep/b", "deep/in"]
        assert legend(picture(found, group="deep/in")) == ["deep/in/x", "deep/in/y"]
    (panel,) = plot.shares(found).axes
    np.testing.assert_allclose(areas(panel), [[4 / 7, 4 / 9], [3 / 7, 5 / 9]])
    assert panel.get_ylabel() == "share"
    (panel,) = plot.shares(found, group="deep").axes
    np.testing.assert_allclose(areas(panel), [[3 / 8, 1 / 9], [1 / 8, 2 / 9], [4 / 8, 6 / 9]])
    assert panel.get_ylabel() == "share in the group"
    (panel,) = plot.values(found, group="deep").axes
    assert curves(panel) == [[3, 1], [0.5, 1], [2, 3]]
    (panel,) = plot.weights(found, group="deep/in").axes
    assert curves(panel) == [[1, 1], [0.25, 0.25]]


@pytest.mark.parametrize("include", [["raw"], ["weight", "total"]])
def test_without_shares_names_show_the_groups(include: list[str]) -> None:
    found = grouped(WEIGHTS, ROWS, include)
    picture = plot.values if "raw" in include else plot.weights
    assert legend(picture(found)) == ["task", "deep"]
    assert legend(picture(found, group="deep/in")) == ["deep/in/x", "deep/in/y"]


def test_a_group_that_does_not_count_is_a_group() -> None:
    found = grouped({**WEIGHTS, "deep": 0.0}, ROWS)
    assert legend(plot.shares(found)) == ["task", "deep"]
    (panel,) = plot.shares(found, group="deep").axes
    assert np.isnan(areas(panel)).all()
    found = grouped({**WEIGHTS, "task": 0.0}, ROWS)
    np.testing.assert_allclose(areas(plot.shares(found).axes[0]), [[0, 0], [1, 1]])
    assert legend(plot.shares(found)) == ["task", "deep"]


def test_terms_whose_names_have_slashes_are_no_members() -> None:
    found = history({"deep": [1.0, 2.0], "deep/a": [3.0, 1.0], "deep/a/x": [1.0, 1.0]})
    for picture in OF_HISTORIES:
        assert legend(picture(found)) == ["deep", "deep/a", "deep/a/x"]
    assert areas(plot.shares(found).axes[0]).sum(axis=0).tolist() == [1, 1]
    assert legend(plot.values(history({"a/x": [1.0], "a/y": [1.0]}))) == ["a/x", "a/y"]


@pytest.mark.parametrize("draw", OF_HISTORIES)
def test_a_group_that_is_not_there_is_refused(draw: Any) -> None:
    with pytest.raises(ValueError, match=r"no group is called 'dep'; did you mean 'deep'\? \(the"):
        draw(grouped(WEIGHTS, ROWS), group="dep")
    with pytest.raises(ValueError, match=r"no group is called 'task' \(the groups are 'deep', "):
        draw(grouped(WEIGHTS, ROWS), group="task")
    with pytest.raises(ValueError, match=r"no group is called 'a' \(the history has none\)"):
        draw(history({"a": [1.0]}), group="a")
    with pytest.raises(ValueError, match="the history has no rows yet"):
        draw(History(), group="a")


def test_members_of_a_config_are_drawn_if_they_change_by_themselves() -> None:
    warm = {"kind": "warmup", "over": "50%"}
    inside = {"a{0..11}": 1.0, "b{0..11}": {"weight": 2.0, "schedule": warm}, "c": warm}
    terms: dict[str, Any] = {
        "task": 1.0,
        **{f"g{i}": {"weight": 2.0, "terms": inside} for i in range(6)},
    }
    grouped = LossConfig.read({"terms": terms, "total_steps": 10})
    figure = plot.config(grouped)
    each = [(f"g{i}", f"g{i}/b0 and 11 alike", f"g{i}/c") for i in range(6)]
    assert titles(figure) == ["task", *sum(each, ())]
    assert curves(figure.axes[2]) == [Curves.of(grouped).weights["g0/b5"].tolist()]
    note = "members without a curve follow their group"
    assert legend(figure) == [note]
    other = grouped.override(
        {f"g{i}.terms.{name}": 1.0 for i in range(6) for name in ("b{0..11}", "c")}
    )
    assert titles(plot.config(other)) == [""]
    assert legend(plot.config(other)) == ["task", *(f"g{i}" for i in range(6)), note]
    both = plot.config({"changing": grouped, "constant": other})
    assert titles(both) == titles(figure)
    assert [len(curves(panel)) for panel in both.axes] == [2] * 19
    assert note not in legend(plot.config(ONE))


# Shares


def areas(panel: Axes) -> Any:
    """For each area its heights, from the lowest area to the highest."""
    return np.array([each.values - each.baseline for each in stairs(panel)])


def stairs(panel: Axes) -> list[Any]:
    patches: list[Any] = [*panel.patches]
    return [patch.get_data() for patch in patches]


def test_shares_lie_on_top_of_each_other_with_a_gap_where_there_are_none() -> None:
    values = {"a": [3.0, None, 0.0, math.nan, 1.0], "b": [-1.0, 2.0, 0.0, 1.0, 0.0]}
    figure = plot.shares(history(values))
    (panel,) = figure.axes
    nan = math.nan
    np.testing.assert_allclose(areas(panel), [[0.75, 0, nan, nan, 1], [0.25, 1, nan, nan, 0]])
    np.testing.assert_allclose(stairs(panel)[1].baseline, [0.75, 0, nan, nan, 1])
    # A row has the number of its last step, and begins where the one before ends.
    assert list(stairs(panel)[0].edges) == [0, 1, 11, 21, 31, 41]
    assert legend(figure) == ["a", "b"]
    assert panel.get_ylim() == (0, 1)
    white = {mpl.colors.to_hex(patch.get_edgecolor()) for patch in panel.patches}
    assert white == {"#ffffff"}  # between areas whose colours a reader, or a printer, has as one


def test_many_rows_are_averaged_to_what_can_be_seen() -> None:
    rows = 1000
    first = np.linspace(0, 1, rows)
    figure = plot.shares(history({"a": list(first), "b": list(1 - first)}))
    lower, upper = areas(figure.axes[0])
    assert 60 <= len(lower) <= 120
    np.testing.assert_allclose(lower + upper, 1)
    np.testing.assert_allclose(lower[:-1], np.mean(first[: len(lower) * 9 - 9].reshape(-1, 9), 1))


def test_the_smallest_of_many_shares_are_one() -> None:
    weights = {f"term {i}": float(i) for i in range(20)}
    figure = plot.shares(history({name: [1.0, 1.0] for name in weights}, weights))
    assert legend(figure) == [f"term {i}" for i in range(14, 20)] + ["14 others"]
    heights = areas(figure.axes[0])
    total = sum(range(20))
    np.testing.assert_allclose(heights[:, 0] * total, [*range(14, 20), sum(range(14))])


# The overview


def test_the_overview_is_the_three_on_one_time_axis() -> None:
    figure = plot.overview(history({"a": [3.0, 2.0], "b": [1.0, -1.0]}, {"a": 2.0}))
    figure.draw_without_rendering()  # which lays it out
    value, weight, share = figure.axes
    assert curves(value) == [[3, 2], [1, -1]]
    assert curves(weight) == [[2, 2], [1, 1]]
    np.testing.assert_allclose(areas(share), [[6 / 7, 4 / 5], [1 / 7, 1 / 5]])
    assert [panel.get_ylabel() for panel in figure.axes] == ["value", "weight", "share"]
    assert len({panel.get_xlim() for panel in figure.axes}) == 1
    assert len({round(panel.get_position().x0, 6) for panel in figure.axes}) == 1
    assert legend(figure) == ["a", "b"]


def test_terms_of_other_sizes_share_a_logarithmic_axis_or_are_parts_of_their_largest() -> None:
    positive = plot.overview(history({"a": [300.0, 30.0], "b": [0.1, 0.2]})).axes[0]
    assert (positive.get_yscale(), positive.get_ylabel()) == ("log", "value")
    figure = plot.overview(history({"a": [300.0, -30.0], "b": [0.1, 0.2], "c": [0.0, 0.0]}))
    panel = figure.axes[0]
    assert (panel.get_yscale(), panel.get_ylabel()) == ("linear", "value / its largest")
    np.testing.assert_allclose(curves(panel), [[1.0, -0.1], [0.5, 1.0], [0.0, 0.0]])


def test_the_overview_of_many_terms_tells_the_largest_apart_in_the_colours_of_their_areas() -> None:
    figure = plot.overview(many(20))
    drawn = lines(figure.axes[0])
    assert len(drawn) == 20
    assert len({line.get_color() for line in drawn}) == 7
    of_lines = [line.get_color() for line in drawn][-6:]
    of_areas = [mpl.colors.to_hex(patch.get_facecolor()) for patch in figure.axes[2].patches]
    assert [colour.lower() for colour in of_lines] == of_areas[:6]
    assert legend(figure)[-1] == "14 others"


# Configs

ONE = LossConfig.read(
    {
        "terms": {"nll": 1.0, "kl": {"kind": "warmup", "over": "50%"}},
        "total_steps": 100,
    }
)


def test_one_config_is_one_panel_where_its_terms_fit() -> None:
    figure = plot.config(ONE)
    (panel,) = figure.axes
    expected = Curves.of(ONE)
    assert curves(panel) == [list(expected.weights[name]) for name in ("nll", "kl")]
    assert legend(figure) == ["nll", "kl"]
    figure = plot.config(ONE.override({"nll.weight": 21.0}))
    assert titles(figure) == ["nll", "kl"]
    assert legend(figure) == []
    alone = plot.config(LossConfig.read({"terms": {"kl": 1.0}}))
    assert (titles(alone), legend(alone), len(alone.axes)) == (["kl"], [], 1)


def test_several_configs_are_compared_term_by_term() -> None:
    later = ONE.override({"kl.schedule.over": "80%"})
    other = LossConfig.read({"terms": {"kl": 2.0, "size": 1.0}})
    figure = plot.config({"soon": ONE, "later": later, "other": other}, Horizon(total_steps=50))
    assert titles(figure) == ["nll", "kl", "size"]
    assert legend(figure) == ["soon", "later", "other"]
    nll, kl, size = figure.axes
    assert [len(curve) for curve in curves(kl)] == [50, 50, 50]
    assert (len(curves(nll)), len(curves(size))) == (2, 1)
    assert lines(size)[0].get_color() == lines(kl)[2].get_color()
    assert nll.get_xlim() == kl.get_xlim()


def test_the_time_axis_has_the_unit_of_the_clock() -> None:
    tokens = LossConfig.read({"terms": ["a"], "total": "5000 tokens"})
    assert plot.config(tokens).axes[0].get_xlabel() == "tokens"
    steps = LossConfig.read({"terms": ["a"], "total_steps": 5000})
    with pytest.raises(ValueError, match="one time axis, and the configs count"):
        plot.config({"tokens": tokens, "steps": steps})
    criterion = WeightedLoss(tokens)
    found = History(criterion, every="10 tokens")
    for _ in range(3):
        criterion({"a": torch.tensor(1.0)})
        criterion.step(10)
    for draw in (plot.values, plot.weights, plot.shares, plot.overview):
        assert draw(found).axes[-1].get_xlabel() == "tokens"


def test_what_is_found_in_training_is_dotted_and_said() -> None:
    steered = ONE.override({"nll": {"kind": "pid", "target": 1.0, "response": "10 steps"}})
    figure = plot.config(steered)
    note = "dotted: times a factor found in training"
    assert legend(figure) == ["nll", "kl", note]
    of_nll, of_kl = (line._dash_pattern for line in lines(figure.axes[0]))
    handles: list[Any] = [*figure.legends[0].get_lines()]
    assert [line._dash_pattern for line in handles] == [of_nll, of_kl, of_nll]
    figure = plot.config({"plain": ONE, "balanced": ONE.override({"balancer": "uncertainty"})})
    assert legend(figure) == ["plain", "balanced", note]
    plain, balanced = lines(figure.axes[0])
    assert (plain._dash_pattern, balanced._dash_pattern) != (of_nll, of_nll)
    assert balanced._dash_pattern == of_nll
    assert note not in legend(plot.config(ONE))


def test_what_cannot_be_drawn_of_configs_says_what_it_needs() -> None:
    with pytest.raises(TypeError, match="takes a LossConfig, such as criterion.config"):
        plot.config({"terms": {"a": 1.0}})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="found 'elbo.yaml'"):
        plot.config("elbo.yaml")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one config"):
        plot.config({})
    with pytest.raises(HorizonError, match="total_steps is known"):
        plot.config(ONE.override({"total_steps": None}))


@pytest.mark.parametrize("draw", [plot.values, plot.weights, plot.shares, plot.overview])
def test_a_picture_of_a_training_needs_its_history(draw: Any) -> None:
    criterion = WeightedLoss(["kl"])
    with pytest.raises(TypeError, match=r"found WeightedLoss: .*history = History\(criterion\)"):
        draw(criterion)
    with pytest.raises(TypeError, match="found Monitor: pass its attribute `history`"):
        draw(Monitor(criterion))


def test_a_picture_of_a_criterion_needs_its_config() -> None:
    with pytest.raises(TypeError, match=r"such as criterion\.config, .* found WeightedLoss$"):
        plot.config(WeightedLoss(["kl"]))  # type: ignore[arg-type]


# Scheduled numbers


def test_each_scheduled_number_of_a_config_has_a_panel() -> None:
    ramp = {"kind": "ramp", "start": 4.0, "stop": 0.0, "over": "100%"}
    one = ONE.override({"scheduled": {"temperature": ramp, "ratio": 0.3}})
    figure = plot.config(one)
    assert titles(figure) == ["", "scheduled.temperature", "scheduled.ratio"]
    assert legend(figure) == ["nll", "kl"]
    temperature = Curves.of(one).scheduled["temperature"].tolist()
    assert curves(figure.axes[1]) == [temperature]
    assert curves(figure.axes[0]) == curves(plot.config(ONE).axes[0])
    both = plot.config({"one": one, "two": one.override({"scheduled.ratio": 0.5}), "plain": ONE})
    assert titles(both)[-2:] == ["scheduled.temperature", "scheduled.ratio"]
    assert [set(each) for each in curves(both.axes[-1])] == [{0.3}, {0.5}]
    assert legend(both) == ["one", "two", "plain"]
    many_numbers = {f"n{index}": float(index) for index in range(8)}
    grid = plot.config(ONE.override({"scheduled": many_numbers}))
    assert len({panel.get_position().x0 for panel in grid.axes}) > 1, "side by side"


def test_an_overview_has_the_scheduled_numbers_of_a_history() -> None:
    rows = history({"nll": [1.0, 2.0], "kl": [2.0, 1.0]})
    for row, number in zip(rows.rows, (4.0, 3.0), strict=True):
        row["scheduled/temperature"] = number
    figure = plot.overview(rows)
    assert titles(figure) == ["", "", "", "scheduled/temperature"]
    assert curves(figure.axes[-1]) == [[4.0, 3.0]]
    assert legend(figure) == ["nll", "kl"]
    assert titles(plot.weights(rows)) == [""]


# Gradients


def with_gradients(rows: Sequence[Mapping[str, float]]) -> History:
    found = History()
    for index, row in enumerate(rows):
        named = {f"gradient/{key}": value for key, value in row.items()}
        found.rows.append({"step": 10 * index, "raw/b": 1.0, "raw/a": 1.0, **named})
    return found


def test_gradients_have_their_norms_and_a_matrix_of_cosines() -> None:
    both = {"norm/a": 1.0, "norm/b": 2.0, "cosine/a/b": -0.5, "conflict/a/b": 1.0}
    other = {"norm/a": 3.0, "norm/b": 4.0, "cosine/a/b": 0.1, "conflict/a/b": 0.0}
    figure = plot.gradients(with_gradients([both, {}, other]))
    norms, matrix = figure.axes
    assert curves(norms) == [[2.0, 4.0], [1.0, 3.0]]  # as declared, without the row between
    assert list(lines(norms)[0].get_xdata()) == [0, 20]
    assert legend(figure) == ["b", "a"]
    (image,) = matrix.get_images()
    shown: Any = np.ma.filled(np.ma.asarray(image.get_array(), dtype=float), math.nan)
    np.testing.assert_allclose(shown, [[math.nan, -0.2], [-0.2, math.nan]])
    assert {text.get_text() for text in matrix.texts} == {"-0.20\n50%"}
    assert [text.get_text() for text in matrix.get_yticklabels()] == ["b", "a"]


def test_gradients_of_one_term_and_of_many() -> None:
    assert len(plot.gradients(with_gradients([{"norm/a": 1.0}, {"norm/a": 2.0}])).axes) == 1
    names = [f"t{index:02}" for index in range(12)]
    row = {f"norm/{name}": 1.0 for name in names}
    row |= {f"cosine/{one}/{other}": 0.1 for one in names for other in names if one < other}
    figure = plot.gradients(
        with_gradients([row | {k.replace("cosine", "conflict"): 0.0 for k in row}])
    )
    assert not figure.axes[1].texts  # the cells are too small for numbers
    figure.canvas.draw()


def test_a_history_without_gradients_is_refused() -> None:
    with pytest.raises(ValueError, match=r"History\(criterion, gradients=.*shared="):
        plot.gradients(history({"a": [1.0]}))
