from __future__ import annotations

import math
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from lossweights import (
    Capacity,
    ConfigError,
    FreeBits,
    Log,
    LossConfig,
    OptimalSigma,
    Relative,
    Transform,
    WeightedLoss,
)
from lossweights.components.context import StepContext
from lossweights.components.transforms import (
    at_least,
    logarithm,
    optimal_sigma,
    reference_for,
)


def applied(transform: Transform, value: Tensor, **fields: float) -> Tensor:
    now = StepContext({name: torch.tensor(field) for name, field in fields.items()})
    return transform.apply(value, transform.init(), now)


def slope(transform: Transform, value: float, **fields: float) -> float:
    x = torch.tensor(value, requires_grad=True)
    (gradient,) = torch.autograd.grad(applied(transform, x, **fields), x)
    return gradient.item()


def loss_of(transform: Any, weight: float = 1.0, **term: Any) -> WeightedLoss:
    return WeightedLoss(
        terms={"kl": {"weight": weight, "transform": transform, **term}}, total_steps=100
    )


# Capacity


@pytest.mark.parametrize(
    ("value", "expected", "gradient"),
    [(5.0, 3.0, 1.0), (2.0, 0.0, 0.0), (0.5, 1.5, -1.0), (0.0, 2.0, -1.0)],
)
def test_capacity_is_a_distance(value: float, expected: float, gradient: float) -> None:
    transform = Capacity(capacity=2.0)
    assert applied(transform, torch.tensor(value), capacity=2.0).item() == expected
    assert slope(transform, value, capacity=2.0) == gradient


def test_capacity_grows_with_its_schedule() -> None:
    ramp = {"kind": "ramp", "start": 0.0, "stop": 25.0, "over": "100%"}
    criterion = loss_of({"kind": "capacity", "capacity": ramp}, weight=1000.0)
    found = []
    for step in (0, 40, 100):
        criterion.set_step(step)
        found.append(criterion({"kl": torch.tensor(10.0)}).item())
    assert found == [10_000.0, 0.0, 15_000.0]


def test_capacity_holds_the_kl_where_it_is() -> None:
    """Gradient descent on nll + gamma |kl - C| ends at the capacity."""
    x = torch.tensor(0.5, requires_grad=True)
    criterion = WeightedLoss(
        terms={"nll": 1.0, "kl": {"weight": 20.0, "transform": Capacity(capacity=2.0)}}
    )
    optimizer = torch.optim.SGD([x], lr=1e-3)
    for _ in range(3000):
        optimizer.zero_grad()
        criterion({"nll": 0.5 * (x - 4) ** 2, "kl": 0.5 * x**2}).backward()
        optimizer.step()
    assert (0.5 * x**2).item() == pytest.approx(2.0, abs=0.1)


# Free bits

KL = torch.tensor([[0.0, 1.0, 3.0], [0.5, 2.0, 0.0]])  # means 0.25, 1.5, 1.5


@pytest.mark.parametrize(
    ("per", "reduction", "expected"),
    [
        ("dimension", "batch_mean", 1.0 + 1.5 + 1.5),
        ("dimension", "mean", (1.0 + 1.5 + 1.5) / 3),
        ("dimension", "sum", 2 * (1.0 + 1.5 + 1.5)),
        ("element", "batch_mean", (1 + 1 + 3 + 1 + 2 + 1) / 2),
        ("element", "mean", (1 + 1 + 3 + 1 + 2 + 1) / 6),
        ("value", "batch_mean", 3.25),
        ("value", "mean", 6.5 / 6),
    ],
)
def test_free_bits_at_each_level(per: str, reduction: str, expected: float) -> None:
    transform = {"kind": "free-bits", "threshold": 1.0, "per": per}
    criterion = loss_of(transform, reduction=reduction)
    assert criterion({"kl": KL}).item() == pytest.approx(expected)
    assert criterion.metrics()["raw/kl"] == pytest.approx(
        {"batch_mean": 3.25, "mean": 6.5 / 6, "sum": 6.5}[reduction]
    )


def test_free_bits_are_per_dimension_of_the_mean_by_default() -> None:
    assert FreeBits(threshold=1.0).level == "dimension"


