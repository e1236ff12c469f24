"""A weight that is set by hand."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch

from lossweights import ConfigError, Manual, WeightedLoss
from tests.small_components import losses


def criterion(**options: Any) -> WeightedLoss:
    return WeightedLoss({"a": 1.0, "kl": {"controller": Manual(initial=0.1), **options}})


def total(loss: Callable[..., Any]) -> float:
    return float(loss(losses(a=1.0, kl=10.0)).detach())


def test_a_weight_that_is_set_counts_from_the_next_forward_pass() -> None:
    ours = criterion()
    assert total(ours) == pytest.approx(2.0)
    ours.set_weight("kl", 0.3)
    assert total(ours) == pytest.approx(4.0)
    ours.step()
    assert ours.weights == pytest.approx({"a": 1.0, "kl": 0.3})


def test_it_is_saved_and_logged() -> None:
    ours, other = criterion(), criterion()
    ours.set_weight("kl", 0.25)
    other.load_state_dict(ours.state_dict())
    assert other.weights["kl"] == 0.25
    total(other)
    assert other.metrics(include=["controller"]) == {"controller/kl/weight": 0.25}


def test_it_works_in_one_compiled_graph() -> None:
    graphs: list[object] = []

    def counted(graph: torch.fx.GraphModule, _: object) -> Any:
        graphs.append(graph)
        return graph

    ours = criterion()
    compiled = torch.compile(ours, backend=counted, fullgraph=True)
    for weight in (0.1, 0.3, 0.5):
        ours.set_weight("kl", weight)
        assert total(compiled) == pytest.approx(1 + 10 * weight)
    assert len(graphs) == 1


def test_with_skip_the_term_is_left_out_while_its_weight_is_0() -> None:
    ours = criterion(when_zero="skip")
    assert ours.is_active("kl")
    ours.set_weight("kl", 0)
    assert not ours.is_active("kl")
    assert ours(losses(a=1.0)) == 1.0
    assert ours(losses(a=1.0, kl=float("nan"))) == 1.0
    loaded = criterion(when_zero="skip")
    loaded.load_state_dict(ours.state_dict())
    assert not loaded.is_active("kl")
    ours.set_weight("kl", 1e-3)
    assert ours.is_active("kl")


@pytest.mark.parametrize("wrong", [-0.1, 1.5, float("nan"), float("inf"), "0.3", None, True])
def test_a_weight_outside_of_the_bounds_is_refused(wrong: Any) -> None:
    ours = WeightedLoss({"a": 1.0, "kl": Manual(initial=0.1, highest=1.0)})
    with pytest.raises(ValueError, match=r"'kl' is a number from 0 to 1, found"):
        ours.set_weight("kl", wrong)
    assert ours.weights["kl"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("term", "why"),
    [
        (2.0, "it is a constant: write {kind: manual, initial: 2} at terms.kl"),
        ({"kind": "warmup", "over": "3 steps"}, "'warmup' sets it"),
        ({"kind": "pid", "target": 3.0}, "'pid' sets it"),
        (lambda step: 1.0, "'function' sets it"),
    ],
)
def test_for_other_terms_the_error_says_what_to_write(term: Any, why: str) -> None:
    with pytest.raises(ValueError, match="cannot be set") as error:
        WeightedLoss({"a": 1.0, "kl": term}).set_weight("kl", 0.5)
    assert why in str(error.value)
    with pytest.raises(ValueError, match="did you mean 'kl'"):
        WeightedLoss({"a": 1.0, "kl": term}).set_weight("k", 0.5)


def test_weights_cannot_be_changed_silently() -> None:
    ours = criterion()
    with pytest.raises(AttributeError, match="set_weight"):
        ours.weights = {"kl": 0.5}
    changes: list[Callable[[dict[str, float]], object]] = [
        lambda weights: weights.__setitem__("kl", 0.5),
        lambda weights: weights.__delitem__("kl"),
        lambda weights: weights.__ior__({"kl": 0.5}),
        lambda weights: weights.update(kl=0.5),
        lambda weights: weights.setdefault("other", 0.5),
        lambda weights: weights.pop("kl"),
        lambda weights: weights.popitem(),
        lambda weights: weights.clear(),
    ]
    for change in changes:
        with pytest.raises(TypeError, match="set_weight"):
            change(ours.weights)
    # It is a dict in every other way.
    weights = ours.weights
    for copied in (dict(weights), copy.deepcopy(weights), pickle.loads(pickle.dumps(weights))):
        copied["kl"] = 1.0
    assert json.loads(json.dumps(weights)) == weights == ours.weights


def test_what_would_do_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"terms.kl: a weight of 2 .* write it as `initial`"):
        WeightedLoss({"kl": {"weight": 2, "controller": "manual"}})
    with pytest.raises(ConfigError, match="observes nothing, found source: a"):
        WeightedLoss({"kl": {"kind": "manual", "source": "a"}})


def test_skip_is_refused_for_a_controller_that_would_never_see_its_term_again() -> None:
    watched = {"kind": "lagrangian", "at_most": 5.0}
    with pytest.raises(ConfigError, match=r"terms.size: when_zero: skip would leave the term out"):
        WeightedLoss({"a": 1.0, "size": {"controller": watched, "when_zero": "skip"}})
    ours = WeightedLoss(
        {"a": 1.0, "size": {"controller": watched | {"source": "rank"}, "when_zero": "skip"}}
    )
    assert not ours.is_active("size")
    assert ours(losses(a=1.0)) == 1.0
    ours.observe(rank=50.0)
    ours.step()
    assert ours.is_active("size")
    assert ours.weights["size"] > 0


@pytest.mark.parametrize("sources", [("a", None), ("b", "a")], ids=["itself", "each other"])
def test_skip_is_refused_if_all_that_is_observed_is_left_out(sources: tuple[str, str]) -> None:
    terms = {
        name: {
            "controller": {"kind": "pid", "target": 1.0, "response": "9 steps", "source": source},
            "when_zero": "skip",
        }
        for name, source in zip("ab", sources, strict=True)
        if source
    }
    with pytest.raises(ConfigError, match=r"terms.[ab]: when_zero: skip .* for good, because"):
        WeightedLoss({"c": 1.0, "b": 1.0, **terms})


def test_it_observes_nothing_and_needs_no_clock() -> None:
    ours = criterion()
    for _ in range(300):
        ours(losses(a=1.0, kl=1.0))
    assert not ours.adaptive.observes
    assert "set by hand" in ours.describe()


def test_evaluation_uses_the_initial_weight() -> None:
    ours = criterion()
    ours.set_weight("kl", 0.7)
    ours.eval()
    assert total(ours) == pytest.approx(2.0)
