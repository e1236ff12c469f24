"""Groups: their value, their weights and metrics, against the nested sum written by hand."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

from lossweights import History, Ramp, Term, WeightedLoss
from tests.small_components import Offset, leaf

RAMP = Ramp(start=0.0, stop=1.0, over="4 steps")
INNER = Term(weight=3.0, terms={"x": 1.0, "y": Term(weight=0.5, schedule=RAMP)})
TERMS: dict[str, Any] = {
    "task": 2.0,
    "deep": Term(weight=0.5, schedule=RAMP, terms={"b": 1.0, "a": 4.0, "inner": INNER}),
}
VALUES = {"task": 1.0, "a": 2.0, "b": 3.0, "x": 4.0, "y": 5.0}


def given(values: dict[str, float] = VALUES) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The terms, and the leaves by their short names."""
    leaves = {name: leaf(value) for name, value in values.items()}
    inner = {"y": leaves["y"], "x": leaves["x"]}
    deep = {"a": leaves["a"], "inner": inner, "b": leaves["b"]}
    return {"deep": deep, "task": leaves["task"]}, leaves


def flat(values: dict[str, float] = VALUES) -> dict[str, Tensor]:
    _, leaves = given(values)
    names = {"task": "task", "a": "deep/a", "b": "deep/b", "x": "deep/inner/x", "y": "deep/inner/y"}
    return {names[name]: value for name, value in leaves.items()}


def by_hand(step: int, values: dict[str, float] = VALUES) -> tuple[float, dict[str, float]]:
    """The value of `deep`, and the weights of the leaves."""
    ramp, outer = min(step / 4, 1.0), 0.5 * min(step / 4, 1.0)
    own = {"b": 1.0, "a": 4.0, "x": 3.0, "y": 1.5 * ramp}
    value = sum(weight * values[name] for name, weight in own.items())
    return value, {"task": 2.0} | {name: outer * weight for name, weight in own.items()}


@pytest.mark.parametrize("step", [0, 1, 3, 9])
@pytest.mark.parametrize("is_flat", [False, True])
def test_the_total_and_its_gradients_are_those_of_the_nested_sum(step: int, is_flat: bool) -> None:
    criterion = WeightedLoss(TERMS)
    criterion.set_step(step)
    terms, leaves = given()
    if is_flat:
        terms = flat()
        leaves = {name.rpartition("/")[2]: value for name, value in terms.items()}
    total = criterion(terms)
    _, weights = by_hand(step)
    assert total.item() == pytest.approx(sum(weights[n] * VALUES[n] for n in weights))
    total.backward()
    for name, weight in weights.items():
        grad = leaves[name].grad
        assert grad is not None
        assert grad.item() == pytest.approx(weight)


def test_metrics_have_groups_and_members_that_add_up() -> None:
    criterion = WeightedLoss(TERMS)
    criterion.set_step(2)
    criterion(given()[0])
    metrics = criterion.metrics()
    value, weights = by_hand(2)
    assert metrics["value/deep"] == metrics["raw/deep"] == pytest.approx(value)
    assert metrics["weight/deep"] == 0.25
    assert metrics["weight/deep/inner"] == 0.75
    assert metrics["weight/deep/inner/y"] == pytest.approx(weights["y"])
    for quantity in ("weighted", "share"):
        inner = metrics[f"{quantity}/deep/inner/x"] + metrics[f"{quantity}/deep/inner/y"]
        assert metrics[f"{quantity}/deep/inner"] == pytest.approx(inner)
        deep = sum(metrics[f"{quantity}/deep/{name}"] for name in ("a", "b", "inner"))
        assert metrics[f"{quantity}/deep"] == pytest.approx(deep)
    assert metrics["total"] == pytest.approx(metrics["weighted/task"] + metrics["weighted/deep"])
    order = [name for name in metrics if name.startswith("raw/")]
    assert order == [f"raw/{name}" for name in criterion.config.all_terms]


def test_breakdown_report_weights_and_metrics_agree() -> None:
    criterion = WeightedLoss(TERMS)
    criterion.set_step(3)
    breakdown, total = criterion.breakdown(given()[0]), criterion(given()[0])
    assert torch.equal(breakdown.total, total)
    found = {name: value.item() for name, value in breakdown.metrics().items()}
    assert found == pytest.approx(criterion.metrics())
    assert {f"weight/{name}": weight for name, weight in criterion.weights.items()} == (
        pytest.approx({n: w for n, w in found.items() if n.startswith("weight/")})
    )
    assert "deep/inner/x" in str(criterion.report())


