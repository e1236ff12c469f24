"""Checkpoints that are damaged: refused with the name of the key, and nothing is changed."""

from __future__ import annotations

import copy
import json
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lossweights import State, Term, WeightedLoss
from lossweights.testing.training import Training
from tests.fuzzing import many
from tests.small_components import Centred, Recording, losses
from tests.test_adaptive_properties import EXAMPLES


def names_of(value: Any) -> Tensor:
    return torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)


def filled(value: float) -> Callable[[Tensor], Tensor]:
    return lambda tensor: torch.full_like(tensor.double(), value)


# What no saved state has, but for those in MAY_BE.
NEVER: dict[str, Callable[[Tensor], Any]] = {
    "str": lambda _: "lost",
    "list": lambda tensor: tensor.tolist(),
    "none": lambda _: None,
    "number": lambda _: 3.0,
    "numpy": lambda tensor: tensor.numpy(),
    "dict": lambda _: {},
    "module": lambda _: nn.Linear(1, 1),
    "sparse": lambda tensor: tensor.to_sparse(),
    "nested": lambda tensor: torch.nested.nested_tensor([tensor.float().reshape(-1)]),
    "quantized": lambda t: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.quint8),
    "complex": lambda tensor: tensor.to(torch.complex64),
    "bool": lambda tensor: tensor.bool(),
    "float": lambda t: t.float() if t.dtype is not torch.float32 else t.half(),
    "half": lambda tensor: tensor.half(),
    "bfloat16": lambda tensor: tensor.bfloat16(),
    "string of bytes": lambda _: b"lost",
    "meta": lambda tensor: tensor.to("meta"),
    "empty": lambda _: torch.zeros(0),
    "huge": lambda tensor: torch.zeros(1, dtype=tensor.dtype).expand(10**12),
    "deep": lambda tensor: tensor[None],
    "long": lambda tensor: torch.cat([tensor.reshape(-1), tensor.reshape(-1)]),
    "nan": filled(math.nan),
    "infinite": filled(math.inf),
    "fraction": lambda tensor: tensor.double() + 1e-12,
    "far": filled(-(2.0**62)),
}
# These may be state, such as a sum since the last step that had a nan.
MAY_BE = ("nan", "infinite", "far", "fraction")


def changed(state: dict[str, Any], key: str, damage: str) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about quantized and nested tensors
        return {**state, key: NEVER[damage](state[key])}


def everything_of(criterion: WeightedLoss) -> dict[str, Any]:
    """All that a failed load must leave: state, weights, metrics, and the learned tensors."""
    return {
        **criterion.state_dict(),
        "weights": torch.tensor(list(criterion.weights.values())),
        "step": torch.tensor(criterion.current_step),
        "steps": torch.tensor(criterion.adaptive._progress.steps),
        **{f"metric {k}": v for k, v in criterion.metrics(tensors=True).items()},
        **{f"version {k}": torch.tensor(p._version) for k, p in criterion.named_parameters()},
    }


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for key in ours:
        both = [each[key].double().nan_to_num(7.0) for each in (ours, theirs)]
        assert torch.equal(*both), key


def assert_refused(
    criterion: WeightedLoss, state: dict[str, Any], problem: str, *, strict: bool = True
) -> None:
    before = everything_of(criterion)
    with pytest.raises(RuntimeError, match=problem):
        criterion.load_state_dict(state, strict=strict)
    model = nn.ModuleDict({"loss": criterion})
    inside = {f"loss.{key}": value for key, value in state.items()}
    with pytest.raises(RuntimeError, match=problem):
        model.load_state_dict(inside, strict=strict)
    assert_same(everything_of(criterion), before)


# In the middle of a step; the criterion of each pair is loaded into.
PAIRS = []
for example in EXAMPLES:
    pair = Training(example).run(range(3)), Training(example).run(range(2))
    for training in pair:
        training.forward(3)
    PAIRS.append((pair[1].criterion, pair[0].criterion.state_dict()))


