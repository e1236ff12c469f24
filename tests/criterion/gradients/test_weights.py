"""Weights from gradients, through a criterion: when they are taken, and what they reach."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lossweights import ConfigError, HorizonError, State, StepContext, WeightedLoss
from lossweights.components.balancers import GradientBalancer, GramianBalancer
from lossweights.components.balancers.gradient.base import Array


class InverseNorm(GramianBalancer, kind="test-inverse-norm"):
    """1 / |g|."""

    def solve(self, gramian: Array, state: State, now: StepContext) -> Array:
        weights: Array = 1 / np.sqrt(np.diag(gramian))
        return weights


class Following(GradientBalancer, kind="test-following"):
    """The norms of the step before, and how often they were told."""

    needs = ("norms",)

    def init(self, n: int) -> State:
        return {"norms": torch.ones(n), "updates": torch.zeros(())}

    def weigh(self, losses: Tensor, state: State, now: StepContext) -> Tensor:
        return state["norms"]

    def update(self, observed: Tensor, state: State, now: StepContext) -> None:
        state["norms"].copy_(now.gradients.norms)
        state["updates"] += 1


def criterion(balancer: Mapping[str, Any] | str = "test-inverse-norm", **more: Any) -> WeightedLoss:
    return WeightedLoss(**{"terms": {"a": 1.0, "b": 1.0}, "balancer": balancer, **more})


class Model(nn.Module):
    """A trunk and two heads, whose terms differ in scale."""

    def __init__(self) -> None:
        super().__init__()
        draws = torch.Generator().manual_seed(0)
        self.trunk, self.a, self.b = (
            nn.Parameter(torch.randn(*shape, generator=draws)) for shape in ((3, 4), (4,), (4,))
        )
        self.inputs = torch.randn(8, 3, generator=draws)

    def forward(self) -> tuple[dict[str, Tensor], Tensor]:
        features = torch.tanh(self.inputs @ self.trunk)
        return {
            "a": (features @ self.a - 1).square().mean(),
            "b": 100 * (features @ self.b).square().mean(),
        }, features

    def gradients(self, loss: Tensor) -> list[Tensor]:
        parameters = [self.trunk, self.a, self.b]
        return list(
            torch.autograd.grad(
                loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
            )
        )


def norms(terms: Mapping[str, Tensor], shared: Tensor) -> list[float]:
    return [
        torch.autograd.grad(terms[name], shared, retain_graph=True)[0].norm().item()
        for name in ("a", "b")
    ]


@pytest.mark.parametrize("of", ["features", "parameters"])
def test_one_ordinary_scalar_of_weighted_terms(of: str) -> None:
    model = Model()
    terms, features = model()
    shared = features if of == "features" else model.trunk
    ours = criterion({"kind": "test-inverse-norm"})
    loss = ours(terms, shared=shared)
    expected = sum(terms[n] / norm for n, norm in zip("ab", norms(terms, shared), strict=True))
    assert loss.ndim == 0
    torch.testing.assert_close(loss, expected)
    for mine, hand in zip(model.gradients(loss), model.gradients(expected), strict=True):
        torch.testing.assert_close(mine, hand)


@pytest.mark.parametrize("of", ["features", "parameters"])
def test_plain_heads_keep_their_own_gradients(of: str) -> None:
    model = Model()
    terms, features = model()
    shared = features if of == "features" else model.trunk
    table = {"kind": "test-inverse-norm", "heads": "plain"}
    ours = criterion(table, terms={"a": 3.0, "b": 2.0})
    loss = ours(terms, shared=shared)
    weighted = sum(
        base * terms[name] / norm
        for name, base, norm in zip("ab", (3.0, 2.0), norms(terms, shared), strict=True)
    )
    torch.testing.assert_close(loss, weighted)  # the value that is reported
    trunk, a, b = model.gradients(loss * 4)  # as a gradient scaler would
    # The plain sum's gradient is changed into this one: its rounding stays.
    rounding = 1e-6 * model.gradients(terms["b"])[0].abs().max().item()
    expected = 4 * model.gradients(weighted)[0]
    torch.testing.assert_close(trunk, expected, rtol=1e-5, atol=rounding)
    torch.testing.assert_close(a, 4 * 3 * model.gradients(terms["a"])[1])
    torch.testing.assert_close(b, 4 * 2 * model.gradients(terms["b"])[2])


def test_base_weights_schedules_and_other_terms_multiply_and_add() -> None:
    model = Model()
    terms, features = model()
    terms["c"] = features.abs().mean()
    ours = criterion(
        terms={
            "a": {"weight": 2.0, "schedule": 0.5},
            "b": 4.0,
            "c": {"weight": 3.0, "balanced": False},
        }
    )
    loss = ours(terms, shared=features)
    one, two = norms(terms, features)
    torch.testing.assert_close(loss, terms["a"] / one + 4 * terms["b"] / two + 3 * terms["c"])
    weights = ours.metrics(include=["weight"])
    assert weights == pytest.approx(
        {"weight/a": 1 / one, "weight/b": 4 / two, "weight/c": 3.0}, rel=1e-5
    )


def test_terms_are_weighed_as_they_are_transformed() -> None:
    x = torch.tensor([3.0], requires_grad=True) * 1
    ours = criterion(terms={"a": {"transform": "log"}, "b": 1.0})
    loss = ours({"a": (x**2).sum(), "b": x.sum()}, shared=x)
    assert ours.metrics(include=["weight"])["weight/a"] == pytest.approx(3 / 2)  # (log x^2)' = 2/x
    assert loss.item() == pytest.approx(1.5 * 2 * np.log(3) + 3)


def test_the_balancer_is_told_the_terms_that_are_there() -> None:
    model = Model()
    terms, features = model()
    ours = criterion(terms={"a": {"optional": True}, "b": {"optional": True}})
    ours(terms, shared=features)
    ours.step()
    loss = ours({"a": terms["a"]}, shared=features)
    torch.testing.assert_close(loss, terms["a"] / norms(terms, features)[0])
    assert ours({}, shared=features) == 0


def test_between_refreshes_the_weights_stand_and_nothing_need_be_shared() -> None:
    model = Model()
    ours = criterion({"kind": "test-inverse-norm", "every": "3 steps"})
    terms, features = model()
    assert np.isnan(list(ours.weights.values())).all()
    first = ours(terms, shared=features)
    ours.step()
    assert list(ours.weights.values()) == pytest.approx([1 / n for n in norms(terms, features)])
    for _ in range(2):
        assert ours(terms).item() == pytest.approx(first.item())
        ours.step()
    with pytest.raises(ValueError, match=r"criterion\(terms, shared=features\)"):
        ours(terms)


def test_refreshes_by_the_epoch_ask_how_long_an_epoch_is() -> None:
    model = Model()
    ours = criterion({"kind": "test-inverse-norm", "every": "1 epochs"})
    terms, features = model()
    with pytest.raises(HorizonError, match="steps_per_epoch"):
        ours(terms, shared=features)
    ours.bind(steps_per_epoch=2)
    ours(terms, shared=features)
    ours.step()
    ours(terms)
    ours.step()
    with pytest.raises(ValueError, match="shared=features"):
        ours(terms)


def test_frozen_weights_are_those_of_the_last_forward_pass() -> None:
    model = Model()
    ours = criterion()
    terms, features = model()
    ours(terms, shared=features)
    expected = sum(terms[n] / norm for n, norm in zip("ab", norms(terms, features), strict=True))
    with torch.no_grad():
        model.a.mul_(3)
    other, _ = model()
    with ours.freeze(), ours.freeze():
        torch.testing.assert_close(ours(terms), expected)
        assert ours(other) != ours(terms)
        ours.step()
        torch.testing.assert_close(ours(terms), expected)
    with pytest.raises(ValueError, match="shared=features"):
        ours(terms)


def test_freeze_of_what_has_no_gradients_does_nothing() -> None:
    ours = WeightedLoss(terms=["a"], balancer="geometric")
    with ours.freeze():
        assert ours({"a": torch.tensor(2.0)}) == 2


def test_what_update_is_told_is_the_mean_of_the_step() -> None:
    model = Model()
    ours = criterion({"kind": "test-following", "every": "2 steps"})
    terms, features = model()
    halved = {name: term / 2 for name, term in terms.items()}
    assert ours(terms, shared=features) == terms["a"] + terms["b"]
    ours(halved, shared=features)
    ours.step()
    state = ours.state_dict()
    mean = [0.75 * norm for norm in norms(terms, features)]
    assert state["adaptive.balancer.test-following.norms"].tolist() == pytest.approx(mean)
    ours(terms)
    ours.step()  # without gradients
    assert ours.state_dict()["adaptive.balancer.test-following.updates"] == 1


def test_a_gradient_that_is_not_finite_leaves_the_last_weights() -> None:
    x = torch.tensor([1.0, 0.0], requires_grad=True) * 1
    ours = criterion()
    ours({"a": 2 * x.sum(), "b": 4 * x.sum()}, shared=x)
    ours.step()
    before = ours.state_dict()
    total = ours({"a": x.sum(), "b": x.sqrt().sum()}, shared=x)  # whose gradient at 0 is inf
    root2 = 2**0.5
    assert total.item() == pytest.approx(1 / (2 * root2) + 1 / (4 * root2))
    ours.step()
    after = ours.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before if "clock." not in key)


def test_evaluation_takes_no_gradients() -> None:
    model = Model()
    terms, features = model()
    ours, current = criterion(), criterion(eval_weights="current")
    for each in (ours, current):
        each(terms, shared=features)
        each.step()
        each.eval()
    assert ours(terms) == terms["a"] + terms["b"]
    inverse = sum(terms[n] / m for n, m in zip("ab", norms(terms, features), strict=True))
    torch.testing.assert_close(current(terms), inverse)


def test_breakdown_shows_the_weights_and_records_nothing() -> None:
    model = Model()
    terms, features = model()
    ours = criterion()
    assert ours.breakdown(terms).weight["b"] == 1
    assert ours.metrics() == {}
    assert not ours.state_dict()["adaptive.gradients.fresh"].any()
    ours(terms, shared=features)
    shown = ours.breakdown(terms)
    assert shown.weight["b"].item() == pytest.approx(1 / norms(terms, features)[1])


def test_balancers_of_values_leave_shared_alone() -> None:
    x = torch.ones(2, requires_grad=True)
    ours = WeightedLoss(terms=["a", "b"], balancer="geometric")
    assert ours({"a": x.sum(), "b": x.sum()}, shared="anything") == 2


def test_a_wrapped_function_may_return_what_is_shared() -> None:
    model = Model()
    loss_fn = criterion().wrap(model)
    terms, features = model()
    torch.testing.assert_close(loss_fn(), criterion()(terms, shared=features))


def test_terms_that_count_negatively_are_refused_by_a_gramian() -> None:
    with pytest.raises(ConfigError, match="term 'a' has a negative weight.*balanced: false"):
        criterion(terms={"a": -1.0, "b": 1.0})
    falling = {"kind": "ramp", "start": 1, "stop": -1, "over": "10 steps"}
    with pytest.raises(ConfigError, match=r"term 'a': its weight goes down to -1.*conflict"):
        criterion(terms={"a": falling, "b": 1.0}, total_steps=20)
    criterion("test-following", terms={"a": -1.0, "b": 1.0})  # a norm has no sign


def test_a_class_says_what_it_needs() -> None:
    with pytest.raises(TypeError, match=r"needs names the statistics .* found \('norm',\)"):

        class Misspelt(GradientBalancer, kind="test-misspelt"):
            needs = ("norm",)  # type: ignore[assignment]

            def weigh(self, losses: Tensor, state: State, now: StepContext) -> Tensor:
                return losses


def test_a_balancer_of_values_is_told_of_no_gradients() -> None:
    with pytest.raises(RuntimeError, match="derive from it"):
        _ = StepContext({}).gradients


def test_weights_of_a_wrong_shape_are_refused_at_construction() -> None:
    class OfOne(GramianBalancer, kind="test-of-one"):
        def solve(self, gramian: Array, state: State, now: StepContext) -> Array:
            return np.ones(1)

    with pytest.raises(ConfigError, match=r"balancer: weigh\(\) of OfOne returns shape \(1,\)"):
        criterion("test-of-one")


@pytest.mark.parametrize("way", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
def test_a_copy_goes_on_by_itself(way: Any) -> None:
    model = Model()
    terms, features = model()
    ours = criterion({"kind": "test-following"})
    ours(terms, shared=features)
    other = way(ours)
    for each in (ours, other):
        each.step()
    assert torch.equal(ours(terms, shared=features), other(terms, shared=features))
    other.step()
    assert other.current_step == 2
    assert ours.current_step == 1


def test_state_is_mapped_by_name_where_terms_were_added() -> None:
    model = Model()
    terms, features = model()
    ours = criterion("test-following")
    ours(terms, shared=features)
    ours.step()
    more = criterion("test-following", terms=["a", "aa", "b"])
    more.load_state_dict(ours.state_dict(), strict=False)
    state = more.state_dict()
    one, two = norms(terms, features)
    assert state["adaptive.balancer.test-following.norms"].tolist() == pytest.approx([one, 1, two])
    assert state["adaptive.gradients.weights"].tolist() == [1, 1, 1]


def test_plain_heads_in_double_precision() -> None:
    """Of terms that are a million times apart."""
    x = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    features = x * 1
    terms = {"a": features[0], "b": 1e6 * features[1]}
    loss = criterion({"kind": "test-inverse-norm", "heads": "plain"})(terms, shared=features) / 3
    (gradient,) = torch.autograd.grad(loss, x)
    assert gradient.tolist() == pytest.approx([1 / 3, 1 / 3], rel=1e-7)  # weights are float32


def test_plain_heads_say_what_low_precision_costs() -> None:
    features = torch.ones(2, requires_grad=True).bfloat16()
    ours = criterion({"kind": "test-inverse-norm", "heads": "plain"})
    with pytest.warns(UserWarning, match="heads: weighted, or compute the heads in float32"):
        ours({"a": features[0], "b": features[1]}, shared=features)
    ours({"a": features[0], "b": features[1]}, shared=features)  # once


def test_plain_heads_recover_from_an_overflow_of_the_scale() -> None:
    """Under a gradient scaler, which skips the steps whose gradients are not finite."""
    model = Model()
    ours = criterion({"kind": "test-inverse-norm", "heads": "plain"})
    optimizer = torch.optim.SGD([model.trunk, model.a, model.b], lr=1e-6)
    scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    ours.follow(optimizer)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            terms, features = model()
            loss = ours({name: 50 * term for name, term in terms.items()}, shared=features)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    with pytest.warns(UserWarning, match="heads: plain"):
        step()
    for _ in range(19):
        step()
    assert ours.current_step == 20
    assert ours.state_dict()["adaptive.gradients.scale"] < 2**16
    assert max(ours.metrics(include=["weight"]).values()) != 1


def test_directions_of_plain_heads_are_gone_after_the_backward_pass() -> None:
    model = Model()
    terms, features = model()
    loss = criterion({"kind": "test-inverse-norm", "heads": "plain"})(terms, shared=features)
    loss.backward()
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_plain_heads_have_no_second_derivative() -> None:
    model = Model()
    terms, features = model()
    loss = criterion({"kind": "test-inverse-norm", "heads": "plain"})(terms, shared=features)
    with pytest.raises(RuntimeError, match="create_graph=True.: write heads: weighted"):
        torch.autograd.grad(loss, model.trunk, create_graph=True)


def test_gradients_are_taken_at_once_where_there_are_no_weights_yet() -> None:
    model = Model()
    terms, features = model()
    ours = criterion({"kind": "test-inverse-norm", "every": "10 steps"})
    ours.set_step(3)
    assert ours(terms, shared=features) != terms["a"] + terms["b"]
    ours.step()
    ours(terms)
    resumed = criterion({"kind": "test-inverse-norm", "every": "10 steps"})
    resumed.load_state_dict(ours.state_dict())
    assert torch.equal(resumed(terms), ours(terms))


def test_a_forgotten_clock_is_said() -> None:
    x = torch.ones(2, requires_grad=True)
    ours = criterion()
    for _ in range(199):
        ours({"a": x[0], "b": 2 * x[1]}, shared=x)
    with pytest.warns(UserWarning, match=r"step\(\)"):
        ours({"a": x[0], "b": 2 * x[1]}, shared=x)
    assert any("step()" in finding for finding in ours.audit())


@pytest.mark.parametrize(
    "table",
    [{"kind": "lr-annealing", "reference": "a"}, *({"kind": k} for k in ("gradnorm", "db-mtl"))]
    + [{"kind": k} for k in ("norm-balance", "mgda", "upgrad")],
    ids=lambda table: table["kind"],
)
def test_on_another_device_the_length_may_be_bound_late(table: dict[str, Any]) -> None:
    ours = criterion(table)
    ours.to("meta")
    ours.bind(total_steps=100)
    copy.deepcopy(ours).bind(total_steps=10)


def test_nothing_is_learned_by_the_optimizer() -> None:
    class Learned(Following, kind="test-learned-by-gradients"):
        def init(self, n: int) -> State:
            return {"logits": nn.Parameter(torch.zeros(n))}

    with pytest.raises(ConfigError, match="balancer: 'logits' is an nn.Parameter"):
        criterion("test-learned-by-gradients")
    with pytest.raises(TypeError, match=r"a penalty\(\) is for learned weights"):

        class Priced(Following, kind="test-priced-by-gradients"):
            def penalty(self, state: State, now: StepContext) -> Tensor:
                return state["norms"]


def test_a_copy_made_while_weights_are_frozen_is_not() -> None:
    model = Model()
    terms, features = model()
    ours = criterion()
    with ours.freeze():
        other = copy.deepcopy(ours)
    assert torch.equal(other(terms, shared=features), ours(terms, shared=features))
    with pytest.raises(ValueError, match="shared=features"):
        other(terms)


def test_gradients_are_taken_at_once_when_a_term_wakes() -> None:
    """Not at the next refresh: until then it would count 1, whatever the others do."""
    model = Model()
    terms, features = model()
    late = {"a": 1.0, "b": {"after": "2 steps"}}
    ours = criterion({"kind": "test-inverse-norm", "every": "10 steps"}, terms=late)
    ours({"a": terms["a"]}, shared=features)
    ours.step()
    ours({"a": terms["a"]})
    ours.step()
    resumed = criterion({"kind": "test-inverse-norm", "every": "10 steps"}, terms=late)
    resumed.load_state_dict(ours.state_dict())
    for each in (ours, resumed):
        each(terms, shared=features)
        expected = 1 / norms(terms, features)[1]
        assert each.metrics(include=["weight"])["weight/b"] == pytest.approx(expected)
        each.step()
        each(terms)
