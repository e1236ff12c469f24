"""Groups that drop out, and groups in evaluation."""

from typing import Any

import pytest
import torch

from lossweights import Ramp, Term, WeightedLoss
from tests.small_components import leaf

NAN, LARGE = float("nan"), 3e38


@pytest.mark.parametrize(
    ("terms", "given"),
    [
        (  # all members are skipped
            {"g": {"terms": {"x": {"kind": "warmup", "over": "4 steps"}}}},
            {"g": {"x": 2.0}},
        ),
        ({"g": {"terms": ["x", "y"]}}, {"g": {"x": NAN, "y": NAN}}),
        ({"g": {"terms": ["x", "y"]}}, {"g": {"x": LARGE, "y": LARGE}}),  # the sum is inf
        ({"g": {"terms": {"h": {"terms": ["x"]}}}}, {"g": {"h": {"x": NAN}}}),
    ],
)
def test_a_group_that_drops_out_leaves_no_members(
    terms: dict[str, Any], given: dict[str, Any]
) -> None:
    criterion = WeightedLoss({"a": 1.0} | terms, on_nonfinite="skip_term")
    if "schedule" in str(criterion.config):
        path = {"g/x.when_zero": "skip"}
        criterion = WeightedLoss(criterion.config.override(path))

    def leaves(table: Any) -> Any:
        if isinstance(table, dict):
            return {name: leaves(value) for name, value in table.items()}
        return leaf(table)

    values = {"a": leaf(1.0)} | leaves(given)
    assert criterion.breakdown(values).raw.keys() == {"a"}
    assert criterion(values).item() == 1.0
    assert {name for name in criterion.metrics() if "/g" in name} == set()


@pytest.mark.parametrize("given", [{}, {"g": {}}, {"g": None}])
def test_a_group_whose_members_end_at_0_is_not_needed_in_evaluation(given: dict[str, Any]) -> None:
    falling = Ramp(start=1.0, stop=0.0, over="4 steps")
    criterion = WeightedLoss({"a": 1.0, "g": Term(terms={"x": falling, "y": falling})}).eval()
    if given == {}:
        assert criterion({"a": leaf(2.0)}).item() == 2.0
    assert not criterion.is_active("g/x")


def test_an_empty_optional_group_in_a_compiled_graph() -> None:
    torch._dynamo.reset()
    criterion = WeightedLoss({"a": 1.0, "g": Term(optional=True, terms=["x"])})

    def total(x: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = criterion({"a": x.sum(), "g": {}})
        return loss

    x = torch.ones(3, requires_grad=True)
    assert torch.compile(total, backend="eager", fullgraph=True)(x).item() == 3.0


def test_a_resumed_clock_knows_its_last_move() -> None:
    def criterion() -> WeightedLoss:
        return WeightedLoss(["a", "b"], balancer={"kind": "mgda", "every": "10 steps"})

    def train(one: WeightedLoss, steps: range) -> list[float]:
        totals = []
        for step in steps:
            x = torch.tensor([1.0, 2.0 + step], requires_grad=True)
            totals.append(one({"a": x[0] ** 2, "b": x[1] ** 2}, shared=x).item())
            one.step(7)
        return totals

    whole, first, second = criterion(), criterion(), criterion()
    expected, found = train(whole, range(6)), train(first, range(2))
    second.load_state_dict(first.state_dict())
    assert found + train(second, range(2, 6)) == expected


def test_a_config_of_many_terms_is_read_in_linear_time() -> None:
    """Counted, not timed: how often all terms are listed does not depend on their number."""
    from lossweights.config import loss_config

    counts = []
    for n in (10, 100):
        calls, walk = [0], loss_config._walk

        def counted(*args: Any, _walk: Any = walk, _calls: list[int] = calls) -> Any:
            _calls[0] += 1
            return _walk(*args)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loss_config, "_walk", counted)
            names = [f"t{i}" for i in range(n)]
            loss_config.LossConfig.read({"terms": names, "eval_weights": dict.fromkeys(names, 1.0)})
        counts.append(calls[0])
    assert counts[0] == counts[1]


def test_a_group_whose_required_members_are_dormant_may_be_absent() -> None:
    late = Term(after="5 steps")
    terms: dict[str, Any] = {
        "a": 1.0,
        "g": Term(terms={"h": Term(terms={"x": late}), "y": Term(optional=True)}),
    }
    criterion = WeightedLoss(terms)
    assert criterion({"a": leaf(2.0)}).item() == 2.0
    criterion.set_step(5)
    with pytest.raises(ValueError, match="term 'g' is missing"):
        criterion({"a": leaf(2.0)})
