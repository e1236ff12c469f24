"""Weights are the same on every rank, and those of a single process that has all the data."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.distributed.pool import Pool
from tests.distributed.training import (
    CONFIGS,
    WRAPS,
    Record,
    Setup,
    train_alone,
    train_rank,
)


def agree(records: list[Record]) -> None:
    """All ranks have the same, bit for bit."""
    first = records[0]
    for other in records[1:]:
        assert other.weights == first.weights
        for mine, theirs in ((first.criterion, other.criterion), (first.model, other.model)):
            assert mine.keys() == theirs.keys()
            assert [key for key in mine if not torch.equal(mine[key], theirs[key])] == []


def compare(found: Record, wanted: Record) -> None:
    """As near as sums in another order come."""
    for mine, theirs in zip(found.weights, wanted.weights, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4)
    torch.testing.assert_close(found.criterion, wanted.criterion, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.model, wanted.model, rtol=1e-4, atol=1e-5)


def moved(record: Record) -> None:
    """It was no test if nothing had adapted."""
    assert record.weights[0] != record.weights[-1]


def setups() -> Iterator[tuple[int, Setup]]:
    for index, config in enumerate(CONFIGS):
        optimizer = ("adam", "sgd")[index % 2]
        for wrap in WRAPS:
            yield 2, Setup(config, wrap, optimizer)
        for wrap in ("ddp", "ddp inside", "ddp inside, views", "fsdp inside"):
            yield 2, Setup(config, wrap, optimizer, micro_batches=3)
        if config == "uncertainty and controller":
            yield 2, Setup(config, "ddp inside, compiled", optimizer)
        yield 4, Setup(config, "ddp inside", "sgd" if optimizer == "adam" else "adam")
        yield 4, Setup(config, "fsdp", optimizer, micro_batches=2)


def name(case: int | Setup) -> str:
    if isinstance(case, int):
        return f"{case} ranks"
    times = f" x{case.micro_batches}" if case.micro_batches > 1 else ""
    return f"{case.config}: {case.wrap}{times}, {case.optimizer}"


@pytest.mark.parametrize(("ranks", "setup"), list(setups()), ids=name)
def test_ranks_agree_with_one_process_that_has_the_whole_batch(
    pool: Pool, ranks: int, setup: Setup
) -> None:
    records = pool.run(ranks, train_rank, setup)
    moved(records[0])
    agree(records)
    compare(records[0], train_alone(setup, ranks, whole=True))