def test_the_parts_of_several_forward_passes_are_means() -> None:
    terms: dict[str, Any] = {"g": Term(terms={"a": 1.0, "b": Term(weight=2.0, optional=True)})}
    criterion = WeightedLoss(terms)
    criterion({"g": {"a": leaf(1.0), "b": leaf(2.0)}})
    criterion({"g": {"a": leaf(3.0)}})
    metrics = criterion.metrics()
    assert metrics["value/g/b"] == 2.0  # of the pass in which it was given
    assert metrics["weighted/g/b"] == 2.0  # over both
    assert metrics["value/g"] == (1.0 + 4.0 + 3.0) / 2
    assert metrics["weighted/g"] == metrics["weighted/g/a"] + metrics["weighted/g/b"]


def test_a_history_has_rows_of_members() -> None:
    criterion = WeightedLoss(TERMS)
    history = History(criterion, every="2 steps")
    for _ in range(4):
        criterion(given()[0])
        criterion.step()
    assert history["value/deep"].tolist() == pytest.approx(
        [sum(by_hand(step)[0] for step in steps) / 2 for steps in ((0, 1), (2, 3))]
    )
    assert history.terms == tuple(criterion.config.all_terms)


def test_a_group_has_one_weight_of_a_balancer() -> None:
    def criterion(terms: dict[str, Any]) -> WeightedLoss:
        return WeightedLoss(terms, balancer={"kind": "dwa", "every": "1 steps"})

    grouped = criterion({"a": 1.0, "g": Term(weight=2.0, terms={"x": 1.0, "y": 3.0})})
    alone = criterion({"a": 1.0, "g": 2.0})
    for step in range(6):
        x, y, a = (torch.tensor(float(v)) for v in (1 + step, 8 - step, 2.0**step))
        total, expected = grouped({"a": a, "g": {"x": x, "y": y}}), alone({"a": a, "g": x + 3 * y})
        assert total.item() == pytest.approx(expected.item(), rel=1e-6)
        grouped.step()
        alone.step()
    assert grouped.weights["g/y"] == 3 * grouped.weights["g"]
    assert grouped.weights["g"] == pytest.approx(alone.weights["g"], rel=1e-6)
    assert grouped.weights["g"] != 2.0
    assert grouped.adaptive._names == ("a", "g")


def test_a_learned_variance_for_each_group() -> None:
    terms: dict[str, Any] = {"{seg,det}": {"terms": {"x": 1.0, "y": 0.5}}}
    criterion = WeightedLoss(terms, balancer="uncertainty")
    total = criterion({name: {"x": leaf(2.0), "y": leaf(4.0)} for name in ("seg", "det")})
    total.backward()
    (log_variance,) = criterion.parameters()
    assert total.item() == 4.0  # two groups of value 4, halved
    assert log_variance.grad is not None
    assert log_variance.grad.tolist() == [-1.5, -1.5]  # 1/2 - 1/2 * 4
    metrics = criterion.metrics()
    assert metrics["weight/det/y"] == 0.25
    assert not any(name.startswith("penalty/det/") for name in metrics)


def test_a_balancer_by_gradients_sees_the_gradient_of_the_sum() -> None:
    terms: dict[str, Any] = {"a": 1.0, "g": Term(terms={"x": 1.0, "y": 2.0})}
    grouped = WeightedLoss(terms, balancer="norm-balance")
    alone = WeightedLoss(["a", "g"], balancer="norm-balance")
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    features = x * 1.0
    a, one, two = features.sum(), (features**2).sum(), features[0]
    total = grouped({"a": a, "g": {"x": one, "y": two}}, shared=features)
    expected = alone({"a": a, "g": one + 2 * two}, shared=features)
    assert total.item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_controller_steers_a_group() -> None:
    kl = Term(controller={"kind": "pid", "target": 1.0, "response": "10 steps"}, terms=["q", "p"])
    criterion = WeightedLoss({"nll": 1.0, "kl": kl})
    for _ in range(3):
        criterion({"nll": leaf(1.0), "kl": {"q": leaf(2.0), "p": leaf(3.0)}})
        criterion.step()
    assert criterion.weights["kl"] > 0
    assert criterion.weights["kl/q"] == criterion.weights["kl"]
    assert criterion.metrics()["controller/kl/error"] == 1.0 - 5.0


