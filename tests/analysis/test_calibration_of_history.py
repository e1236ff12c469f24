"""What is proposed from the rows of a training, and what is said about them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lossweights import History, Horizon, HorizonError, LossConfig, WeightedLoss
from lossweights.analysis import Calibration, calibrate

Numbers = Sequence[float] | float
ROWS = 24


def history(rows: Sequence[Mapping[str, float]]) -> History:
    found = History()
    found.rows.extend(map(dict, rows))
    return found


def recorded(
    rows: int = ROWS,
    values: Mapping[str, Any] | None = None,
    norms: Mapping[str, Any] | None = None,
    cosines: Mapping[str, Any] | None = None,
) -> History:
    """A history with these numbers by term or pair: one for all rows, or one each; None if absent.

    A cosine is that of the only measurement of a row.
    """
    columns = {f"value/{name}": each for name, each in (values or {}).items()}
    columns |= {f"gradient/norm/{name}": each for name, each in (norms or {}).items()}
    columns |= {f"gradient/cosine/{name}": each for name, each in (cosines or {}).items()}
    found = []
    for index in range(rows):
        row: dict[str, float] = {"step": 10 * index + 9}
        for key, each in columns.items():
            number = each[index] if isinstance(each, Sequence | np.ndarray) else each
            if number is not None:
                row[key] = float(number)
                if "/cosine/" in key:
                    row[key.replace("/cosine/", "/conflict/")] = float(number < 0)
        found.append(row)
    return history(found)


def weights(found: Calibration) -> dict[str, float]:
    return {name: term.weight for name, term in found.config.terms.items()}


def notes(found: Calibration) -> dict[str, str]:
    return {name: term.note for name, term in found.terms.items() if term.note}


def spread_out(median: float, factor: float = 1.1, rows: int = ROWS) -> list[float]:
    """Numbers around a median, without a trend: every second one is above it."""
    return [median * factor ** (-1) ** index for index in range(rows)]


# The weights


@given(
    norms=st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=5),
    olds=st.lists(st.sampled_from([1.0, -1.0, 0.03, 40.0]), min_size=5, max_size=5),
    parts=st.lists(st.floats(0.1, 1.0), min_size=5, max_size=5),
    are_given=st.booleans(),
)
def test_by_gradients_the_norms_have_the_shares_that_are_wanted(
    norms: list[float], olds: list[float], parts: list[float], are_given: bool
) -> None:
    names = [f"t{index}" for index in range(len(norms))]
    total = sum(parts[: len(names)])
    equal = {name: 1 / len(names) for name in names}
    wanted = {name: part / total for name, part in zip(names, parts, strict=False)}
    config = {"terms": dict(zip(names, olds, strict=False))}
    run = recorded(3, norms=dict(zip(names, norms, strict=True)))
    found = calibrate(run, config, wanted if are_given else None)
    sizes = [abs(weights(found)[name]) * norm for name, norm in zip(names, norms, strict=True)]
    for name, size in zip(names, sizes, strict=True):
        expected = (wanted if are_given else equal)[name]
        assert size / sum(sizes) == pytest.approx(expected, rel=0.12)  # two digits: up to 5% each
        assert found.terms[name].share == pytest.approx(size / sum(sizes))
        assert math.copysign(1, weights(found)[name]) == math.copysign(1, config["terms"][name])


@given(
    batches=st.lists(
        st.tuples(*[st.floats(0.1, 10.0)] * 2, st.floats(-10.0, -0.1)), min_size=1, max_size=9
    ),
    shares=st.sampled_from([None, {"b": 0.2}]),
)
def test_batches_and_a_history_of_the_same_values_propose_the_same(
    batches: list[tuple[float, ...]], shares: dict[str, float] | None
) -> None:
    terms: Any = {
        "a": 2.0,
        "b": {"kind": "ramp", "start": 0, "stop": 0.5, "over": "50%"},
        "c": -1.0,
    }
    criterion = WeightedLoss(terms, total_steps=100)
    given_values = [dict(zip("abc", map(np.float32, batch), strict=True)) for batch in batches]
    run = history(
        [
            {"step": step, **{f"value/{name}": float(each) for name, each in batch.items()}}
            for step, batch in enumerate(given_values)
        ]
    )
    batchwise = calibrate(
        criterion, [{n: float(x) for n, x in b.items()} for b in given_values], shares
    )
    found = calibrate(run, criterion.config, shares)
    assert found.config == batchwise.config
    assert {n: t.share for n, t in found.terms.items()} == {
        n: t.share for n, t in batchwise.terms.items()
    }
    assert {n: t.spread for n, t in found.terms.items()} == pytest.approx(
        {n: t.spread for n, t in batchwise.terms.items()}, nan_ok=True
    )


@given(scale=st.sampled_from([0.01, 0.1, 10.0, 100.0]), by=st.sampled_from(["gradients", "values"]))
def test_a_term_of_another_unit_has_the_inverse_weight(scale: float, by: Any) -> None:
    size = spread_out(0.002)
    anchor = {"a": spread_out(7000.0)}

    def proposed(factor: float) -> float:
        sizes = anchor | {"b": [factor * each for each in size]}
        run = recorded(values=sizes, norms=sizes)
        return weights(calibrate(run, {"terms": ["a", "b"]}, by=by))["b"]

    assert proposed(scale) == pytest.approx(proposed(1.0) / scale)


def test_gradients_are_preferred_and_values_can_be_asked_for() -> None:
    run = recorded(values={"a": 8.0, "b": 1.0}, norms={"a": 2.0, "b": 1.0})
    config = {"terms": ["a", "b"]}
    assert calibrate(run, config).config == calibrate(run, config, by="gradients").config
    assert weights(calibrate(run, config)) == {"a": 1.0, "b": 2.0}
    assert weights(calibrate(run, config, by="values")) == {"a": 1.0, "b": 8.0}
    found = calibrate(recorded(values={"a": 8.0, "b": 1.0}), config)
    assert (found.by, weights(found)) == ("values", {"a": 1.0, "b": 8.0})


def test_the_weight_at_the_end_counts_not_that_of_the_row() -> None:
    kl = {"weight": 2.0, "schedule": {"kind": "warmup", "over": "100%"}}
    run = recorded(norms={"nll": 8.0, "kl": 1.0}, values={"nll": 1.0, "kl": 1.0})
    for row in run.rows:
        row |= {"weight/kl": 0.0, "gradient/share/kl": 0.0, "gradient/share/nll": 1.0}
    found = calibrate(run, {"terms": {"nll": 1.0, "kl": kl}, "total_steps": 1000})
    assert found.terms["kl"].weight == 8.0
    assert found.terms["kl"].old_share == pytest.approx(0.2)
    assert found.terms["kl"].run_share.median == 0.0


def test_members_are_not_terms_and_their_group_is() -> None:
    config = {"terms": {"task": 1.0, "deep": {"terms": ["x", "y"]}}}
    values = {"task": 6.0, "deep": 3.0, "deep/x": 1.0, "deep/y": 2.0}
    found = calibrate(recorded(values=values, norms={"task": 4.0, "deep": 1.0}), config)
    assert [*found.terms] == ["task", "deep"]
    assert weights(found) == {"task": 1.0, "deep": 4.0}


def test_a_balancer_is_replaced_by_fixed_weights() -> None:
    terms = {"a": {"balanced": True}, "b": 1.0, "c": {"balanced": False}}
    config = {"terms": terms, "balancer": "imtl-g"}
    found = calibrate(recorded(norms={"a": 6.0, "b": 2.0, "c": 1.0}), config)
    assert weights(found) == {"a": 1.0, "b": 3.0, "c": 6.0}
    assert found.config.balancer is None
    text = str(found).rpartition("\n\n")[2]
    assert LossConfig.read(yaml.safe_load(text)) == found.config
    assert said(found, "without the balancer 'imtl-g'")
    assert not said(calibrate(recorded(norms={"a": 6.0}), {"terms": ["a"]}), "balancer")


@pytest.mark.parametrize(
    ("term", "norm", "note"),
    [
        (1.0, 0.0, "its gradient is mostly 0"),
        (1.0, None, "its gradient was never given"),
        (1.0, math.nan, "its gradient was never given, or never finite"),
        (0.0, 1.0, "it is 0 at the end of training"),
        (
            {"kind": "pid", "target": 1.0, "response": "5 steps"},
            1.0,
            "the controller 'pid' adjusts",
        ),
        ({"transform": "relative"}, 1.0, "the transform 'relative' compensates for its size"),
        (1.0, 1e-30, "it is practically 0 compared to 'b'"),
    ],
)
def test_a_term_that_cannot_take_part_keeps_its_weight(term: Any, norm: Any, note: str) -> None:
    config = {"terms": {"odd": term, "b": 1.0, "c": 1.0}, "total_steps": 100}
    found = calibrate(recorded(norms={"odd": norm, "b": 8.0, "c": 2.0}), config)
    assert f"keeps its weight: {note}" in notes(found)["odd"]
    assert found.config == LossConfig.read(config).override({"c.weight": 4.0})


# The measurements


@pytest.mark.parametrize("by", ["gradients", "values"])
def test_quartiles_are_those_of_the_finite_numbers(by: Any) -> None:
    generator = np.random.default_rng(0)
    value, norm, share = (generator.uniform(0.1, 3.0, ROWS) for _ in range(3))
    signs = np.where(np.arange(ROWS) % 2, 1, -1)
    run = recorded(values={"a": signs * value, "b": 0.3}, norms={"a": norm, "b": 0.1})
    name = {"gradients": "gradient/share/a", "values": "share/a"}[by]
    for row, each in zip(run.rows, share, strict=True):
        row[name] = each
    run.rows[3]["value/a"] = run.rows[3]["gradient/norm/a"] = math.nan
    run.rows[4]["value/a"] = run.rows[4]["gradient/norm/a"] = -math.inf
    del run.rows[5]["value/a"], run.rows[5]["gradient/norm/a"]
    kept = [index for index in range(ROWS) if index not in (3, 4, 5)]
    found = calibrate(run, {"terms": ["a", "b"]}, by=by).terms["a"]
    assert found.value == pytest.approx(np.quantile(value[kept], (0.25, 0.5, 0.75)))
    assert found.norm == pytest.approx(np.quantile(norm[kept], (0.25, 0.5, 0.75)))
    assert found.run_share == pytest.approx(np.quantile(share, (0.25, 0.5, 0.75)))
    assert found.note == f"in 23 of {ROWS} rows; nan or inf in 2 of them, which are ignored"
    other = calibrate(run, {"terms": ["a", "b"]}, by=by).terms["b"]
    size = {"gradients": norm[kept] / 0.1, "values": value[kept] / 0.3}[by]
    assert other.spread == pytest.approx(np.quantile(size, (0.25, 0.5, 0.75)))


def test_only_rows_with_gradients_count_by_gradients() -> None:
    norms = {"a": [2.0 if index % 3 == 1 else None for index in range(ROWS)]}
    norms["b"] = [None if each is None else 1.0 for each in norms["a"]]
    run = recorded(values={"a": 1.0, "b": 1.0}, norms=norms)
    config = {"terms": ["a", "b"]}
    found = calibrate(run, config)
    assert (found.rows, found.steps) == (8, (19, 229))
    assert notes(found) == {}
    found = calibrate(run, config, by="values")
    assert (found.rows, found.steps) == (24, (9, 239))


def test_the_late_half_is_compared_with_the_early_one() -> None:
    anchor = [4.0, 6.0, 4.0, 2.0, 2.0]
    size = [1.0, 1.0, 4.0, 8.0, 9.0]
    found = calibrate(
        recorded(5, norms={"a": anchor, "b": size}), {"terms": ["a", "b"]}, {"b": 0.4}
    )
    # Medians: 5 and 1 in the first two rows, 2 and 8 in the last three.
    assert found.terms["a"].typical == found.terms["b"].typical == 4.0
    assert found.terms["b"].moved == pytest.approx((2 / 8) / (5 / 1))
    assert math.isnan(found.terms["a"].moved)
    proposed = np.array(anchor) / size * 0.4 / 0.6
    assert found.terms["b"].spread == pytest.approx(np.quantile(proposed, (0.25, 0.5, 0.75)))


def test_cosines_of_pairs_in_both_halves() -> None:
    cosines = [0.5, 0.3, None, -0.2, -0.4, 0.1]
    run = recorded(6, norms={"a": 1.0, "b": 1.0, "c": 1.0}, cosines={"a/c": cosines})
    (pair, found) = calibrate(run, {"terms": ["c", "a", "b"]}).pairs.popitem()
    assert pair == ("a", "c")
    assert (found.early, found.late, found.cosine) == pytest.approx((0.4, -0.2, 0.1))
    assert (found.conflict, found.rows) == (0.4, 5)


def test_a_rate_is_that_of_the_measurements_not_of_the_rows() -> None:
    run = recorded(norms={"a": 1.0, "b": 1.0}, cosines={"a/b": 0.2})
    for row in run.rows:
        row["gradient/conflict/a/b"] = 0.25
    assert calibrate(run, {"terms": ["a", "b"]}).pairs["a", "b"].conflict == 0.25


# The verdict


def said(found: Calibration, words: str) -> bool:
    return any(words in sentence for sentence in found.verdict)


def judged(
    terms: Any = ("a", "b"), by: Any = None, balancer: Any = None, **run: Any
) -> Calibration:
    config = {"terms": terms if isinstance(terms, Mapping) else list(terms)}
    config |= {"total_steps": 1000} | ({"balancer": balancer} if balancer else {})
    return calibrate(recorded(**run), config, by=by)


CALM = {"a": spread_out(1.0), "b": spread_out(2.0)}
AGREE = {"a/b": spread_out(0.3)}


def test_fixed_weights_are_enough_without_a_conflict_and_with_stable_weights() -> None:
    found = judged(norms=CALM, cosines=AGREE)
    (sentence,) = found.verdict
    assert sentence == (
        "no conflict in any measured step (24 rows), and the proposed weights are stable: fixed "
        "weights are enough"
    )
    some = [-0.2 if index % 6 == 0 else 0.3 for index in range(ROWS)]
    assert judged(norms=CALM, cosines={"a/b": some}).verdict[0].startswith("no lasting conflict")
    terms = {"a": 1.0, "b": 1.0, "kl": {"kind": "pid", "target": 1.0, "response": "5 steps"}}
    found = judged(terms, norms=CALM | {"kl": 1.0}, cosines=AGREE)
    assert found.verdict[0].endswith("fixed weights are enough for 'a', 'b'")


@pytest.mark.parametrize(
    "run",
    [
        {"norms": CALM, "cosines": {"a/b": spread_out(-0.3)}},
        {"norms": CALM | {"a": [1.0] * 12 + [9.0] * 12}, "cosines": AGREE},
        {"norms": CALM | {"a": spread_out(1.0, 5.0)}, "cosines": AGREE},
        {"rows": 6, "norms": CALM, "cosines": AGREE},
        {"norms": CALM, "cosines": {"a/b": [0.3] * 7 + [None] * 17}},
        {"norms": CALM},  # no pair
        {"values": CALM},
        {"norms": {"a": 1.0, "b": 0.0}},
    ],
)
def test_else_it_is_not_said(run: Any) -> None:
    assert judged(norms=CALM, cosines=AGREE).verdict
    assert not said(judged(**run), "fixed weights are enough")


@pytest.mark.parametrize("rows", [8, 24])
def test_a_lasting_conflict_has_a_remedy(rows: int) -> None:
    found = judged(rows=rows, norms=CALM, cosines={"a/b": spread_out(-0.3, rows=rows)})
    (sentence,) = found.verdict
    assert re.fullmatch(
        rf"'a' and 'b' oppose each other in 100% of the measured steps \({rows} rows, median "
        r"cosine -0.3\d?\): if both should improve, try balancer: pcgrad or upgrad; if .*",
        sentence,
    )


def test_a_conflict_of_one_half_is_found() -> None:
    cosines = [0.5] * 12 + [-0.5] * 12
    assert said(
        judged(norms=CALM, cosines={"a/b": cosines}),
        "100% of the measured steps of the late half (12 rows",
    )
    assert said(judged(norms=CALM, cosines={"a/b": cosines[::-1]}), "of the early half (12 rows")


@pytest.mark.parametrize("size", [4, 1000])
@pytest.mark.parametrize("count", [2, 6])
def test_unrelated_gradients_are_no_lasting_conflict(size: int, count: int) -> None:
    names = "abcdef"[:count]
    alarms = 0
    for seed in range(20):
        gradients = np.random.default_rng(seed).normal(size=(40, count, size))
        units = gradients / np.linalg.norm(gradients, axis=-1, keepdims=True)
        cosines = {
            f"{names[i]}/{names[j]}": (units[:, i] * units[:, j]).sum(-1)
            for i in range(count)
            for j in range(i + 1, count)
        }
        found = judged(names, rows=40, norms=dict.fromkeys(names, 1.0), cosines=cosines)
        alarms += said(found, "pcgrad")
    assert alarms <= 1  # each has a chance of 1% or less


def test_gradients_that_hardly_agree_are_no_conflict() -> None:
    """Unrelated ones oppose each other in half of the steps."""
    found = judged(norms=CALM, cosines={"a/b": [0.02, -0.02, -0.05] * 8})
    (sentence,) = found.verdict
    assert sentence == (
        "no lasting conflict (median cosines from -0.02 on, 24 rows), and the proposed weights are "
        "stable: fixed weights are enough"
    )


def test_a_conflict_that_may_be_chance_is_open() -> None:
    cosines = [-0.4, -0.4, -0.4, 0.3] * 2
    found = judged(rows=8, norms=CALM, cosines={"a/b": cosines})
    assert said(
        found, "75% of the measured steps (8 rows), with a median cosine of -0.40: more rows"
    )
    assert not said(found, "pcgrad")
    assert said(judged(rows=48, norms={"a": 1.0, "b": 1.0}, cosines={"a/b": cosines * 6}), "pcgrad")


def test_too_few_cosines_are_not_judged() -> None:
    cosines = [None, -0.5, -0.5] * 4
    found = judged(rows=10, norms=CALM, cosines={"a/b": cosines})
    assert said(found, "too few rows to judge conflicts (6, at least 8 are needed)")
    assert not said(found, "oppose")
    many = {f"{x}/{y}": -0.5 for x in "abcdefgh" for y in "abcdefgh" if x < y}
    found = judged("abcdefgh", rows=8, norms=dict.fromkeys("abcdefgh", 1.0), cosines=many)
    assert said(found, "too few rows to judge conflicts (8, at least 14 are needed)")


def test_of_many_conflicts_the_worst_are_named() -> None:
    many = {f"{x}/{y}": -0.5 for x in "abcde" for y in "abcde" if x < y} | {"a/b": -0.9}
    found = judged("abcde", norms=dict.fromkeys("abcde", 1.0), cosines=many)
    assert len(found.verdict) == 5
    assert found.verdict[0].startswith("'a' and 'b'")
    assert found.verdict[4].endswith("the same holds for 5 more pairs")


@pytest.mark.parametrize(
    ("terms", "balancer", "words"),
    [
        (["a", "b"], "cagrad", "keep the balancer 'cagrad'"),
        (["a", "b"], "norm-balance", "try balancer: pcgrad or upgrad"),
        ({"a": -1.0, "b": 1.0}, None, "if both should improve, try balancer: pcgrad or upgrad"),
        ({"a": 1.0, "b": {"balanced": False}, "c": 1.0}, "cagrad", "balanced: true at 'b'"),
        (
            {"a": {"kind": "pid", "target": 1.0, "response": "5 steps"}, "b": 1.0, "c": 1.0},
            None,
            "upgrad, with balanced: true at 'a'",
        ),
    ],
)
def test_the_remedy_of_a_conflict_fits_the_config(terms: Any, balancer: Any, words: str) -> None:
    cosines = {"a/b": spread_out(-0.3)}
    assert said(judged(terms, balancer=balancer, norms=CALM, cosines=cosines), words)


def test_a_proposal_that_moves_wants_a_balancer_or_a_schedule() -> None:
    falling = [8.0] * 12 + [1.0] * 12
    found = judged(norms={"a": falling, "b": 1.0})
    assert found.verdict[0] == (
        "from the early to the late half of the rows, the proposal for 'b' falls by a factor of 8, "
        "compared with 'a': prefer a balancer such as norm-balance, or a schedule"
    )
    assert said(judged(values={"a": falling, "b": 1.0}), "a balancer such as moving-average")
    assert said(judged(values={"a": 10.0, "b": falling}), "'b' rises by a factor of 8")
    found = judged(balancer="norm-balance", norms={"a": falling, "b": 1.0})
    assert said(found, "keep the balancer 'norm-balance', or write a schedule")
    assert not said(judged(norms={"a": [2.9] * 12 + [1.0] * 12, "b": 1.0}), "the proposal for")


def test_a_gradient_that_vanishes_moves_the_proposal_without_bound() -> None:
    found = judged(norms={"a": 3.0, "b": [1.0] * 13 + [0.0] * 11})
    assert said(found, "'b' rises by a factor of inf, compared with 'a'")


def test_the_sign_of_a_weight_says_nothing_about_its_spread() -> None:
    terms = {"a": {"weight": -1.0}, "b": 1.0}
    found = judged(terms, norms=CALM, cosines=AGREE)
    assert said(found, "fixed weights are enough")
    assert said(judged(terms, norms=CALM | {"a": spread_out(1.0, 5.0)}), "from row to row")


@pytest.mark.parametrize("name", ["a", "b"])  # b keeps its weight, since it is larger
def test_a_term_that_is_often_0_has_no_stable_proposal(name: str) -> None:
    norms = {"a": 1.0, "b": 2.0}
    often: Any = [0.0 if index % 3 == 0 else norms[name] for index in range(ROWS)]
    found = judged(norms=norms | {name: often}, cosines=AGREE)
    assert not said(found, "fixed weights are enough")
    assert said(found, "from row to row")
    assert found.terms["a"].spread == ((2.0, 2.0, math.inf) if name == "a" else (0.0, 2.0, 2.0))


def test_noise_alone_is_no_movement() -> None:
    moved = 0
    for seed in range(100):
        noise = np.exp(np.random.default_rng(seed).normal(size=(2, 8), scale=2.0))
        found = judged(rows=8, norms={"a": noise[0], "b": noise[1]})
        moved += said(found, "from the early to the late half")
    assert moved < 15
    found = judged(rows=24, norms={"a": 10.0, "b": spread_out(1.0, 4.0)})
    assert not said(found, "from the early to the late half")
    assert said(found, "its quartiles are 2.5 and 40 for 'b'")
    assert not said(judged(norms={"a": 10.0, "b": spread_out(1.0, 1.7)}), "its quartiles are")


def test_a_gradient_that_vanishes_in_many_rows_is_not_stable() -> None:
    for zeros in (7, 10):
        run = judged(norms=CALM | {"a": [1.0] * (ROWS - zeros) + [0.0] * zeros}, cosines=AGREE)
        assert said(run, "and inf for 'a'")
        assert not said(run, "fixed weights are enough")


def test_a_negative_weight_is_judged_by_its_size() -> None:
    terms = {"a": -0.5, "b": 1.0}
    assert said(judged(terms, norms=CALM, cosines=AGREE), "fixed weights are enough")
    noisy = {"a": spread_out(1.0, 4.0), "b": 10.0}
    assert said(judged(terms, norms=noisy), "its quartiles are -40 and -2.5 for 'a'")


def test_terms_in_too_few_rows_are_not_judged() -> None:
    late = [None] * 18 + [1.0] * 6
    found = judged(norms={"a": 2.0, "b": late})
    assert said(found, "moves for 'b' (0 in the early half, 6 in the late half), 4 in each are")
    assert said(found, "a shorter `gradients` and `every`")
    assert said(judged(rows=7, values={"a": 1.0, "b": 1.0}), "(3 in the early half, 4 in the late")
    assert said(judged(rows=7, values={"a": 1.0, "b": 1.0}), "a shorter `every`")
    assert not said(judged(rows=8, values={"a": 1.0, "b": 1.0}), "too few rows")


def test_values_and_gradients_that_disagree_are_named() -> None:
    found = judged(values={"a": 100.0, "b": 1.0}, norms={"a": 1.0, "b": 1.0})
    assert said(
        found,
        "by values, the proposal would be 1e+02 instead of 1 for 'b', compared with 'a': both move",
    )
    found = judged(by="values", values={"a": 100.0, "b": 1.0}, norms={"a": 1.0, "b": 1.0})
    assert said(found, "by gradients, the proposal would be 1 instead of 1e+02 for 'b'")
    assert not said(judged(values={"a": 2.9, "b": 1.0}, norms={"a": 1.0, "b": 1.0}), "by values")
    assert not said(judged(values={"a": 0.0, "b": 1.0}, norms={"a": 1.0, "b": 1.0}), "by values")


def test_the_steadier_of_two_proposals_is_preferred() -> None:
    rising = [1.0] * (ROWS // 2) + [2.5] * (ROWS // 2)
    steady = {"a": 100.0, "b": 1.0}
    words = "prefer the one by {}, which moves less between the early and the late half"
    found = judged(values=steady, norms={"a": 1.0, "b": rising})
    assert said(found, words.format("values"))
    found = judged(by="values", values=steady, norms={"a": 1.0, "b": rising})
    assert said(found, words.format("values"))
    found = judged(values={"a": 100.0, "b": rising}, norms={"a": 1.0, "b": 1.0})
    assert said(found, words.format("gradients"))
    hardly = [1.0] * (ROWS // 2) + [1.4] * (ROWS // 2)
    assert said(judged(values=steady, norms={"a": 1.0, "b": hardly}), "try both")


def test_a_value_that_vanishes_in_the_rows_is_named() -> None:
    falling = [0.3] * (ROWS // 2) + [0.05] * (ROWS // 2)
    found = judged(values={"a": 17.0, "b": falling}, norms=CALM, cosines=AGREE)
    assert said(found, "the value fell for 'b' from 0.3 to 0.05, 0.29% of the sum: if such a term")
    large = judged(values={"a": 2.0, "b": falling}, norms=CALM, cosines=AGREE)
    assert not said(large, "the value fell")  # it is still 2.4% of two terms
    steady = judged(values={"a": 17.0, "b": 0.05}, norms=CALM, cosines=AGREE)
    assert not said(steady, "the value fell")
    all_fall = [60 * value for value in falling]
    together = judged(values={"a": all_fall, "b": falling}, norms=CALM, cosines=AGREE)
    assert not said(together, "the value fell")


def test_a_gradient_of_0_is_named() -> None:
    found = judged("abc", norms={"a": 1.0, "b": 0.0, "c": 1.0})
    assert said(found, "the gradient with respect to `shared` is 0 in most rows for 'b': if such")
    assert said(found, "by='values'")
    found = judged(by="values", values={"a": 1.0, "b": 1.0}, norms={"a": 1.0, "b": 0.0})
    assert said(found, "is 0 in most rows for 'b'")
    assert not said(found, "by='values'")
    assert not said(judged(norms=CALM), "is 0 in most rows")


def test_without_gradients_conflicts_are_not_known() -> None:
    assert said(judged(values=CALM), 'History(criterion, gradients="500 steps")')
    assert said(judged(values=CALM), "the proposed weights are stable over the training")
    assert not said(judged(norms=CALM, values=CALM), "gradients were not measured")


def test_batches_have_no_verdict() -> None:
    found = calibrate(WeightedLoss(["a", "b"]), [{"a": 1.0, "b": 9.0}] * 10)
    assert (found.verdict, found.pairs, found.steps, found.by) == ((), {}, None, "values")
    assert math.isnan(found.terms["a"].moved)


# A training


def test_a_training_with_its_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    criterion = WeightedLoss(
        {"nll": 1.0, "kl": {"kind": "warmup", "over": "50%"}, "late": {"after": "50%"}},
        total_steps=40,
    )
    path = tmp_path / "run.jsonl"
    run = History(criterion, every="2 steps", path=path)
    seen = []
    for step in range(40):
        seen.append({"nll": 3.0 + torch.rand(()), "kl": 0.1 * torch.rand(())})
        terms = seen[-1] | ({"late": torch.tensor(0.5)} if step >= 20 else {})
        criterion(terms)
        criterion.step()
    in_memory = calibrate(run, criterion.config)
    from_file = calibrate(str(path), criterion.config)
    assert str(in_memory) == str(from_file)
    kl = torch.stack([batch["kl"] for batch in seen]).reshape(20, 2).mean(dim=1)
    assert from_file.terms["kl"].value == pytest.approx(
        np.quantile(kl, (0.25, 0.5, 0.75)), rel=1e-5
    )
    assert from_file.terms["late"].note == "in 10 of 20 rows"
    (tmp_path / "train.yaml").write_text("loss: {total_steps: 40, terms: [nll, kl, late]}")
    found = calibrate(path, tmp_path / "train.yaml", at="loss")
    assert weights(found) == weights(in_memory)


# What is refused

NORMS: Any = "norms"


def test_a_horizon_is_asked_for_and_can_be_given() -> None:
    config = {"terms": {"a": 1.0, "b": {"kind": "warmup", "over": "10%"}}}
    run = recorded(values={"a": 1.0, "b": 2.0})
    with pytest.raises(HorizonError, match=r"'b'.*horizon=Horizon\("):
        calibrate(run, config)
    assert weights(calibrate(run, config, horizon=Horizon(100))) == {"a": 2.0, "b": 1.0}


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (3, "found int"),
        (None, "found NoneType"),
        ([{"step": 1, "value/a": 1.0}], "found list"),
        (LossConfig.read({"terms": ["a"]}), "found LossConfig"),
    ],
)
def test_other_first_arguments_are_refused(source: Any, words: str) -> None:
    with pytest.raises(TypeError, match=f"calibrate takes a criterion and batches.*{words}"):
        calibrate(source, {"terms": ["a"]})


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda run: calibrate(run, {"terms": ["a", "bb"]}),
            "the history has the term 'b', .*'bb'",
        ),
        (lambda run: calibrate(run, {"terms": ["a", "b"]}, by=NORMS), "by is 'gradients' or"),
        (
            lambda run: calibrate(run, {"terms": ["a", "b"]}, by="gradients"),
            "has none: record them",
        ),
        (lambda run: calibrate(run, {"terms": ["a", "b"]}, {"a": 2.0}), "'a' needs a share above"),
        (lambda run: calibrate(run, {"terms": ["a", "b"]}, ["a"]), "write a share by term"),  # type: ignore[call-overload]
        (lambda run: calibrate(run, {"terms": ["a", "b"]}, {5: 0.1}), "write a share by term"),  # type: ignore[dict-item]
        (lambda run: calibrate(run, [{"a": 1.0}]), "a config is a LossConfig, a mapping"),
        (lambda run: calibrate(History(), {"terms": ["a"]}), "the history has no rows"),
        (
            lambda run: calibrate(WeightedLoss(["a"]), run),
            r"found History: write calibrate\(history, criterion.config\)",
        ),
        (
            lambda run: calibrate(WeightedLoss(["a"]), [{"a": 1.0}], by="values"),  # type: ignore[call-overload]
            "batches have values alone: by=, at= and horizon=",
        ),
        (
            lambda run: calibrate(WeightedLoss(["a"]), [{"a": 1.0}], at="loss"),  # type: ignore[call-overload]
            "a criterion has its config",
        ),
        (
            lambda run: calibrate(history([{"step": 1, "total": 3.0}]), {"terms": ["a"]}),
            "the history has no value/<term>: let the history include value",
        ),
    ],
)
def test_what_cannot_be_calibrated(call: Callable[[History], Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call(recorded(values={"a": 1.0, "b": 2.0}))


def test_a_horizon_is_no_number() -> None:
    with pytest.raises(TypeError, match=r"horizon is a Horizon\(total_steps=...\), found 100"):
        calibrate(recorded(values={"a": 1.0}), {"terms": ["a"]}, horizon=100)  # type: ignore[call-overload]


def test_a_share_may_be_a_number_of_numpy() -> None:
    shares: Any = {"b": np.float32(0.25)}
    found = calibrate(recorded(values={"a": 1.0, "b": 1.0}), {"terms": ["a", "b"]}, shares)
    assert found.terms["b"].share == pytest.approx(0.25, rel=0.03)


@pytest.mark.parametrize(("weight", "size", "share"), [(1e30, 1e-11, 0.5), (1e-30, 1.0, 1e-9)])
def test_a_weight_that_a_config_refuses_is_not_proposed(
    weight: float, size: float, share: float
) -> None:
    run = recorded(values={"a": 1.0, "b": size})
    found = calibrate(run, {"terms": {"a": weight, "b": weight}}, {"b": share})
    assert LossConfig.read(found.config.model_dump(mode="json")) == found.config
    assert weights(found)["b"] == weight
    assert "is no weight in float32" in notes(found)["b"]


def test_files_that_are_no_history(tmp_path: Path) -> None:
    config = {"terms": ["a"]}
    odd = tmp_path / "train.yaml"
    odd.write_text("terms: [a]\n")
    with pytest.raises(ValueError, match="train.yaml, line 1: a row of a history is a JSON object"):
        calibrate(odd, config)
    odd.write_text("")
    with pytest.raises(ValueError, match="train.yaml has no rows"):
        calibrate(odd, config)
    odd.write_text(json.dumps({"step": 1, "raw/kl": 1.0}) + "\n")
    with pytest.raises(ValueError, match="train.yaml has the term 'kl', which the config lacks"):
        calibrate(odd, config)
    with pytest.raises(FileNotFoundError):
        calibrate(tmp_path / "missing.jsonl", config)


# What is shown


def test_the_tables_have_what_was_measured() -> None:
    run = recorded(values={"a": 6.0, "b": 3.0}, norms={"a": 4.0, "b": 1.0}, cosines={"a/b": -0.25})
    found = calibrate(run, {"terms": ["a", "b"]})
    parts = str(found).split("\n\n")
    assert parts[0] == "24 rows, steps 9 to 239, by gradients"
    assert [line.split() for line in parts[1].splitlines()] == [
        ["term", "value", "gradient", "norm", "share"],
        ["a", "6", "(6,", "6)", "4", "(4,", "4)", "-"],
        ["b", "3", "(3,", "3)", "1", "(1,", "1)", "-"],
    ]
    assert parts[2].splitlines()[1].split() == ["a,", "b", "-0.25", "-0.25", "-0.25", "100%", "24"]
    assert parts[3].splitlines()[2].split() == [
        *("b", "1", "1", "20.0%", "4", "50.0%", "4,", "4", "1")
    ]
    assert parts[4] == "\n".join(f"* {sentence}" for sentence in found.verdict)
    assert LossConfig.read(yaml.safe_load(parts[5])) == found.config


def test_numbers_of_different_columns_are_apart() -> None:
    sizes = {"a": spread_out(1e25), "b": spread_out(1e15)}
    lines = str(judged(values=sizes, norms=sizes)).splitlines()
    assert [line.count(")") for line in lines if "1e+15 (" in line] == [2]
    assert not any(re.search(r"\)\d|e\+\d\d\d+\.", line) for line in lines)


def test_of_many_pairs_the_lowest_cosines_are_shown() -> None:
    names = [f"t{index}" for index in range(8)]
    cosines = {f"{x}/{y}": 0.1 for x in names for y in names if x < y} | {"t5/t7": -0.5}
    run = recorded(norms=dict.fromkeys(names, 1.0), cosines=cosines)
    lines = str(calibrate(run, {"terms": names})).split("\n\n")[2].splitlines()
    assert lines[1].split()[:3] == ["t5,", "t7", "-0.50"]
    assert (len(lines), lines[-1]) == (22, "and 8 more pairs")
