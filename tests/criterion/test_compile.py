"""`torch.compile`: one graph for a whole training, with the results of eager mode."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from lossweights import Cyclical, Ramp, Term, Warmup, WeightedLoss
from tests.small_components import Centred, Counting, Following, Offset

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def graphs_of_a_training(backend: str, terms: Any, steps: int = 120) -> int:
    """Trains compiled and eager side by side, compares them, and counts the graphs."""
    counter = CompileCounterWithBackend(backend)
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    compiled_side = WeightedLoss(terms=terms, total_steps=steps)
    eager_side = WeightedLoss(terms=terms, total_steps=steps)

    def terms_of(x: Tensor) -> dict[str, Tensor]:
        output = model(x)
        return {"nll": output.square().mean(), "kl": output.abs().mean()}

    compiled = torch.compile(lambda x: compiled_side(terms_of(x)), backend=counter, fullgraph=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    compiled_side.follow(optimizer)
    for _ in range(steps):
        x = torch.randn(4, 3)
        eager = eager_side(terms_of(x))
        total = compiled(x)
        torch.testing.assert_close(total, eager)
        expected = torch.autograd.grad(eager, model.weight)[0]
        total.backward()
        torch.testing.assert_close(model.weight.grad, expected)
        optimizer.step()
        optimizer.zero_grad()
        eager_side.step()
        assert compiled_side.metrics() == pytest.approx(eager_side.metrics(), rel=1e-5)
    assert compiled_side.current_step == steps
    assert compiled_side.audit() == eager_side.audit()
    return int(counter.frame_count)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_one_graph_while_the_weights_change(backend: str) -> None:
    assert graphs_of_a_training(backend, {"nll": 1.0, "kl": Cyclical(cycles=4)}) == 1


@pytest.mark.parametrize(
    "terms",
    [
        {"nll": 1.0, "kl": Term(schedule=Cyclical(), reduction="mean")},
        {"nll": 1.0, "kl": Warmup(over="50%", shape="sigmoid"), "rare": Term(optional=True)},
        {"nll": 1.0, "kl": Term(after="30 steps")},
    ],
    ids=["reduction", "optional", "dormant"],
)
def test_one_graph_the_long_way_too(terms: Any) -> None:
    assert graphs_of_a_training("aot_eager", terms) == 1


def test_leaving_terms_out_takes_a_graph_for_each_pattern() -> None:
    terms = {"nll": 1.0, "kl": Term(schedule=Cyclical(cycles=3), when_zero="skip")}
    assert graphs_of_a_training("aot_eager", terms) == 2


def test_evaluation_is_a_graph_of_its_own() -> None:
    counter = CompileCounterWithBackend("aot_eager")
    criterion = WeightedLoss(terms={"a": Warmup(over="100 steps")})
    compiled = torch.compile(lambda x: criterion({"a": x}), backend=counter, fullgraph=True)
    for _ in range(30):
        criterion.train()
        compiled(torch.tensor(1.0, requires_grad=True))
        criterion.step()
        criterion.eval()
        assert compiled(torch.tensor(2.0)).item() == 2.0
    assert counter.frame_count == 2


@pytest.mark.skipif(torch.__version__ < "2.9", reason="torch did not repeat what was raised")
@pytest.mark.parametrize("rule", ["raise", "skip_term"])
def test_looking_at_values_is_refused(rule: Any) -> None:
    criterion = WeightedLoss(terms=["a"], on_nonfinite=rule)
    compiled = torch.compile(lambda x: criterion({"a": x}), backend="eager", fullgraph=True)
    with pytest.raises(torch._dynamo.exc.Unsupported) as caught:
        compiled(torch.tensor(1.0, requires_grad=True))
    assert f"on_nonfinite: {rule} reads the values on the host" in str(caught.value)


@pytest.mark.parametrize("balancer", ["uncertainty", "test-shares", "test-recording"])
@pytest.mark.parametrize("reduction", [None, "mean"], ids=["short", "long"])
def test_one_graph_for_everything_that_adapts_together(balancer: str, reduction: Any) -> None:
    ramp = Ramp(start=0.0, stop=1.0, over="20 steps")
    terms: dict[str, Any] = {
        "nll": Term(schedule=Cyclical(cycles=3), reduction=reduction),
        "kl": Counting(target=ramp, source="m"),
        "l1": Term(controller=Following(target=ramp), balanced=True),
        "tv": 0.5,
    }
    if reduction:
        terms["tv"] = Term(transform=Centred())
        terms["late"] = Term(transform=Offset(offset=ramp), after="9 steps")
    counter = CompileCounterWithBackend("aot_eager")
    sides = [WeightedLoss(terms=terms, balancer=balancer, total_steps=40) for _ in range(2)]
    model = nn.Linear(3, len(terms))

    def total_of(criterion: WeightedLoss, x: Tensor) -> Tensor:
        output = model(x).square().mean(dim=0)
        total: Tensor = criterion(dict(zip(terms, output.unbind(), strict=True)))
        return total

    compiled = torch.compile(total_of, backend=counter, fullgraph=True)
    optimizers = [
        torch.optim.Adam([*side.param_groups(lr=0.1), {"params": [torch.ones(1)]}])
        for side in sides
    ]
    torch.manual_seed(0)
    for step in range(40):
        x = torch.randn(4, 3)
        for side, total, optimizer in zip(sides, (compiled, total_of), optimizers, strict=True):
            total(side, x).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
            side.observe(m=float(step))
            side.step()
        assert sides[0].metrics() == pytest.approx(sides[1].metrics(), rel=1e-4)
    assert counter.frame_count == 1 + bool(reduction)  # one more when the dormant term wakes


@pytest.mark.parametrize("balancer", ["uncertainty", "test-shares", "test-recording", None])
def test_windows_of_parts_take_one_graph(balancer: str | None) -> None:
    terms = {"ce": Term(accumulates="sum"), "kl": Term(accumulates="sum"), "l1": Term(weight=0.5)}
    counter = CompileCounterWithBackend("aot_eager")
    sides = [WeightedLoss(terms=terms, balancer=balancer) for _ in range(2)]
    model = nn.Linear(3, len(terms))

    def total_of(criterion: WeightedLoss, x: Tensor) -> Tensor:
        output = model(x).square().mean(dim=0)
        total: Tensor = criterion(dict(zip(terms, output.unbind(), strict=True)))
        return total

    compiled = torch.compile(total_of, backend=counter, fullgraph=True)
    torch.manual_seed(0)
    for step, count in enumerate((1, 3, 2, 3, 3)):
        for _ in range(count):
            x = torch.randn(4, 3)
            gradients = []
            for side, total in zip(sides, (compiled, total_of), strict=True):
                if step == 3:  # a graph of its own
                    side.divided_by = 3
                total(side, x).backward()  # type: ignore[no-untyped-call]
                gradients.append(model.weight.grad)
                model.weight.grad = None
            torch.testing.assert_close(*gradients)
        assert sides[0].metrics() == pytest.approx(sides[1].metrics(), rel=1e-5)
        for side in sides:
            side.step()
        assert sides[0].metrics() == pytest.approx(sides[1].metrics(), rel=1e-5)
    assert counter.frame_count == 2
