"""The tensors of a component in blocks: what they hold, what is undone, what a copy is."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

from lossweights.criterion.store import Store


def tensors() -> dict[str, Tensor]:
    """Of every sort that a state may have, with three terms."""
    return {
        "each": torch.arange(3.0),
        "count": torch.tensor(7),
        "table": torch.arange(6.0).reshape(2, 3),
        "scale": torch.tensor(0.5),
        "seen": torch.tensor([True, False, True]),
        "cube": torch.arange(12).reshape(2, 2, 3),
        "other": torch.tensor(2.5),
    }


def changed(store: Store) -> None:
    """Adds 10 to every number, and turns every truth round."""
    for tensor in store.state.values():
        if tensor.dtype is torch.bool:
            tensor.logical_not_()
        else:
            tensor.add_(10)


def assert_holds(store: Store, expected: dict[str, Tensor]) -> None:
    assert list(store.state) == list(expected)
    for key, tensor in expected.items():
        assert store.state[key].dtype is tensor.dtype
        assert torch.equal(store.state[key], tensor), key


def test_a_store_holds_what_it_was_given() -> None:
    assert_holds(Store(tensors()), tensors())
    assert Store({}).state == {}


def test_what_was_given_is_not_written_to() -> None:
    given = tensors()
    shared = given["each"]
    store = Store({**given, "same": shared, "wide": torch.zeros(1).expand(3)})
    changed(store)
    assert torch.equal(shared, tensors()["each"])
    assert torch.equal(store.state["same"], shared + 10)
    assert torch.equal(store.state["wide"], torch.full((3,), 10.0))


@pytest.mark.parametrize(
    "valid", [[True, True, True], [False, False, False], [True, False, True], True, False]
)
def test_what_is_not_valid_is_undone(valid: Any) -> None:
    store, after = Store(tensors()), Store(tensors())
    changed(after)
    store.keep()
    changed(store)
    mask = torch.tensor(valid)
    store.restore(mask)
    expected = {
        key: torch.where(mask if tensor.ndim else mask.any(), after.state[key], tensor)
        for key, tensor in tensors().items()
    }
    assert_holds(store, expected)


def test_only_what_changed_since_it_was_last_kept_is_undone() -> None:
    store = Store(tensors())
    changed(store)
    store.keep()
    changed(store)
    store.restore(torch.zeros((), dtype=torch.bool))
    assert_holds(Store(tensors()), tensors())
    assert torch.equal(store.state["each"], torch.arange(3.0) + 10)


def test_a_nan_that_is_undone_leaves_no_trace() -> None:
    store = Store(tensors())
    store.keep()
    store.state["each"].fill_(torch.nan)
    store.state["scale"].fill_(torch.nan)
    store.restore(torch.tensor([False, False, False]))
    assert_holds(store, tensors())


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda store: pickle.loads(pickle.dumps(store)), None]
)
def test_a_copy_is_another(copied: Any) -> None:
    store = Store(tensors())
    other = store.moved(torch.device("cpu")) if copied is None else copied(store)
    changed(store)
    assert_holds(other, tensors())
    other.keep()
    changed(other)
    assert_holds(other, {key: tensor.clone() for key, tensor in store.state.items()})
    other.restore(torch.zeros((), dtype=torch.bool))
    assert_holds(other, tensors())


def test_all_of_it_goes_to_another_device() -> None:
    moved = Store(tensors()).moved(torch.device("meta"))
    assert {tensor.device.type for tensor in moved.state.values()} == {"meta"}
    moved.keep()
    moved.restore(torch.empty(3, dtype=torch.bool, device="meta"))
