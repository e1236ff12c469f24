"""Single facts of docs/distributed.md and docs/ranks.md: absent terms, nan, groups, checkpoints."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from lossweights import WeightedLoss
from tests.distributed import cases
from tests.distributed.pool import Pool
from tests.distributed.test_agreement import agree, compare, moved
from tests.distributed.training import CONFIGS, LEARNED, Setup, train_alone, train_rank

OPTIONAL = {"terms": {name: {"optional": True} for name in "abc"}}
NAN = float("nan")


@pytest.mark.parametrize("wrap", ["ddp", "fsdp inside"])
@pytest.mark.parametrize("absent", ["first", "all"])
@pytest.mark.parametrize("config", CONFIGS)
def test_a_term_counts_where_it_is_present(pool: Pool, config: str, absent: str, wrap: str) -> None:
    setup = Setup(config, wrap, absent=absent, micro_batches=2)
    records = pool.run(2, train_rank, setup)
    moved(records[0])
    agree(records)
    compare(records[0], train_alone(setup, 2, whole=False))


@pytest.mark.parametrize("config", CONFIGS)
def test_a_nan_that_is_skipped_counts_as_absent(pool: Pool, config: str) -> None:
    setup = Setup(config, "ddp", broken=True, options={"on_nonfinite": "skip_term"})
    records = pool.run(2, train_rank, setup)
    agree(records)
    compare(records[0], train_alone(setup, 2, whole=False))


@pytest.mark.parametrize("config", CONFIGS)
def test_a_rank_that_is_given_nothing_holds_nobody_up(pool: Pool, config: str) -> None:
    setup = Setup(config, options=OPTIONAL | CONFIGS[config])
    if "terms" in CONFIGS[config]:
        setup = Setup(config, options={"terms": terms_all_optional(config)})
    both = {"a": 1.0, "b": 2.0, "c": 0.5}
    table: cases.Table = [
        [[both], [both]],
        [[both], [{}]],
        [[{}], [{"c": 3.0}]],
        [[{}], [{}]],
        [[both], [{}]],
    ]
    records = pool.run(2, cases.feed_rank, setup, table)
    moved(records[0])
    agree(records)
    compare(records[0], cases.feed_alone(setup, table))


def terms_all_optional(config: str) -> dict[str, Any]:
    terms = dict(CONFIGS[config]["terms"])
    return {
        "a": {"optional": True},
        "b": {"controller": terms["b"], "optional": True},
        "c": terms["c"],
    }


@pytest.mark.parametrize("config", ["dwa", "controller", "inverse average"])
def test_a_nan_on_one_rank_leaves_the_state_of_its_term(pool: Pool, config: str) -> None:
    fine, broken = {"a": 1.0, "b": 2.0, "c": 0.5}, {"a": 3.0, "b": NAN, "c": 1.0}
    start = [[[fine], [fine]], [[fine], [fine]]]
    before = pool.run(2, cases.feed_rank, Setup(config), start)[0].criterion
    records = pool.run(2, cases.feed_rank, Setup(config), [*start, [[fine], [broken]]])
    agree(records)
    state = records[0].criterion
    kept = [key for key, value in state.items() if value.is_floating_point() and value.ndim == 1]
    for key in kept:
        assert state[key][1] == before[key][1], key  # of b
        assert state[key].isfinite().all(), key
    if config == "controller":
        (key,) = [key for key in state if key.endswith("controller.test-integral.sum")]
        assert torch.equal(state[key], before[key])
    else:
        assert any(not torch.equal(state[key], before[key]) for key in kept)  # of a and c


def test_uneven_numbers_of_forward_passes_count_each_the_same(pool: Pool) -> None:
    table = [[[{"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 2.0}], [{"a": 1.0, "b": 6.0}]]]
    records = pool.run(2, cases.feed_rank, Setup("controller"), table)
    agree(records)
    assert records[0].weights[-1]["b"] == pytest.approx(1 + 0.1 * (3.0 - 0.5))


def test_sums_of_ranks_are_averaged_as_their_gradients_are(pool: Pool) -> None:
    each = {"accumulates": "sum"}
    terms = {"a": each, "b": {"controller": {"kind": "test-integral"}, **each}}
    setup = Setup("controller", options={"terms": terms, "balancer": "geometric"})
    table = [[[{"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 2.0}], [{"a": 1.0, "b": 6.0}]]]
    for record in pool.run(2, cases.feed_rank, setup, table):
        assert record.weights[-1]["b"] == pytest.approx(1 + 0.1 * ((3.0 + 6.0) / 2 - 0.5))
        assert record.criterion["adaptive.observed.passes"] == 1.5


@pytest.mark.parametrize("config", [*CONFIGS, "schedules alone"])
def test_collectives(pool: Pool, config: str) -> None:
    options = {"terms": {"a": 1.0, "b": {"optional": True}, "c": {"optional": True}}}
    if config == "schedules alone":
        setup = Setup("uncertainty", options={**options, "balancer": None})
    elif "terms" in CONFIGS[config]:
        setup = Setup(config, options={"terms": terms_all_optional(config)})
    else:
        setup = Setup(config, options=options)
    learned = {"learned over average": 3 + 1, "uncertainty and controller": 2, "uncertainty": 3}
    sums_and_counts = [2 * 3]
    for found in pool.run(2, cases.count, setup):
        assert found["forward"] == []
        assert found["backward"] == ([learned[config]] * 3 if config in LEARNED else [])
        assert found["step"] == (
            [] if config in ("schedules alone", "uncertainty") else sums_and_counts
        )


@pytest.mark.parametrize("config", CONFIGS)
def test_without_sync_each_rank_goes_its_own_way(pool: Pool, config: str) -> None:
    setup = Setup(config, options={"sync": "off"})
    table = [[[{"a": 1.0, "b": rank + step, "c": 1.0}] for rank in (1.0, 2.0)] for step in range(3)]
    records = pool.run(2, cases.feed_rank, setup, table)
    assert records[0].weights[-1] != records[1].weights[-1]
    for rank, record in enumerate(records):
        compare(record, cases.feed_alone(setup, [[step[rank]] for step in table]))
    assert [
        c["backward"] + c["step"]
        for c in pool.run(
            2,
            cases.count,
            Setup(config, options={"sync": "off", "terms": terms_all_optional("controller")}),
        )
    ] == [[], []]


@pytest.mark.parametrize("config", ["dwa", "uncertainty"])
def test_a_group_averages_over_its_own_ranks(pool: Pool, config: str) -> None:
    table = [
        [[{"a": 1.0, "b": rank + step, "c": 1.0}] for rank in (1.0, 2.0, 3.0)] for step in range(3)
    ]
    first, second, outside = pool.run(3, cases.in_subgroup, Setup(config), table)
    agree([first, second])
    compare(first, cases.feed_alone(Setup(config), [step[:2] for step in table]))
    compare(outside, cases.feed_alone(Setup(config), [step[2:] for step in table]))


@pytest.mark.parametrize("wrap", ["fsdp inside", "ddp inside"])
@pytest.mark.parametrize("config", CONFIGS)
def test_a_distributed_checkpoint_goes_on_bit_for_bit(
    pool: Pool, config: str, wrap: str, tmp_path: Path
) -> None:
    results = pool.run(2, cases.resume, Setup(config, wrap), str(tmp_path))
    for straight, resumed in results:
        straight.weights = straight.weights[2:]
        agree([straight, resumed])
    agree([resumed for _, resumed in results])


@pytest.mark.parametrize("config", ["uncertainty", "dwa", "uncertainty and controller"])
def test_learned_weights_cannot_be_sharded(pool: Pool, config: str) -> None:
    for words in pool.run(2, cases.shard, config):
        wanted = "fully_shard(model, ignored_params=set(criterion.parameters()))"
        assert (wanted in words) == (config in LEARNED)


def test_learned_weights_cannot_be_taken_out() -> None:
    criterion = WeightedLoss(["a", "b"], balancer="uncertainty")
    with pytest.raises(RuntimeError, match=r"\(log_variance\) cannot be sharded.*ignored_states="):
        del criterion.adaptive.log_variance


def test_a_pickled_criterion_says_that_its_group_is_lost(pool: Pool) -> None:
    for words in pool.run(2, cases.lose_group):
        assert "build the criterion again with WeightedLoss(..., process_group=...)" in words


def test_frozen_weights_can_be_copied() -> None:
    criterion = WeightedLoss(["a", "b"], balancer="uncertainty").requires_grad_(requires_grad=False)
    for made in (copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion))):
        assert not any(parameter.requires_grad for parameter in made.parameters())
