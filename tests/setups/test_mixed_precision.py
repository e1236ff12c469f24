"""Low precision: tiny gradients in float16, overflows, gradient scalers, bfloat16, float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch._functorch.config
from torch import Tensor, nn

from lossweights import WeightedLoss
from tests.setups.models import Model, Of, criterion, model, right, rows, weights

OF = pytest.mark.parametrize("of", ["features", "parameters"])
CALLED = pytest.mark.parametrize("called", ["within autocast", "after autocast"])


class Sized(Model):
    """All its terms are multiplied by `size`; its features may be cast to float32."""

    def __init__(self, size: float, *, cast: bool) -> None:
        super().__init__()
        self.load_state_dict(model().state_dict())
        self.size, self.cast = size, cast

    def forward(self, batch: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        features = self.trunk(batch)
        features = features.float() if self.cast else features
        terms = self.heads(features, batch)
        return {name: self.size * loss for name, loss in terms.items()}, features


def tiny() -> Sized:
    """Gradients so small that float16 would have 0 for them."""
    return Sized(1e-7, cast=True)


def autocast(dtype: torch.dtype = torch.float16) -> torch.autocast:
    return torch.autocast("cpu", dtype)


def exactly(trained: Sized, batch: Tensor, of: Of) -> dict[str, float]:
    """The weights in float64."""
    return {n: w / trained.size for n, w in right(trained, batch, of).weights.items()}


@CALLED
@OF
def test_gradients_too_small_for_float16(of: Of, called: str) -> None:
    trained, found, batch = tiny(), criterion(), rows()
    with autocast():
        terms, features = trained(batch)
        if called == "within autocast":
            found(terms, shared=trained.shared(features, of))
    if called == "after autocast":
        found(terms, shared=trained.shared(features, of))
    assert weights(found) == pytest.approx(exactly(trained, batch, of), rel=1e-2)


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # torch's own, of features
@CALLED
@OF
def test_float16_within_what_is_compiled(of: Of, called: str) -> None:
    trained, found, batch = tiny(), criterion(), rows()
    torch._dynamo.reset()
    with torch._functorch.config.patch(donated_buffer=False):
        trained.trunk.compile(backend="aot_eager")
        trained.heads.compile(backend="aot_eager")
        with autocast():
            terms, features = trained(batch)
            if called == "within autocast":
                found(terms, shared=trained.shared(features, of))
        if called == "after autocast":
            found(terms, shared=trained.shared(features, of))
    assert weights(found) == pytest.approx(exactly(trained, batch, of), rel=1e-2)


def test_they_are_0_without_the_scale() -> None:
    trained = tiny()
    with autocast():
        terms, features = trained(rows())
    assert not torch.autograd.grad(terms["a"], features)[0].any()  # so that the test above tests


@OF
def test_float16_features(of: Of) -> None:
    trained, found, batch = Sized(1e-2, cast=False), criterion(), rows()
    with autocast():
        terms, features = trained(batch)
        assert features.dtype is torch.float16
        total = found(terms, shared=trained.shared(features, of))
    assert total.dtype is torch.float32
    assert weights(found) == pytest.approx(exactly(trained, batch, of), rel=1e-2)
    total.backward()
    exact = right(trained, batch, of).gradients  # the size is out of it, as in the weights
    for name, parameter in trained.named_parameters():
        assert parameter.grad is not None
        gradient = parameter.grad.double()
        torch.testing.assert_close(gradient, exact[name], rtol=3e-2, atol=3e-2)


@CALLED
@OF
def test_bfloat16(of: Of, called: str) -> None:
    trained, found, batch = tiny(), criterion(), rows()
    with autocast(torch.bfloat16):
        terms, features = trained(batch)
        if called == "within autocast":
            found(terms, shared=trained.shared(features, of))
    if called == "after autocast":
        found(terms, shared=trained.shared(features, of))
    assert weights(found) == pytest.approx(exactly(trained, batch, of), rel=5e-2)
    found.step()
    assert (
        found.adaptive._tables["gradients"]["scale"] == 2**16
    )  # it has the range of float32, and needs none


@OF
def test_float64(of: Of) -> None:
    trained, found, batch = model().double(), criterion(), rows().double()
    terms, features = trained(batch)
    terms = {"a": (features.sum() - 1).square(), "b": features.square().sum()}
    total = found(terms, shared=trained.shared(features, of))
    assert total.dtype is torch.float64
    shared = [features] if of == "features" else list(trained.trunk.parameters())
    for name, base in (("a", 1.0), ("b", 2.0)):
        taken = torch.autograd.grad(terms[name], shared, retain_graph=True)
        length = torch.cat([part.reshape(-1) for part in taken]).norm()
        assert weights(found)[name] == pytest.approx(base / float(length), rel=1e-6)


class Steps:
    """A training with a gradient scaler, of a model whose losses can be blown up.

    Args:
        first: What the scaler of the training begins with.
    """

    def __init__(self, first: float) -> None:
        self.model, self.found = model(), criterion(terms=["a", "b"])
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-9)
        self.found.follow(self.optimizer)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=first)

    def go(self, size: float = 1e-2) -> Tensor:
        with autocast():
            terms, features = self.model(rows())
            terms = {name: size * loss for name, loss in terms.items()}
            total: Tensor = self.found(terms, shared=features)
        self.scaler.scale(total).backward()  # type: ignore[no-untyped-call]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        return total

    @property
    def own_scale(self) -> float:
        return float(self.found.adaptive._tables["gradients"]["scale"])


def test_a_gradient_scaler() -> None:
    steps = Steps(first=2.0**10)
    for number in range(3):
        assert steps.go().isfinite()
        assert steps.found.current_step == number + 1
    assert steps.own_scale == 2**16


def test_an_overflow_keeps_the_weights_lowers_the_scale_and_passes() -> None:
    steps = Steps(first=1.0)
    steps.go()
    before, overflows = weights(steps.found), 0
    while True:
        done = steps.found.current_step
        assert steps.go(size=1.0).isfinite()
        if weights(steps.found) != before:
            break
        overflows += steps.found.current_step - done  # in steps that are skipped nothing moves
        assert steps.own_scale == 2.0 ** (16 - overflows)
    assert overflows > 0
    after, kept = weights(steps.found), steps.own_scale
    assert after == pytest.approx({name: w / 100 for name, w in before.items()}, rel=2e-2)
    steps.go(size=1.0)
    assert steps.own_scale == kept
    assert weights(steps.found) == pytest.approx(after, rel=2e-2)


def test_a_step_that_the_scaler_skips_does_not_move_the_clock() -> None:
    steps = Steps(first=2.0**30)
    before = [p.detach().clone() for p in steps.model.parameters()]
    steps.go()
    assert steps.scaler.get_scale() < 2**30  # it has seen an overflow of its own
    assert steps.found.current_step == 0
    for parameter, old in zip(steps.model.parameters(), before, strict=True):
        assert torch.equal(parameter, old)
    done = 0
    while not steps.found.current_step:
        steps.go()
        done += 1
        assert done < 30
    assert steps.found.current_step == 1


def test_the_scale_goes_on_from_a_checkpoint() -> None:
    steps = Steps(first=1.0)
    steps.go()
    steps.go(size=1.0)
    assert steps.own_scale == 2**15
    other = Steps(first=1.0)
    other.found.load_state_dict(steps.found.state_dict())
    assert other.own_scale == 2**15


@pytest.mark.parametrize("heads", ["weighted", "plain"])
def test_plain_heads_under_autocast(heads: Any) -> None:
    trained, found, batch = tiny(), criterion(heads=heads), rows()
    with autocast():
        terms, features = trained(batch)
    total = found(terms, shared=features) * 1024  # as a gradient scaler does
    total.backward()
    exact = right(trained, batch, "features").gradients["trunk.second.bias"]
    gradient = trained.trunk.second.bias.grad
    assert gradient is not None
    torch.testing.assert_close(gradient.double() / 1024, exact, rtol=3e-2, atol=1e-3)


def test_a_model_in_float16_throughout() -> None:
    class Sums(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = nn.Parameter(torch.ones(4, dtype=torch.float16))

        def forward(self) -> dict[str, Tensor]:
            total = self.trunk.float().sum()
            return {"a": 1e-8 * total, "b": 0.1 * total}

    trained, found = Sums(), WeightedLoss(["a", "b"], balancer={"kind": "test-setups"})
    found(trained(), shared=trained.trunk)
    assert weights(found) == pytest.approx({"a": 1e8 / 2, "b": 10 / 2}, rel=1e-2)