@pytest.mark.parametrize("strict", [True, False])
@many
@given(data=st.data())
def test_a_damaged_entry_is_refused_or_loaded(strict: bool, data: st.DataObject) -> None:
    criterion, good = data.draw(st.sampled_from(PAIRS))
    key, damage = data.draw(st.sampled_from([*good])), data.draw(st.sampled_from([*NEVER]))
    state = changed(good, key, damage)
    before = everything_of(criterion)
    refusal = ""
    try:
        criterion.load_state_dict(state, strict=strict)
    except RuntimeError as error:
        refusal = str(error)
    if refusal:
        assert f"\n\t{key} " in refusal
        assert_same(everything_of(criterion), before)
    else:
        assert damage in MAY_BE
        loaded = criterion.state_dict()
        assert {k: v.dtype for k, v in loaded.items()} == {k: v.dtype for k, v in good.items()}
        assert_same(loaded, state)
        is_state = key.startswith(("adaptive.balancer.", "adaptive.terms."))
        assert loaded[key].isfinite().all() or not is_state
    criterion.load_state_dict(good)
    assert_same(criterion.state_dict(), good)


@pytest.mark.parametrize("index", range(len(PAIRS)), ids=[repr(example) for example in EXAMPLES])
def test_a_lost_entry_is_refused_by_a_strict_load(index: int) -> None:
    criterion, good = PAIRS[index]
    criterion = copy.deepcopy(criterion)
    for key in sorted({*good, "adaptive.more", "more"} - {"horizon"}):  # may be missing
        state = {k: v for k, v in good.items() if k != key}
        state |= {} if key in good else {key: torch.zeros(())}
        before = everything_of(criterion)
        with pytest.raises(RuntimeError, match=rf"(Missing|Unexpected) key.*{key}"):
            criterion.load_state_dict(state)
        assert_same(everything_of(criterion), before)


def test_a_criterion_in_a_model_is_loaded_whole_or_not_at_all() -> None:
    criterion, good = WeightedLoss(["a", "b"], balancer="famo"), {}
    saved = WeightedLoss(["a", "b"], balancer="famo")
    saved.set_step(7)
    good = {f"loss.{key}": value for key, value in saved.state_dict().items()}
    before = everything_of(criterion)
    model = nn.ModuleDict({"loss": criterion, "layer": nn.Linear(1, 1)})
    good |= {key: value for key, value in model.state_dict().items() if "layer" in key}
    lost = {k: v for k, v in good.items() if k != "loss.adaptive.balancer.famo.count"}
    with pytest.raises(RuntimeError, match="Missing.*famo.count"):
        model.load_state_dict(lost)
    assert_same(everything_of(criterion), before)
    model.load_state_dict(lost, strict=False)
    assert criterion.current_step == 7


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (torch.tensor(-1), "is a whole number from 0 to below"),
        (torch.tensor(2**62), "is a whole number from 0 to below"),
        (torch.tensor(2**53), "is a whole number from 0 to below"),
        (torch.tensor(3.0), "is torch.float32 in the checkpoint"),
        (torch.tensor(math.nan), "is torch.float32 in the checkpoint"),
        (torch.ones((), dtype=torch.bool), "is torch.bool in the checkpoint"),
        (torch.tensor([3]), r"has shape \(1,\) in the checkpoint"),
        (3, "must be a tensor, the checkpoint has a int"),
        (np.int64(3), "must be a tensor, the checkpoint has a int64"),
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_a_step_is_a_whole_number(value: Any, problem: str, strict: bool) -> None:
    criterion = WeightedLoss(["a"])
    criterion.set_step(2)
    state = {**criterion.state_dict(), "clock.step": value}
    assert_refused(criterion, state, f"clock.step {problem}", strict=strict)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (torch.tensor([-2, 4]), "is two whole numbers from -1"),
        (torch.tensor([2**53, 4]), "is two whole numbers from -1"),
        (torch.tensor([8.0, 4.0]), "is torch.float32"),
        (torch.tensor([8]), r"has shape \(1,\)"),
        ("8 steps", "must be a tensor"),
    ],
)
def test_a_length_of_training_is_two_whole_numbers(value: Any, problem: str) -> None:
    criterion = WeightedLoss(["a"], total_steps=8, steps_per_epoch=4)
    state = {**criterion.state_dict(), "horizon": value}
    assert_refused(criterion, state, f"horizon {problem}", strict=False)


