"""Weights from gradients are the same on every rank, and those of the whole batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch

from tests.distributed import gradient_cases as cases
from tests.distributed.gradient_training import (
    BALANCERS,
    WRAPS,
    Of,
    Seen,
    Setup,
    train_alone,
    train_rank,
)
from tests.distributed.pool import Pool
from tests.distributed.test_agreement import agree
from tests.setups.models import Products

OF = pytest.mark.parametrize("of", ["features", "parameters"])
N = 3  # terms


def setups() -> Iterator[tuple[int, Setup]]:
    for balancer in BALANCERS:
        yield 2, Setup(balancer, "features", micro_batches=2)
        yield 4, Setup(balancer, "parameters")
    for of in ("features", "parameters"):
        for heads in ("weighted", "plain"):
            for wrap in ("plain", *WRAPS):
                if "static" not in wrap and not (of == "features" and "unused" in wrap):
                    yield 2, Setup(of=of, heads=heads, wrap=wrap)
                yield 2, Setup(of=of, heads=heads, wrap=wrap, inside=True)
    for inside in (False, True):
        yield 2, Setup(wrap="fsdp", inside=inside, micro_batches=2)
        yield 4, Setup("gradnorm", wrap="fsdp", inside=inside, heads="plain")


def name(case: int | Setup) -> str:
    if isinstance(case, int):
        return f"{case} ranks"
    more = " ".join(
        word
        for word, is_so in (
            ("inside", case.inside),
            ("plain heads", case.heads == "plain"),
            (f"x{case.micro_batches}", case.micro_batches > 1),
        )
        if is_so
    )
    return f"{case.balancer} of {case.of}: {case.wrap} {more}"


@pytest.mark.parametrize(("ranks", "setup"), list(setups()), ids=name)
def test_weights_are_those_of_the_whole_batch(pool: Pool, ranks: int, setup: Setup) -> None:
    found = pool.run(ranks, train_rank, setup)
    same(found)
    wanted = train_alone(setup, ranks)
    for mine, theirs in zip(found[0].weights, wanted.weights, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4)
    model = found[0].record.model
    model = {name.removeprefix("function."): tensor for name, tensor in model.items()}
    torch.testing.assert_close(model, wanted.record.model, rtol=1e-4, atol=1e-6)
    assert found[0].weights[0] != found[0].weights[-1]  # it was no test if nothing had moved


def same(found: list[Seen]) -> None:
    """All ranks have the same weights, state and parameters, bit for bit."""
    assert all(other.weights == found[0].weights for other in found)
    agree([each.record for each in found])


@pytest.mark.parametrize("wrap", ["ddp, unused", "ddp, static"])
def test_a_wrapper_that_cuts_the_way_to_features_is_refused(pool: Pool, wrap: str) -> None:
    for words in pool.run(2, cases.refusal, Setup(wrap=wrap)):
        assert "no term depends on the tensors in shared=" in words
        assert "call the criterion inside the module that DistributedDataParallel wraps" in words


def test_a_static_graph_would_take_the_first_gradients_for_those_of_the_loss(pool: Pool) -> None:
    for words in pool.run(2, cases.refusal, Setup(of="parameters", wrap="ddp, static")):
        assert "DistributedDataParallel(criterion.wrap(model), static_graph=True)" in words


@pytest.mark.parametrize("inside", [False, True])
def test_sharded_parameters_are_refused(pool: Pool, inside: bool) -> None:
    for words in pool.run(2, cases.refusal, Setup(of="parameters", wrap="fsdp", inside=inside)):
        assert "sharded parameters" in words
        assert "shared=features" in words


def test_the_older_way_of_sharding_works_inside(pool: Pool) -> None:
    wanted = train_alone(Setup(), 2).weights
    for seen in pool.run(2, _sharded_inside):
        for mine, theirs in zip(seen, wanted, strict=True):
            assert mine == pytest.approx(theirs, rel=1e-4)
    for words in pool.run(2, _sharded_outside):
        assert "call the criterion inside the module that it wraps, or use fully_shard" in words


def _sharded_inside() -> Any:
    return cases.fully_sharded(inside=True)


def _sharded_outside() -> Any:
    return cases.fully_sharded(inside=False)


@pytest.mark.parametrize("of_output", ["as the parameters", "float32"])
@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_sharded_models_in_low_precision(
    pool: Pool, precision: torch.dtype, of_output: str
) -> None:
    dtype = torch.float32 if of_output == "float32" else precision
    first, second = pool.run(2, cases.in_low_precision, precision, dtype)
    assert first == second
    # The sum of these weights is 1, so that the size of the terms makes no difference.
    assert first == pytest.approx(train_alone(Setup(steps=1), 2).weights[0], rel=2e-2)


def test_compiled_parts_of_a_wrapped_model(pool: Pool) -> None:
    wanted = pool.run(2, cases.plain)
    for mine, theirs in zip(pool.run(2, cases.compiled), wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("wrap", ["plain", "ddp, unused"])
@pytest.mark.parametrize("absent", ["first", "all"])
@pytest.mark.parametrize("balancer", BALANCERS)
def test_a_term_may_be_absent(pool: Pool, balancer: str, absent: str, wrap: str) -> None:
    inside = wrap != "plain"
    setup = Setup(balancer, wrap=wrap, inside=inside, absent=absent, micro_batches=2)
    same_but_for_absent = pool.run(2, train_rank, setup)
    agree([each.record for each in same_but_for_absent])
    first, second = (each.weights for each in same_but_for_absent)
    for mine, theirs in zip(first, second, strict=True):
        assert {key: theirs[key] for key in mine} == mine  # the first may lack a term


EACH = {"a": [1.0, 2.0], "b": [0.0, 1.0], "c": [3.0, 0.0]}
OTHER = {"a": [2.0, 0.0], "b": [1.0, 1.0], "c": [0.0, 4.0]}


def sums(by_rank: Sequence[Mapping[str, list[float]]], of: Of) -> dict[str, float]:
    """What `Products` weighs: a gradient of features is a row of its own for each rank, those of
    parameters are averaged; what a rank does not give counts as 0.
    """
    there = sorted({term for given in by_rank for term in given})
    whole = torch.tensor([[given.get(term, [0.0, 0.0]) for given in by_rank] for term in there])
    whole = whole.double() / len(by_rank)
    jacobian = whole.flatten(1) if of == "features" else whole.sum(dim=1)
    gramian = jacobian @ jacobian.T
    return {f"weight/{t}": float(w) for t, w in zip(there, gramian.sum(dim=1), strict=True)}


@pytest.mark.parametrize(
    "by_rank",
    [
        [EACH, OTHER],
        [EACH, {"a": [2.0, 0.0], "b": [1.0, 1.0]}],
        [{"b": [0.0, 1.0]}, {"a": [2.0, 0.0], "c": [0.0, 4.0]}],
        [EACH, {}],
        [{}, {"c": [0.0, 4.0]}],
        [EACH, OTHER, {"b": [5.0, 5.0]}, {}],
    ],
    ids=["all", "one absent", "each has another", "a rank with none", "one term", "four ranks"],
)
@OF
def test_absent_terms_count_as_0_where_they_are_absent(
    pool: Pool, of: Of, by_rank: list[dict[str, list[float]]]
) -> None:
    found = pool.run(len(by_rank), cases.weights, by_rank, of, {})
    wanted = sums(by_rank, of)
    for mine, (seen, standing) in zip(by_rank, found, strict=True):
        assert seen == pytest.approx({f"weight/{t}": wanted[f"weight/{t}"] for t in mine})
        assert standing == pytest.approx({f"weight/{t}": 1.0 for t in "abc"} | wanted)
        assert standing == found[0][1]


@OF
def test_weights_are_scaled_over_the_terms_of_all_ranks(pool: Pool, of: Of) -> None:
    by_rank = [{"b": [0.0, 1.0]}, {"a": [2.0, 0.0], "c": [0.0, 4.0]}]
    options = {"balancer": Products(normalize="sum", bounds=(0.0, 0.5))}
    whole = sums(by_rank, of)
    wanted = {name: min(weight / sum(whole.values()), 0.5) for name, weight in whole.items()}
    found = pool.run(2, cases.weights, by_rank, of, options)
    for mine, (seen, kept) in zip(by_rank, found, strict=True):
        assert seen == pytest.approx({f"weight/{t}": wanted[f"weight/{t}"] for t in mine})
        assert kept == pytest.approx(wanted)
        assert kept == found[0][1]


@pytest.mark.parametrize("term", [{"after": "5 steps"}, {"weight": 0.0, "when_zero": "skip"}])
@pytest.mark.parametrize("balancer", ["mgda", "upgrad", "aligned-mtl"])
def test_an_inactive_term_does_not_count_as_a_gradient_of_0(
    pool: Pool, balancer: str, term: dict[str, Any]
) -> None:
    """On two ranks with the same batch the weights are those of one."""
    found = pool.run(2, cases.weights_with_an_inactive_term, balancer, term)
    wanted = cases.weights_with_an_inactive_term(balancer, term)
    for mine in found:
        assert mine == pytest.approx(wanted, rel=1e-5)


@OF
def test_without_sync_each_rank_stands_alone(pool: Pool, of: Of) -> None:
    by_rank = [EACH, OTHER]
    found = pool.run(2, cases.weights, by_rank, of, {"sync": "off"})
    for mine, (seen, _) in zip(by_rank, found, strict=True):
        assert seen == pytest.approx(sums([mine], of))


@pytest.mark.parametrize("others", [{}, {"b": [1e-3, 1e-3]}], ids=["none", "one"])
@OF
def test_float16_that_not_all_ranks_meet(
    pool: Pool, of: Of, others: dict[str, list[float]]
) -> None:
    by_rank = [{"a": [1e-3, 2e-3], "b": [0.0, 1e-3], "c": [3e-3, 0.0]}, others]
    found = pool.run(2, cases.in_half, by_rank, of)
    assert found[0] == found[1] == pytest.approx(sums(by_rank, of), rel=1e-3)


def test_a_group_has_gradients_of_its_own(pool: Pool) -> None:
    by_rank = [EACH, OTHER, {"a": [7.0, 1.0]}]
    first, second, outside = pool.run(3, cases.in_subgroup, by_rank)
    assert first == second == pytest.approx(sums(by_rank[:2], "features"))
    assert outside == pytest.approx(sums(by_rank[2:], "features"))


def test_batches_of_different_sizes_add_up(pool: Pool) -> None:
    by_rank = [{"a": [1.0, 2.0], "b": [0.0, 1.0]}, {"a": [3.0, 0.0, 4.0], "b": [1.0, 1.0, 0.0]}]
    found = pool.run(2, cases.weights, by_rank, "features", {})
    # The first gradient is that of half the sum on the five features that there are together.
    wanted = {"weight/a": (30 + 5) / 4, "weight/b": (3 + 5) / 4}
    assert found[0][0] == found[1][0] == pytest.approx(wanted)


def test_sparse_gradients_of_a_table(pool: Pool) -> None:
    ranks = pool.run(2, cases.sparse, 1)
    (wanted, gradient), _ = pool.run(2, cases.sparse, 2)
    assert ranks[0][0] == ranks[1][0] == pytest.approx(wanted)
    torch.testing.assert_close((ranks[0][1] + ranks[1][1]) / 2, gradient)


REST = 2 * N + 2  # losses, where they were, and how many elements and items there are
ALL = N * N + REST  # of one collective
COUNTS: dict[str, tuple[Any, Of, dict[int, str], dict[str, Any], list[list[int]]]] = {
    "features": ("imtl-g", "features", {}, {}, [[ALL]] * 3),
    "absent terms": ("imtl-g", "features", {0: "a", 1: ""}, {}, [[ALL]] * 3),
    "parameters": ("imtl-g", "parameters", {}, {}, [[N * 6, N * 4, ALL]] * 3),
    "refreshes": ({"kind": "imtl-g", "every": "2 steps"}, "features", {}, {}, [[ALL], [], [ALL]]),
    "no sync": ("imtl-g", "features", {}, {"sync": "off"}, [[]] * 3),
}


@pytest.mark.parametrize("case", COUNTS)
def test_collectives(pool: Pool, case: str) -> None:
    balancer, of, given, options, wanted = COUNTS[case]
    for found in pool.run(2, cases.count, balancer, of, given, options):
        assert found["forward"] == wanted
        assert found["backward"] == found["step"] == [[]] * 3


@pytest.mark.parametrize(
    ("balancer", "wanted"), [("gradnorm", [N + REST]), ("lr-annealing", [N + REST, N])]
)
def test_what_learns_takes_one_more_in_a_step_and_maxima_one_more_in_a_forward_pass(
    pool: Pool, balancer: str, wanted: list[int]
) -> None:
    for found in pool.run(2, cases.count, BALANCERS[balancer], "features", {}, {}):
        assert found["forward"] == [wanted] * 3
        assert found["backward"] == [[]] * 3
        assert found["step"] == [[2 * N]] * 3


@pytest.mark.parametrize(
    ("ranks", "setup"),
    [
        (2, Setup(micro_batches=2)),
        (4, Setup(of="parameters")),
        (2, Setup(of="parameters", inside=True)),
        (2, Setup(wrap="fsdp", micro_batches=2)),
        (2, Setup(wrap="fsdp", inside=True)),
    ],
    ids=name,
)
def test_a_history_measures_the_gradients_of_the_whole_batch(
    pool: Pool, ranks: int, setup: Setup
) -> None:
    found = pool.run(ranks, cases.measured_rank, setup)
    assert all(other == found[0] for other in found)
    wanted = cases.measured_alone(setup, ranks)
    assert [bool(row) for row in found[0]] == [True, False, True, False]
    for mine, theirs in zip(found[0], wanted, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-6)


def test_a_history_on_some_ranks_measures_nothing_and_says_so(
    pool: Pool,
) -> None:
    first, second = pool.run(2, cases.measured_on_some_ranks)
    (message,) = first
    assert "build the history in every process" in message
    assert second == []


def test_two_histories_on_all_ranks_measure(pool: Pool) -> None:
    first, second = pool.run(2, cases.measured_by_two)
    assert first == second == pytest.approx([0.5**0.5] * 2)


def test_the_weight_of_a_term_that_a_rank_lacks_is_that_of_the_others(pool: Pool) -> None:
    """Gradients of the batch: (1, 1) / 2 and (3, 0) / 2, which exists on the other rank only."""
    first, second = pool.run(2, cases.measured_of_absent_terms)
    assert first == second
    found, warned = first
    assert warned == []
    norms = {"a": 2**0.5 / 2, "b": 1.5}
    assert found["gradient/norm/b"] == pytest.approx(norms["b"])
    assert found["gradient/share/a"] == pytest.approx(norms["a"] / (norms["a"] + 2 * norms["b"]))
    assert found["gradient/share/b"] == pytest.approx(
        2 * norms["b"] / (norms["a"] + 2 * norms["b"])
    )
    assert found["alone/gradient/share/b"] == pytest.approx(found["gradient/share/b"])
    assert found["alone/gradient/cosine/a/b"] == pytest.approx(-(0.5**0.5)), "b counts negatively"
