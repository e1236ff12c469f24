"""What the pages on migration call the same is the same: against others, or their formulas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lossweights import WeightedLoss

NAMES = ["a", "b", "c"]
SEEN = 1e-6 + torch.rand(12, 3, generator=torch.Generator().manual_seed(1)) * torch.tensor(
    [1.0, 5.0, 0.3]
)


def direction_of(balancer: object, jacobian: Tensor) -> Tensor:
    """What a shared vector gets from terms whose gradients are these rows."""
    shared = torch.zeros(jacobian.shape[1], dtype=jacobian.dtype, requires_grad=True)
    criterion = WeightedLoss(NAMES[: len(jacobian)], balancer=balancer)  # type: ignore[arg-type]
    values = jacobian @ shared + 1
    criterion(dict(zip(NAMES, values, strict=False)), shared=shared).backward()
    assert shared.grad is not None
    return shared.grad


def totals_of(balancer: object, **options: Any) -> list[float]:
    """The totals of a training in which the terms have the values `SEEN`."""
    criterion = WeightedLoss(NAMES, balancer=balancer, **options)  # type: ignore[arg-type]
    found = []
    for row in SEEN:
        found.append(criterion(dict(zip(NAMES, row, strict=True))).item())
        criterion.step()
    return found


def weights_of(balancer: object, **options: Any) -> Tensor:
    """The weights in each step of that training, shape (steps, n)."""
    criterion = WeightedLoss(NAMES, balancer=balancer, **options)  # type: ignore[arg-type]
    found = []
    for row in SEEN:
        criterion(dict(zip(NAMES, row, strict=True)))
        found.append(list(criterion.metrics(include=["weight"]).values()))
        criterion.step()
    return torch.tensor(found)


# torchjd

JACOBIANS = [
    torch.tensor([[1.0, 0.2, -0.3], [-0.4, 1.1, 0.2], [0.3, -0.2, 0.9]], dtype=torch.float64),
    torch.tensor([[2.0, 0.0, 0.5], [-1.0, 1.0, 0.0], [0.5, 0.3, 1.0]], dtype=torch.float64),
]
# CAGrad and Nash-MTL need solvers of their own: tests/components/balancers has recorded values.
AGGREGATORS: list[tuple[str, dict[str, Any], dict[str, Any] | str, float]] = [
    ("UPGrad", {}, "upgrad", 1e-3),
    ("DualProj", {}, "dualproj", 1e-3),
    ("MGDA", {"max_iters": 100_000, "epsilon": 1e-12}, "mgda", 1e-3),
    ("FairGrad", {"alpha": 2.0}, {"kind": "fairgrad", "fairness": 2.0}, 1e-3),
    ("IMTLG", {}, "imtl-g", 1e-5),
    ("ConFIG", {}, "conflict-free", 1e-5),
    ("AlignedMTL", {}, "aligned-mtl", 1e-5),
    ("AlignedMTL", {"scale_mode": "rmse"}, {"kind": "aligned-mtl", "scale_mode": "rmse"}, 1e-5),
]


@pytest.mark.parametrize("jacobian", JACOBIANS, ids=["mild", "conflict"])
@pytest.mark.parametrize(
    ("name", "options", "balancer", "rel"), AGGREGATORS, ids=lambda value: str(value)[:20]
)
def test_aggregators_of_torchjd(
    name: str, options: dict[str, Any], balancer: object, rel: float, jacobian: Tensor
) -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    theirs = getattr(aggregation, name)(**options)(jacobian)
    torch.testing.assert_close(direction_of(balancer, jacobian), theirs, rtol=rel, atol=rel)


def test_projections_of_torchjd_on_two_terms() -> None:
    """Of two terms there is one order, so that nothing is drawn."""
    aggregation = pytest.importorskip("torchjd.aggregation")
    for jacobian in (each[:2] for each in JACOBIANS):
        for theirs, ours in ((aggregation.PCGrad(), "pcgrad"), (aggregation.GradVac(), "gradvac")):
            torch.testing.assert_close(direction_of(ours, jacobian), theirs(jacobian))


def test_mtl_backward_is_plain_heads_and_shared_parameters() -> None:
    autojac = pytest.importorskip("torchjd.autojac")
    aggregation = pytest.importorskip("torchjd.aggregation")
    torch.manual_seed(0)
    trunk, heads = nn.Linear(4, 6), nn.ModuleList([nn.Linear(6, 1) for _ in NAMES])
    modules = nn.ModuleList([trunk, heads]).double()
    x, y = torch.randn(8, 4, dtype=torch.float64), torch.randn(8, 3, dtype=torch.float64)

    def forward() -> tuple[Tensor, list[Tensor]]:
        features = torch.tanh(trunk(x))
        return features, [(h(features)[:, 0] - t).square().mean() for h, t in zip(heads, y.T)]  # noqa: B905

    features, losses = forward()
    autojac.mtl_backward(losses, features=features)
    autojac.jac_to_grad(trunk.parameters(), aggregation.AlignedMTL())
    theirs = [p.grad.clone() for p in modules.parameters() if p.grad is not None]
    modules.zero_grad()

    features, losses = forward()
    criterion = WeightedLoss(NAMES, balancer={"kind": "aligned-mtl", "heads": "plain"})
    terms = dict(zip(NAMES, losses, strict=True))
    criterion(terms, shared=trunk.parameters()).backward()
    for parameter, grad in zip(modules.parameters(), theirs, strict=True):
        torch.testing.assert_close(parameter.grad, grad)


def test_scalarizers_of_torchjd() -> None:
    scalarization = pytest.importorskip("torchjd.scalarization")
    pairs: list[tuple[Any, object]] = [
        (scalarization.UW(3), "uncertainty"),
        (scalarization.IMTLL(3), "imtl-l"),
        (scalarization.GeometricMean(), "geometric"),
        (scalarization.Mean(), None),
    ]
    for theirs, balancer in pairs:
        third = dict.fromkeys(NAMES, 1 / 3) if balancer is None else NAMES
        criterion = WeightedLoss(third, balancer=balancer)  # type: ignore[arg-type]
        total = criterion(dict(zip(NAMES, SEEN[0], strict=True)))
        torch.testing.assert_close(total, theirs(SEEN[0]))
    dwa = scalarization.DWA(temperature=2.0)
    totals = []
    for row in SEEN:
        totals.append(float(dwa(row)))
        dwa.step()
    assert totals_of({"kind": "dwa", "every": "1 steps"}) == pytest.approx(totals)


def test_smooth_maximum_of_torchjd_has_our_gradient() -> None:
    scalarization = pytest.importorskip("torchjd.scalarization")
    values = SEEN[0].clone().requires_grad_()
    scalarization.STCH(mu=0.1)(values).backward()
    assert values.grad is not None
    assert weights_of("stch")[0].tolist() == pytest.approx(values.grad.tolist(), rel=1e-5)


# LibMTL, by the formulas of its `weighting` folder


def test_dwa_of_libmtl() -> None:
    """Its buffer of means over epochs, of which the weights need the last two."""
    means = SEEN.reshape(4, 3, 3).mean(dim=1)  # four epochs of three batches
    found = weights_of("dwa", steps_per_epoch=3)
    for epoch in range(4):
        expected = torch.ones(3)
        if epoch > 1:
            expected = 3 * torch.softmax(means[epoch - 1] / means[epoch - 2] / 2.0, dim=-1)
        torch.testing.assert_close(found[3 * epoch : 3 * epoch + 3], expected.expand(3, 3))


def test_uncertainty_of_libmtl_from_its_start() -> None:
    scale = torch.full((3,), -0.5)
    expected = (SEEN[0] / (2 * scale.exp()) + scale / 2).sum()
    total = totals_of({"kind": "uncertainty", "initial": -0.5})[0]
    assert total == pytest.approx(expected.item())


def test_cagrad_of_libmtl_is_divided() -> None:
    """By 1 + c^2, its default."""
    plain, divided = (direction_of({"kind": "cagrad", "rescale": r}, JACOBIANS[1]) for r in (0, 1))
    torch.testing.assert_close(divided, plain / 1.25)


def test_aligned_mtl_of_libmtl_is_the_sum() -> None:
    jacobian = JACOBIANS[1]
    values, vectors = torch.linalg.eigh(jacobian @ jacobian.T)
    alpha = values[0].sqrt() * (vectors @ torch.diag(values.rsqrt()) @ vectors.T).sum(0)
    torch.testing.assert_close(3 * direction_of("aligned-mtl", jacobian), alpha @ jacobian)


def test_impartial_gradients_of_libmtl() -> None:
    jacobian = JACOBIANS[1]
    unit = jacobian / jacobian.norm(dim=-1, keepdim=True)
    differences, units = jacobian[:1] - jacobian[1:], unit[:1] - unit[1:]
    alpha = jacobian[0] @ units.T @ torch.inverse(differences @ units.T)
    alpha = torch.cat((1 - alpha.sum()[None], alpha))
    torch.testing.assert_close(direction_of("imtl-g", jacobian), alpha @ jacobian)


# Ignite


def values_of_ignite(scheduler: Any, event: Any) -> list[float | None]:
    """What an iteration finds in `engine.state.beta`."""
    engine = pytest.importorskip("ignite.engine")
    found = []
    trainer = engine.Engine(lambda engine, _: found.append(engine.state.beta))
    scheduler.attach(trainer, event)
    trainer.run(range(12), max_epochs=1)
    return found


def weights_over(schedule: object, steps: range) -> list[float]:
    criterion = WeightedLoss({"kl": schedule})  # type: ignore[dict-item]
    found = []
    for step in steps:
        criterion.set_step(step)
        found.append(criterion.weights["kl"])
    return found


def test_state_schedulers_of_ignite() -> None:
    events = pytest.importorskip("ignite.engine").Events
    handlers = pytest.importorskip("ignite.handlers")
    pairs: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        (
            "PiecewiseLinearStateScheduler",
            {"milestones_values": [(2, 0.5), (8, 1.0)]},
            {"kind": "piecewise", "points": [["2 steps", 0.5], ["8 steps", 1.0]]},
        ),
        (
            "ExpStateScheduler",
            {"initial_value": 2.0, "gamma": 0.5},
            {"kind": "exponential", "start": 2.0, "rate": 0.5},
        ),
        (
            "MultiStepStateScheduler",
            {"initial_value": 1.0, "gamma": 0.5, "milestones": [3, 7]},
            {
                "kind": "piecewise",
                "shape": "hold",
                "points": [["0 steps", 1.0], ["3 steps", 0.5], ["7 steps", 0.25]],
            },
        ),
    ]
    for name, options, schedule in pairs:

        def scheduler(name: str = name, options: dict[str, Any] = options) -> Any:
            return getattr(handlers, name)(param_name="beta", create_new=True, **options)

        ahead = values_of_ignite(scheduler(), events.ITERATION_STARTED)
        assert weights_over(schedule, range(1, 13)) == pytest.approx(ahead)
        level = values_of_ignite(scheduler(), events.ITERATION_COMPLETED)
        assert level[0] is None
        assert weights_over(schedule, range(1, 12)) == pytest.approx(level[1:])


def test_cycles_of_ignite() -> None:
    handlers = pytest.importorskip("ignite.handlers")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    given = {"optimizer": optimizer, "param_name": "lr", "start_value": 0.2, "end_value": 1.0}
    cyclical = {"kind": "cyclical", "period": "5 steps", "ratio": 1, "start": 0.2}
    for name, options, shape in (
        ("LinearCyclicalScheduler", {"monotonic": True}, "linear"),
        ("CosineAnnealingScheduler", {}, "cosine"),
    ):
        simulate = getattr(handlers, name).simulate_values
        theirs = [value for _, value in simulate(12, cycle_size=5, **given, **options)]
        ours = weights_over({**cyclical, "shape": shape}, range(12))
        assert ours == pytest.approx(theirs)


# scvi-tools, by `_compute_kl_weight` of its training plans, and hand-written cycles


def test_kl_warm_up_of_scvi() -> None:
    low, high, length = 0.1, 0.8, 7

    def theirs(count: int) -> float:
        return (high - low) * (count / length) + low if count < length else high

    ramp = {"kind": "ramp", "start": low, "stop": high}
    known: dict[str, Any] = {"total_steps": 40, "steps_per_epoch": 4}
    by_steps = WeightedLoss({"kl": {**ramp, "over": "7 steps"}}, **known)
    by_epochs = WeightedLoss({"kl": lambda step: theirs(step // 4)}, **known)
    ours = WeightedLoss({"kl": {**ramp, "over": "7 epochs"}}, **known)
    for step in range(40):
        for criterion in (by_steps, by_epochs, ours):
            criterion.set_step(step)
        assert by_steps.weights["kl"] == pytest.approx(theirs(step))
        if step % 4 == 0:  # theirs moves once an epoch, ours at each step
            assert ours.weights["kl"] == pytest.approx(by_epochs.weights["kl"])


@pytest.mark.parametrize("n_iter", [6, 97, 100, 103])
@pytest.mark.parametrize("n_cycle", [1, 4])
@pytest.mark.parametrize("ratio", [0.5, 0.8, 1.0])
def test_cycles_by_hand(n_iter: int, n_cycle: int, ratio: float) -> None:
    """Fu et al.: from the beginning of each cycle up to 1 in steps of one size, then flat."""
    period = n_iter / n_cycle
    expected = np.ones(n_iter)
    for cycle in range(n_cycle):
        for i in range(n_iter):
            at, value = int(i + cycle * period), i / (period * ratio)
            if value <= 1 and at < n_iter:
                expected[at] = value
    schedule: Mapping[str, Any] = {"kind": "cyclical", "cycles": n_cycle, "ratio": ratio}
    criterion = WeightedLoss({"kl": schedule}, total_steps=n_iter)
    for step in range(n_iter):
        criterion.set_step(step)
        assert criterion.weights["kl"] == pytest.approx(expected[step], abs=1e-6)