def test_the_largest_step_is_loaded() -> None:
    criterion = WeightedLoss(["a"])
    criterion.load_state_dict({**criterion.state_dict(), "clock.step": torch.tensor(2**53 - 1)})
    assert criterion.current_step == 2**53 - 1


@pytest.mark.parametrize("key", ["term_names", "adaptive.balanced_names"])
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (torch.zeros(1, dtype=torch.uint8).expand(10**12), "must be names, the checkpoint has"),
        (names_of({"a": 1}), "is not a list of different names"),
        (names_of("ab"), "is not a list of different names"),
        (names_of(3), "is not a list of different names"),
        (names_of(["a", "a"]), "is not a list of different names"),
        (names_of(["a", 1]), "is not a list of different names"),
        (names_of(["a", ""]), "is not a list of different names"),
        (names_of([["a"]]), "is not a list of different names"),
        (torch.tensor([255, 254], dtype=torch.uint8), "is not a list of different names"),
        (torch.tensor(list(b"[" * 100_000), dtype=torch.uint8), "is not a list of different"),
        (torch.tensor(list(b"9" * 10_000), dtype=torch.uint8), "is not a list of different"),
        (torch.zeros(0, dtype=torch.uint8), "is not a list of different names"),
        (torch.zeros((), dtype=torch.uint8), r"has shape \(\)"),
        (torch.tensor([300, 2]), "is torch.int64 in the checkpoint"),
        (torch.tensor([-1, 2]), "is torch.int64 in the checkpoint"),
    ],
)
def test_names_are_a_list_of_names(key: str, value: Tensor, problem: str, strict: bool) -> None:
    criterion = WeightedLoss(["a", "b"], balancer="famo")
    state = {**criterion.state_dict(), key: value}
    assert_refused(criterion, state, f"{key} {problem}", strict=strict)


IMPOSSIBLE = [
    ("famo", "observed.totals", torch.tensor([[1.0, 1.0], [-1.0, 1.0]]), "has counts that"),
    ("famo", "observed.totals", torch.tensor([[1.0, 1.0], [0.5, 1.0]]), "has counts that"),
    ("famo", "observed.totals", torch.tensor([[1.0, 1.0], [math.nan, 1.0]]), "has counts"),
    ("famo", "last_observed.awaited", torch.tensor([0.0, 2.0]), "is not 0 or 1"),
    ("dwa", "last_observed.interval", torch.tensor([[1.0, 1.0], [-1.0, 1.0]]), "has counts"),
    ("gradvac", "gradients.computed", torch.tensor([0.5, 1.0]), "is not 0 or 1"),
    ("gradvac", "gradients.fresh", torch.tensor([[1.0, 1.0], [-1.0, 1.0]]), "has counts"),
    ("gradvac", "gradients.pairs", -torch.ones(2, 2), "has counts that are not whole"),
    ("gradvac", "gradients.calm", torch.tensor(-1.0), "has counts that are not whole"),
    ("gradvac", "gradients.overflows", torch.tensor(math.inf), "has counts that are not"),
    ("gradvac", "gradients.scale", torch.tensor(0.0), "is not a number above 0"),
    ("gradvac", "gradients.weights", torch.tensor([math.nan, 1.0]), "is not finite"),
    ("gradnorm", "gradients.norms", torch.tensor([-1.0, 1.0], dtype=torch.float64), "is negati"),
]