@pytest.mark.parametrize(
    ("per", "expected"),
    [
        ("dimension", [[0.0, 0.5, 0.5], [0.0, 0.5, 0.5]]),
        ("element", [[0.0, 0.5, 0.5], [0.0, 0.5, 0.0]]),
        ("value", [[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]),
    ],
)
def test_free_bits_carry_no_gradient_below_the_threshold(
    per: str, expected: list[list[float]]
) -> None:
    kl = KL.clone().requires_grad_()
    criterion = loss_of(
        {"kind": "free-bits", "threshold": 0.75, "per": per}, reduction="batch_mean"
    )
    criterion({"kl": kl}).backward()
    assert kl.grad is not None
    assert kl.grad.tolist() == expected


def test_free_bits_with_a_scheduled_threshold() -> None:
    ramp = {"kind": "ramp", "start": 0.0, "stop": 2.0, "over": "100%"}
    criterion = loss_of({"kind": "free-bits", "threshold": ramp, "per": "value"})
    found = []
    for step in (0, 50, 100):
        criterion.set_step(step)
        found.append(criterion({"kl": torch.tensor(0.5)}).item())
    assert found == [0.5, 1.0, 2.0]


def test_free_bits_hide_no_nan() -> None:
    found = at_least(torch.tensor([math.nan, 0.0, 1.0, 2.0]), torch.tensor(1.0))
    torch.testing.assert_close(found, torch.tensor([math.nan, 1.0, 1.0, 2.0]), equal_nan=True)


@pytest.mark.parametrize("per", ["dimension", "element"])
def test_free_bits_ask_for_a_reduction(per: Literal["dimension", "element"]) -> None:
    with pytest.raises(ValueError, match=f"acts on each {per}, before.*reduction: batch_mean"):
        loss_of(FreeBits(threshold=1.0, per=per))


def test_free_bits_of_dimensions_ask_for_a_batch() -> None:
    criterion = loss_of(FreeBits(threshold=1.0), reduction="batch_mean")
    with pytest.raises(ValueError, match="no batch axis for reduction: batch_mean"):
        criterion({"kl": torch.tensor(1.0)})


# Logarithm


@pytest.mark.parametrize("value", [1e-6, 0.1, 1.0, 100.0, 1e30])
def test_log_has_the_relative_gradient(value: float) -> None:
    assert applied(Log(), torch.tensor(value)).item() == pytest.approx(math.log(value), abs=0.02)
    assert slope(Log(epsilon=1e-12), value) == pytest.approx(1 / value, rel=1e-5)


def test_log_at_zero_is_finite() -> None:
    assert applied(Log(epsilon=1e-3), torch.tensor(0.0)).item() == pytest.approx(math.log(1e-3))
    assert slope(Log(epsilon=1e-3), 0.0) == pytest.approx(1e3)
    assert math.isfinite(slope(Log(), 0.0))


@pytest.mark.parametrize("value", [-1e-3, -1.0, -1e30, math.nan])
def test_there_is_no_logarithm_below_zero(value: float) -> None:
    x = torch.tensor(value, requires_grad=True)
    result = logarithm(x + 1e-3)
    (gradient,) = torch.autograd.grad(result, x)
    assert result.isnan()
    assert gradient == 0.0


def test_a_log_of_a_negative_loss_is_told() -> None:
    criterion = WeightedLoss(terms={"nll": {"transform": Log()}}, on_nonfinite="raise")
    with pytest.raises(FloatingPointError, match="'nll' is nan"):
        criterion({"nll": torch.tensor(-3.0)})


# Optimal sigma

IMAGES, MEANS = torch.rand(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double()
DIMENSIONS = 3 * 8 * 8


def test_optimal_sigma_is_the_likelihood_at_the_best_variance() -> None:
    """Up to a constant, the likelihood of torch's Gaussian; no other variance has a lower one."""
    error = (IMAGES - MEANS).square().mean()

    def likelihood(variance: torch.Tensor) -> float:
        gaussian = torch.distributions.Normal(MEANS, variance.sqrt())
        each = gaussian.log_prob(IMAGES)  # type: ignore[no-untyped-call]
        return float(-each.sum() / len(IMAGES))

    constant = DIMENSIONS / 2 * (1 + math.log(2 * math.pi))
    found = optimal_sigma(error, DIMENSIONS, 1e-30).item() + constant
    assert found == pytest.approx(likelihood(error), rel=1e-12)
    assert found < min(likelihood(0.9 * error), likelihood(1.1 * error))


@pytest.mark.parametrize("scale", [1.0, 0.1, 0.02])
def test_optimal_sigma_is_that_of_the_code_of_its_authors(scale: float) -> None:
    """Value and gradient of orybkin/sigma-vae-pytorch, which clips log sigma softly at -6."""
    results = []
    for ours in (True, False):
        means = (IMAGES + scale * (MEANS - IMAGES)).requires_grad_()
        squares = (IMAGES - means).square()
        if ours:
            value = optimal_sigma(squares.mean(), DIMENSIONS, math.exp(-12))
            value = value + DIMENSIONS / 2 * (1 + math.log(2 * math.pi))
        else:
            log_sigma = -6 + torch.nn.functional.softplus(squares.mean().sqrt().log() + 6)
            constant = 0.5 * math.log(2 * math.pi)
            each = 0.5 * squares / (2 * log_sigma).exp() + log_sigma + constant
            value = each.sum() / len(IMAGES)
        value.backward()  # type: ignore[no-untyped-call]
        results.append((value.detach(), means.grad))
    # At a sigma of 0.008 the clip of theirs adds a third to it.
    rtol, atol = (1e-2, 0.0) if scale == 1 else (0.1, 1.0)
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol)


def test_optimal_sigma_at_zero_and_below() -> None:
    transform = OptimalSigma(dimensions=10, epsilon=0.01)
    assert applied(transform, torch.tensor(0.0)).item() == pytest.approx(5 * math.log(0.01))
    assert slope(transform, 0.0) == pytest.approx(10 / 0.02)
    assert slope(transform, 0.99) == pytest.approx(5.0)
    assert applied(transform, torch.tensor(-0.02)).isnan()
    assert OptimalSigma(dimensions=10).epsilon == pytest.approx(math.exp(-6) ** 2)


def test_optimal_sigma_of_unreduced_errors() -> None:
    errors = {"kl": (IMAGES - MEANS).square()}
    found = loss_of(OptimalSigma(dimensions=DIMENSIONS), reduction="mean")(errors)
    expected = DIMENSIONS / 2 * math.log(errors["kl"].mean().item() + math.exp(-12))
    assert found.item() == pytest.approx(expected, rel=1e-6)


# Relative


@pytest.mark.parametrize(
    ("value", "reference", "expected"),
    [(3.0, 2.0, 2.0), (3.0, 0.0, 3.0), (-3.0, 0.0, 3.0), (0.0, 0.0, 1.0), (0.0, 2.0, 2.0)],
)
def test_reference(value: float, reference: float, expected: float) -> None:
    assert reference_for(torch.tensor(value), torch.tensor(reference)).item() == expected


def relative_run(transform: Relative, values: list[float]) -> tuple[list[float], list[float]]:
    criterion = loss_of(transform)
    totals, gradients = [], []
    for value in values:
        x = torch.tensor(value, requires_grad=True)
        total = criterion({"kl": x})
        total.backward()
        criterion.step()
        assert x.grad is not None
        totals.append(total.item())
        gradients.append(x.grad.item())
    return totals, gradients


def test_relative_to_the_first_value() -> None:
    totals, gradients = relative_run(Relative(), [4.0, 2.0, 0.0, 8.0])
    assert totals == [1.0, 0.5, 0.0, 2.0]
    assert gradients == [0.25] * 4


def test_relative_to_the_first_value_that_is_not_zero() -> None:
    totals, gradients = relative_run(Relative(), [0.0, 4.0, 2.0])
    assert totals == [0.0, 1.0, 0.5]
    assert gradients == [1.0, 0.25, 0.25]


def test_relative_keeps_the_sign() -> None:
    totals, gradients = relative_run(Relative(), [-4.0, -6.0, 2.0])
    assert totals == [-1.0, -1.5, 0.5]
    assert gradients == [0.25] * 3


def test_relative_to_a_moving_average() -> None:
    transform = Relative(to="moving-average", smoothing=0.75)
    totals, gradients = relative_run(transform, [4.0, 8.0, -5.0, 9.0])
    # References 4 (its own), 4, 0.75 * 4 + 0.25 * 8 = 5, 0.75 * 5 + 0.25 * 5 = 5.
    assert totals == [1.0, 2.0, -1.0, pytest.approx(1.8)]
    assert gradients == pytest.approx([0.25, 0.25, 0.2, 0.2])


def test_relative_to_the_mean_over_the_first_step() -> None:
    criterion = loss_of(Relative())
    for value in (2.0, 6.0):
        criterion({"kl": torch.tensor(value)})
    criterion.step()
    assert criterion({"kl": torch.tensor(8.0)}).item() == 2.0


def test_relative_is_left_out_of_the_yardstick() -> None:
    """The validation loss does not depend on how the training went; other transforms remain."""
    criterion = loss_of(Relative())
    criterion({"kl": torch.tensor(4.0)})
    criterion.step()
    criterion.eval()
    assert criterion({"kl": torch.tensor(4.0)}).item() == 4.0
    capacity = loss_of(Capacity(capacity=1.0)).eval()
    assert capacity({"kl": torch.tensor(4.0)}).item() == 3.0


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        ({"kind": "capacity"}, "capacity"),
        ({"kind": "capacity", "capacity": 1.0, "gamma": 10.0}, "unknown field 'gamma'"),
        ({"kind": "free-bits"}, "threshold"),
        ({"kind": "optimal-sigma"}, "dimensions: this field is needed"),
        ({"kind": "optimal-sigma", "dimensions": 0}, "greater than or equal to 1"),
        (
            {"kind": "optimal-sigma", "dimensions": 5, "epsilon": 0},
            "epsilon: must be greater than 0",
        ),
        ({"kind": "free-bits", "threshold": 1.0, "per": "batch"}, "'element', 'dimension'"),
        ({"kind": "log", "epsilon": 0.0}, "greater than"),
        ({"kind": "relative", "to": "last"}, "'first' or 'moving-average'"),
        ({"kind": "relative", "smoothing": 1.0}, "less than 1"),
        ({"kind": "free-bit", "threshold": 1.0}, "'free-bits'"),
    ],
)
def test_refuses(transform: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LossConfig.read({"terms": {"kl": {"transform": transform}}})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "transform",
    [Capacity(capacity=1.0), FreeBits(threshold=1.0, per="value"), Log(), Relative()],
    ids=lambda transform: transform.kind,
)
def test_the_precision_of_the_value_stays(transform: Transform, dtype: torch.dtype) -> None:
    value = torch.tensor(2.5, dtype=dtype)
    assert applied(transform, value, capacity=1.0, threshold=1.0).dtype is dtype