def test_transforms_and_reductions_of_members() -> None:
    terms: dict[str, Any] = {
        "g": Term(terms={"x": Term(weight=2.0, transform=Offset(), reduction="mean"), "y": 1.0})
    }
    criterion = WeightedLoss(terms)
    total = criterion({"g": {"x": torch.tensor([3.0, 5.0]), "y": leaf(1.0)}})
    metrics = criterion.metrics()
    assert (metrics["raw/g/x"], metrics["value/g/x"]) == (4.0, 3.0)
    assert total.item() == metrics["raw/g"] == 2 * 3.0 + 1.0


def test_an_adaptive_transform_of_a_member_learns_and_is_saved() -> None:
    terms: dict[str, Any] = {"a": 1.0, "g": {"terms": {"x": {"transform": "relative"}, "y": 1.0}}}

    def train(criterion: WeightedLoss, steps: range) -> list[float]:
        totals = []
        for step in steps:
            x, y = torch.tensor(2.0 + step), torch.tensor(1.0)
            totals.append(criterion({"a": y, "g": {"x": x, "y": y}}).item())
            criterion.step()
        return totals

    whole, first, second = (WeightedLoss(terms) for _ in range(3))
    expected = train(whole, range(6))
    found = train(first, range(3))
    second.load_state_dict(first.state_dict())
    assert found + train(second, range(3, 6)) == expected
    assert any("g/x" in key for key in first.state_dict())
    assert whole.metrics()["raw/g/x"] == 7.0


def test_a_checkpoint_of_other_members_is_refused_by_name() -> None:
    saved = WeightedLoss({"g": {"terms": ["x", "y"]}}).state_dict()
    with pytest.raises(RuntimeError, match="terms.g/z"):
        WeightedLoss({"g": {"terms": ["x", "y", "z"]}}).load_state_dict(saved)


def test_members_may_be_absent_and_whole_groups() -> None:
    group = Term(
        optional=True,
        terms={"x": 1.0, "y": Term(weight=2.0, optional=True), "z": Term(optional=True)},
    )
    criterion = WeightedLoss({"a": 1.0, "g": group})
    a, x, y = leaf(1.0), leaf(2.0), leaf(3.0)
    assert criterion({"a": a, "g": {"x": x, "y": y}}).item() == 9.0
    assert criterion({"a": a, "g": {"x": x}}).item() == 3.0
    assert criterion({"a": a, "g/x": x, "g/y": None}).item() == 3.0
    for absent in ({}, None, {"x": None, "y": None}):
        assert criterion({"a": a, "g": absent}).item() == 1.0
        assert criterion({"a": a} | ({} if absent is None else {"g": absent})).item() == 1.0
    assert criterion({"a": a}).item() == 1.0
    with pytest.raises(ValueError, match="term 'g/x' is missing"):
        criterion({"a": a, "g": {"y": y}})