@pytest.mark.parametrize(("balancer", "key", "value", "problem"), IMPOSSIBLE)
def test_what_the_engine_never_has_is_refused(
    balancer: str, key: str, value: Tensor, problem: str
) -> None:
    criterion = WeightedLoss(["a", "b"], balancer=balancer, steps_per_epoch=2)
    state = {**criterion.state_dict(), f"adaptive.{key}": value}
    assert_refused(criterion, state, f"adaptive.{key} {problem}", strict=False)


@pytest.mark.parametrize(("criterion", "state"), PAIRS, ids=list(map(repr, EXAMPLES)))
def test_counts_and_variances_below_0_are_refused(
    criterion: WeightedLoss, state: dict[str, Tensor]
) -> None:
    for place, slot in criterion.adaptive.slots.items():
        component = slot.component
        some = {"seen", "count", "second_moment"}  # with `smoothing`, or `optimizer: adam`, alone
        assert {*component.never_negative} <= {*slot.state} | some
        for name in component.never_negative:
            key = f"adaptive.{place}.{component.kind}.{name}"
            if key in state:
                assert (state[key] >= 0).all()  # what training leaves there
                damaged = {**state, key: torch.full_like(state[key], -1.0)}
                assert_refused(criterion, damaged, f"{key} is negative", strict=False)


@pytest.mark.parametrize("balancer", ["dwa", "softadapt", "relobralo"])
def test_a_state_that_gives_weights_below_0_is_refused(balancer: str) -> None:
    criterion = WeightedLoss(["a", "b"], balancer=balancer, steps_per_epoch=2)
    key = f"adaptive.balancer.{balancer}.weights"
    damaged = {**criterion.state_dict(), key: torch.tensor([1.0, -1.0])}
    assert_refused(criterion, damaged, f"{key} gives weights of .*-1.0", strict=False)


def test_learned_weights_that_overflow_are_refused() -> None:
    criterion = WeightedLoss(["a", "b"], balancer="uncertainty")
    key = "adaptive.log_variance"
    damaged = {**criterion.state_dict(), key: torch.tensor([0.0, math.nan])}
    assert_refused(criterion, damaged, key, strict=False)


@pytest.mark.parametrize("weight", [-5.0, 8.0])
def test_a_weight_of_other_bounds_is_kept_within_ours(weight: float) -> None:
    criterion = WeightedLoss({"a": {"kind": "manual", "highest": 2.0}})
    key = "adaptive.terms.a.controller.manual.weight"
    criterion.load_state_dict({**criterion.state_dict(), key: torch.tensor(weight)})
    assert criterion.weights["a"] == (0.0 if weight < 0 else 2.0)


def test_values_that_survive_another_dtype_are_loaded() -> None:
    terms: dict[str, Any] = {"a": Term(transform=Centred()), "b": 1.0}
    criterion, other = (WeightedLoss(terms, balancer="test-recording") for _ in range(2))
    criterion(losses(a=0.1, b=math.nan))
    criterion.step()
    criterion(losses(a=0.1, b=math.nan))
    state = criterion.state_dict()
    wide = {k: v.double() if v.dtype is torch.float32 else v.long() for k, v in state.items()}
    other.load_state_dict(wide)
    assert_same(other.state_dict(), state)


def test_whole_numbers_are_kept_whole() -> None:
    class Tallying(Recording, kind="test-tallying"):
        def init(self, n: int) -> State:
            return {**super().init(n), "tally": torch.zeros(n, dtype=torch.int32)}

    criterion = WeightedLoss(["a", "b"], balancer=Tallying())
    key = "adaptive.balancer.test-tallying.tally"
    criterion.load_state_dict({**criterion.state_dict(), key: torch.tensor([1, 2])})
    assert criterion.state_dict()[key].tolist() == [1, 2]
    for value in (torch.tensor([1, 2**40]), torch.tensor([1.0, 2.0])):
        assert_refused(criterion, {**criterion.state_dict(), key: value}, f"{key} is torch.*cast")
