"""Training loops: accumulation, clipping, line searches, hooks, optimizers in the backward pass."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.setups.models import (
    BASE,
    Model,
    Of,
    assert_right,
    criterion,
    model,
    right,
    rows,
    weights,
)

OF = pytest.mark.parametrize("of", ["features", "parameters"])


@OF
def test_accumulation_weighs_each_micro_batch_by_itself(of: Of) -> None:
    trained, found, count = model(), criterion(), 4
    expected = [right(trained, rows(seed), of) for seed in range(count)]
    for seed in range(count):
        terms, features = trained(rows(seed))
        total = found(terms, shared=trained.shared(features, of))
        so_far = expected[: seed + 1]  # `metrics` shows the step, as far as it went
        means_so_far = {name: sum(e.weights[name] for e in so_far) / len(so_far) for name in BASE}
        assert weights(found) == pytest.approx(means_so_far, rel=1e-5)
        (total / count).backward()
    means = {
        name: torch.stack([each.gradients[name] for each in expected]).mean(dim=0)
        for name in expected[0].gradients
    }
    for name, parameter in trained.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad.double(), means[name], rtol=1e-4, atol=1e-5)
    found.step()
    standing = {
        name: sum(each.weights[name] for each in expected) / count for name in BASE
    }  # what stands where no gradients are taken
    with found.freeze():
        terms, _ = trained(rows())
        found(terms)
    assert weights(found) == pytest.approx(standing, rel=1e-5)


def test_clipping_sees_the_gradient_of_the_weighted_sum() -> None:
    trained, found = model(), criterion()
    terms, features = trained(rows())
    found(terms, shared=features).backward()
    exact = right(trained, rows(), "features").gradients
    length = torch.nn.utils.clip_grad_norm_(trained.parameters(), max_norm=0.1)
    assert float(length) == pytest.approx(
        float(torch.cat([g.reshape(-1) for g in exact.values()]).norm()), rel=1e-5
    )


@OF
def test_zero_grad_before_or_after_the_forward_pass(of: Of) -> None:
    trained, found = model(), criterion()
    terms, features = trained(rows())
    total = found(terms, shared=trained.shared(features, of))
    assert all(parameter.grad is None for parameter in trained.parameters())
    trained.zero_grad()
    total.backward()
    assert_right(found, trained, right(trained, rows(), of))


@OF
def test_lbfgs_searches_along_one_function_while_weights_are_frozen(of: Of) -> None:
    trained, found, batch = model(), criterion(), rows()
    optimizer = torch.optim.LBFGS(trained.parameters(), line_search_fn="strong_wolfe", max_iter=8)
    found.follow(optimizer)
    for step in range(3):
        terms, features = trained(batch)
        first = found(terms, shared=trained.shared(features, of))  # the weights of this step
        standing, seen = weights(found), []

        def closure() -> Tensor:
            optimizer.zero_grad()
            total: Tensor = found(trained(batch)[0])
            total.backward()  # type: ignore[no-untyped-call]
            seen.append((weights(found), float(total.detach())))  # noqa: B023
            return total

        with found.freeze():
            optimizer.step(closure)  # type: ignore[no-untyped-call]
        assert len(seen) > 2
        assert all(each == pytest.approx(standing) for each, _ in seen)
        assert seen[0][1] == pytest.approx(float(first.detach()))
        assert min(total for _, total in seen) < float(first.detach())
        assert found.current_step == step + 1
    terms, features = trained(batch)
    found(terms, shared=trained.shared(features, of))
    assert weights(found) == pytest.approx(right(trained, batch, of).weights, rel=1e-4)


def test_lbfgs_with_plain_heads_gives_what_is_shared_in_the_closure() -> None:
    trained, found = model(), criterion(heads="plain")
    terms, features = trained(rows())
    found(terms, shared=features)
    with found.freeze(), pytest.raises(ValueError, match="give what they share"):
        found(trained(rows())[0])


@pytest.mark.parametrize("of_hook", ["heads", "trunk"])
@OF
def test_backward_hooks_of_modules_in_the_heads_are_called_in_the_forward_pass_too(
    of: Of, of_hook: str
) -> None:
    trained, found, calls = model(), criterion(), []
    part = trained.heads.a if of_hook == "heads" else trained.trunk

    def note(*_: Any) -> None:
        calls.append(1)

    part.register_full_backward_hook(note)
    terms, features = trained(rows().requires_grad_())
    total = found(terms, shared=trained.shared(features, of))
    before = len(calls)
    total.backward()
    assert_right(found, trained, right(trained, rows(), of))
    assert len(calls) == before + 1
    # Head a has one term. That of the trunk waits for the gradient of the input, which nobody
    # asks for in the forward pass.
    assert before == (1 if of_hook == "heads" else 0)


def test_hooks_that_change_gradients_are_part_of_them() -> None:
    def grow(_: nn.Module, given: Any, __: Any) -> Any:
        return (10 * given[0],)

    plain, hooked = model(), model()
    hooked.heads.a.register_full_backward_hook(grow)
    found, others = criterion(), criterion()
    terms, features = plain(rows())
    others(terms, shared=features)
    terms, features = hooked(rows())
    found(terms, shared=features)
    assert weights(found)["a"] == pytest.approx(weights(others)["a"] / 10)
    assert weights(found)["b"] == pytest.approx(weights(others)["b"])


@OF
def test_an_optimizer_in_the_backward_pass_steps_once(of: Of) -> None:
    trained, found, steps = model(), criterion(), []

    def step(parameter: Tensor) -> None:
        steps.append(parameter)

    for parameter in trained.parameters():
        parameter.register_post_accumulate_grad_hook(step)  # type: ignore[no-untyped-call]
    terms, features = trained(rows())
    total = found(terms, shared=trained.shared(features, of))
    assert steps == []
    total.backward()
    assert len(steps) == len(list(trained.parameters()))


class Layers(Model):
    """With all that changes in a forward pass: dropout and statistics of batches."""

    def __init__(self) -> None:
        super().__init__()
        self.load_state_dict(model().state_dict())
        self.norm, self.dropout = nn.BatchNorm1d(5), nn.Dropout()

    def forward(self, batch: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        features = self.trunk(batch)
        return self.heads(self.dropout(self.norm(features)), batch), features


@OF
def test_dropout_and_batch_norm_go_through_one_forward_pass(of: Of) -> None:
    weighed, plain = Layers(), Layers()
    for trained in (weighed, plain):
        torch.manual_seed(0)
        terms, features = trained(rows())
        if trained is weighed:
            found = criterion()
            total = found(terms, shared=trained.shared(features, of))
        else:
            total = sum(weights(found)[name] * terms[name] for name in BASE)
        total.backward()
    torch.testing.assert_close(weighed.norm.state_dict(), plain.norm.state_dict())
    for mine, theirs in zip(weighed.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_saved_tensors_may_live_elsewhere() -> None:
    trained, found = model(), criterion()
    with torch.autograd.graph.save_on_cpu():
        terms, features = trained(rows())
        found(terms, shared=features).backward()
    assert_right(found, trained, right(trained, rows(), "features"))


def test_a_second_criterion_takes_gradients_of_the_same_graph() -> None:
    trained, first = model(), criterion()
    second = copy.deepcopy(first)
    terms, features = trained(rows())
    total = first(terms, shared=features) + second(terms, shared=trained.trunk.parameters())
    total.backward()
    expected = [right(trained, rows(), of) for of in ("features", "parameters")]
    for found, each in zip((first, second), expected, strict=True):
        assert weights(found) == pytest.approx(each.weights, rel=1e-5)
    bias = trained.trunk.second.bias.grad
    assert bias is not None
    exact = sum(each.gradients["trunk.second.bias"] for each in expected)
    torch.testing.assert_close(bias.double(), exact, rtol=1e-4, atol=1e-5)


def test_anomaly_detection() -> None:
    trained, found = model(), criterion()
    with pytest.warns(UserWarning, match="Anomaly"):
        anomalies = torch.autograd.detect_anomaly()
    with anomalies:
        terms, features = trained(rows())
        found(terms, shared=features).backward()
    assert_right(found, trained, right(trained, rows(), "features"))