def test_a_group_whose_members_are_all_optional_may_be_absent() -> None:
    criterion = WeightedLoss({"a": 1.0, "g": Term(terms={"x": Term(optional=True)})})
    assert criterion({"a": leaf(1.0)}).item() == criterion({"a": leaf(1.0), "g": {}}).item() == 1.0
    assert "raw/g" not in criterion.metrics()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"deep": None}, "term 'deep' is missing"),
        ({"deep": leaf(1.0)}, r"'deep' is a group, whose members .* \{'deep': \{'b': b, 'a': a"),
        ({"deep": [leaf(1.0)]}, "'deep' is a group, .* found list"),
        ({"deep/c": leaf(1.0)}, "'deep/c' is not a term of this loss"),
        ({"deep/a": leaf(1.0)}, "term 'deep/a' is given twice"),
        ({"deep": {"a": leaf(1.0), "b": leaf(1.0)}}, "term 'deep/inner' is missing"),
        (
            {"deep": {"a": leaf(1.0), "b": leaf(1.0), "inner": {"x": leaf(1.0), "z": leaf(1.0)}}},
            "'z' is not a member of 'deep/inner'; did you mean|term 'deep/inner/y' is missing",
        ),
        (
            {"deep": {"a": torch.ones(2), "b": leaf(1.0), "inner": given()[0]["deep"]["inner"]}},
            r"term 'deep/a' has shape \(2,\).* terms.deep/a",
        ),
    ],
)
def test_wrong_terms_are_explained(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WeightedLoss(TERMS)(given()[0] | change)


def test_a_value_beside_the_members_can_be_ignored() -> None:
    criterion = WeightedLoss({"g": {"terms": ["x"]}}, ignore=["g/acc*"])
    assert criterion({"g": {"x": leaf(2.0), "accuracy": 0.5}}).item() == 2.0
    with pytest.raises(ValueError, match=r"'other' is not a member of 'g'.*ignore: \[g/other\]"):
        criterion({"g": {"x": leaf(2.0), "other": 0.5}})


def test_a_dormant_group_and_a_dormant_member() -> None:
    late = Term(after="4 steps", terms={"x": 1.0, "y": Term(after="8 steps")})
    criterion = WeightedLoss({"a": 1.0, "g": late})
    a, x, y = leaf(1.0), leaf(2.0), leaf(4.0)
    assert criterion({"a": a}).item() == 1.0
    assert not criterion.is_active("g")
    assert not criterion.is_active("g/x")
    criterion.set_step(4)
    assert criterion({"a": a, "g": {"x": x}}).item() == 3.0
    assert criterion.is_active("g/x")
    assert not criterion.is_active("g/y")
    criterion.set_step(8)
    assert criterion({"a": a, "g": {"x": x, "y": y}}).item() == 7.0
    with pytest.raises(ValueError, match="no term is called 'g/z'; did you mean 'g/"):
        criterion.is_active("g/z")


@pytest.mark.parametrize("where", ["g", "g/x"])
def test_what_is_skipped_is_left_out(where: str) -> None:
    terms: dict[str, Any] = {"a": 1.0, "g": {"terms": {"x": 1.0, "y": 2.0}}}
    criterion = WeightedLoss(terms)
    config = criterion.config.override({f"{where}.weight": 0.0, f"{where}.when_zero": "skip"})
    criterion = WeightedLoss(config)
    x, y = leaf(float("nan")), leaf(3.0)
    total = criterion({"a": leaf(1.0), "g": {"x": x, "y": y}})
    total.backward()
    assert total.item() == (1.0 if where == "g" else 7.0)
    assert x.grad is None
    assert criterion.metrics()["weighted/g/x"] == 0.0
    assert criterion.metrics()["total"] == total.item()
    assert not criterion.is_active("g/x")
    assert criterion.is_active("g/y") == (where == "g/x")


def test_evaluation_uses_final_weights_of_members() -> None:
    criterion = WeightedLoss(TERMS).eval()
    terms, _ = given()
    value, _ = by_hand(4)
    assert criterion(terms).item() == pytest.approx(2.0 + 0.5 * value)
    table = WeightedLoss(TERMS, eval_weights={"deep": 1.0, "deep/inner/y": 0.0}).eval()
    assert table(terms).item() == pytest.approx(2.0 + 3.0 + 8.0 + 3.0 * 4.0)
    assert not table.is_active("deep/inner/y")
    assert table(
        {"task": terms["task"], "deep/a": leaf(2.0), "deep/b": leaf(3.0), "deep/inner/x": leaf(4.0)}
    ).item() == pytest.approx(25.0)
    current = WeightedLoss(TERMS, eval_weights="current").eval()
    assert current(terms).item() == 2.0
    assert not current.is_active("deep/a")


@pytest.mark.parametrize("rule", ["raise", "skip_term"])
def test_a_member_that_is_not_finite(rule: Any) -> None:
    criterion = WeightedLoss({"a": 1.0, "g": {"terms": {"x": 1.0, "y": 2.0}}}, on_nonfinite=rule)
    terms: dict[str, Any] = {"a": leaf(1.0), "g": {"x": leaf(float("nan")), "y": leaf(3.0)}}
    if rule == "raise":
        with pytest.raises(FloatingPointError, match="term 'g/x' is nan"):
            criterion(terms)
        return
    assert criterion(terms).item() == 7.0
    assert "raw/g/x" not in criterion.metrics()
    assert criterion({"a": leaf(1.0), "g": {n: leaf(float("inf")) for n in "xy"}}).item() == 1.0


def test_a_group_whose_passes_are_parts_of_a_sum() -> None:
    terms: dict[str, Any] = {"a": 1.0, "g": {"accumulates": "sum", "terms": {"x": 1.0, "y": 2.0}}}
    criterion = WeightedLoss(terms)
    for x, y in ((1.0, 2.0), (3.0, 4.0)):
        criterion({"a": leaf(5.0), "g": {"x": leaf(x), "y": leaf(y)}})
    metrics = criterion.metrics()
    assert metrics["value/g"] == 4.0 + 12.0
    assert (metrics["value/g/x"], metrics["value/g/y"]) == (4.0, 6.0)
    assert metrics["weighted/g"] == metrics["weighted/g/x"] + metrics["weighted/g/y"] == 16.0


def test_findings_name_members() -> None:
    terms: dict[str, Any] = {
        "a": 1.0,
        "g": {"terms": {"x": 1.0, "y": {"optional": True}, "z": 0.0, "w": {"optional": True}}},
    }
    criterion = WeightedLoss(terms)
    for _ in range(3):
        criterion({"a": leaf(1.0), "g": {"x": torch.tensor(2.0), "y": leaf(1.0), "z": leaf(1.0)}})
        criterion.step()
    findings = criterion.audit()
    assert [text.split(" ")[1] for text in findings] == ["'g/x'", "'g/z'", "'g/w'"]
    assert "carries no gradient" in findings[0]
    assert "weight of 0 for the whole training" in findings[1]
    assert "was never given" in findings[2]
    for _ in range(20):
        criterion({"a": leaf(1.0), "g": {"x": leaf(2.0), "z": leaf(1.0)}})
        criterion.step()
    assert any("'g/y' was given before" in text for text in criterion.audit())


def test_describe_indents_members_below_their_group() -> None:
    lines = WeightedLoss(TERMS).describe().splitlines()[2:]
    assert [
        line.split("  ")[0] or line[: len(line) - len(line.lstrip())] for line in lines[:2]
    ] == [
        "task",
        "deep",
    ]
    assert [len(line) - len(line.lstrip()) for line in lines] == [0, 0, 2, 2, 2, 4, 4]
    assert lines[1].endswith("the sum of 3 members")


def test_copies_and_pickles_have_groups() -> None:
    criterion = WeightedLoss(TERMS, balancer="uncertainty")
    criterion.set_step(2)
    expected = criterion(given()[0])
    for other in (copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion))):
        assert torch.equal(other(given()[0]), expected)
        assert other.metrics() == criterion.metrics()


def test_members_in_float64() -> None:
    criterion = WeightedLoss(TERMS)
    criterion.set_step(4)
    terms, _ = given()
    terms["deep"]["a"] = torch.tensor(1e-9, dtype=torch.float64)
    total = criterion(terms)
    assert total.dtype is torch.float64
    assert total.item() == pytest.approx(2.0 + 0.5 * (3.0 + 4e-9 + 12.0 + 7.5), rel=1e-12)


def test_one_graph_for_a_training_with_groups() -> None:
    torch._dynamo.reset()
    criterion, eager = WeightedLoss(TERMS), WeightedLoss(TERMS)
    graphs = 0

    def backend(graph: Any, inputs: Any) -> Any:
        nonlocal graphs
        graphs += 1
        return graph.forward

    def total(x: Tensor, criterion: WeightedLoss) -> Tensor:
        deep = {"a": x[0], "b": x[1], "inner": {"x": x[2], "y": x[3]}}
        return criterion({"task": x.sum(), "deep": deep})

    compiled = torch.compile(total, backend=backend, fullgraph=True)
    x = torch.arange(4.0, requires_grad=True)
    for _ in range(6):
        assert torch.allclose(compiled(x, criterion), total(x, eager))
        assert criterion.metrics() == pytest.approx(eager.metrics())
        criterion.step()
        eager.step()
    assert graphs == 1


def test_the_clock_matters_if_only_a_member_moves() -> None:
    criterion = WeightedLoss({"g": {"terms": {"x": RAMP}}})
    for _ in range(199):
        criterion({"g": {"x": leaf(1.0)}})
    with pytest.warns(UserWarning, match="the clock is at step 0"):
        criterion({"g": {"x": leaf(1.0)}})


def test_set_weight_of_a_member_is_explained() -> None:
    with pytest.raises(ValueError, match="the weight of 'deep/a' cannot be set"):
        WeightedLoss(TERMS).set_weight("deep/a", 1.0)
