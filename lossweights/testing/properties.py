"""What every component must keep, a function for each property."""

from __future__ import annotations

import copy
import io
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lossweights.components.balancers import Balancer, GradientBalancer, GramianBalancer
from lossweights.components.controllers import Controller
from lossweights.components.declaration import Component
from lossweights.components.durations import Horizon
from lossweights.components.schedules import Schedule
from lossweights.components.transforms import Transform
from lossweights.testing.training import NAMES, STEPS, Adaptive, Training

_SYNCS = ("_local_scalar_dense", "equal", "is_nonzero", "nonzero", "_unique2", "masked_select")
_FEW_STEPS = STEPS // 3  # more than an epoch


def check(component: Component, *, compiled: bool = True) -> None:
    """Holds a component to every property of its family.

    Args:
        component: A schedule, controller, transform or balancer.
        compiled: Whether `torch.compile` is tried too, which takes seconds.

    Raises:
        AssertionError: Naming what does not hold.
        TypeError: For what belongs to none of these families.
    """
    check_round_trip(component)
    if isinstance(component, Schedule):
        check_schedule(component)
    elif isinstance(component, Balancer | Controller | Transform):
        for property_ in ADAPTIVE_PROPERTIES:
            property_(component)
        if compiled:
            check_compiles_once(component)
    else:
        raise TypeError(
            "check() takes a schedule, controller, transform or balancer, found "
            f"{type(component).__name__}"
        )


def check_round_trip(component: Component) -> None:
    """A component is the same after being written to a file and read again, and when copied."""
    written = component.model_dump(mode="json")
    read = type(component).family.read(written)
    assert read == component, f"{component!r} came back from a file as {read!r}"
    assert copy.deepcopy(component) == component, f"{component!r} changes when copied"


def check_schedule(schedule: Schedule, total_steps: int = 97) -> None:
    """A schedule is a pure function of the step, total, and holds its last value."""
    horizon = Horizon(total_steps, steps_per_epoch=10)
    steps = np.arange(3 * total_steps)
    values = schedule(steps, horizon)
    one_by_one = [float(schedule(step, horizon)) for step in steps]
    assert one_by_one == values.tolist(), f"{schedule!r}: a value depends on which others are asked"
    backwards = schedule(steps[::-1].copy(), horizon)
    assert np.array_equal(backwards, values[::-1]), f"{schedule!r}: values depend on the order"
    end = schedule.ends(horizon)
    if end is not None:
        late = values[steps >= end]
        assert np.all(late == late[-1:]), f"{schedule!r} still moves after ends(), step {end:g}"
    for short in (0, 1, 2):
        found = schedule(np.arange(5), Horizon(short, steps_per_epoch=1))
        assert np.isfinite(found).all(), f"{schedule!r} is not finite if training takes {short}"


def check_resume(component: Adaptive) -> None:
    """2N steps are N steps, save, load, N steps, bit for bit, through every way of saving."""
    half = STEPS // 2
    whole, begun = Training(component), Training(component)
    whole.run(range(STEPS))
    begun.run(range(half))
    for way in (_through_torch_save, _through_distributed_checkpoint):
        resumed = Training(component)
        resumed.load(way(begun.state_dict()))
        resumed.run(range(half, STEPS))
        _assert_same(whole, resumed, f"{component!r}: going on from a checkpoint ({way.__name__})")


def check_order(component: Adaptive) -> None:
    """The order in which terms are declared and given does not matter."""
    forwards, backwards = Training(component), Training(component, names=NAMES[::-1])
    forwards.run(range(STEPS))
    backwards.run(range(STEPS))
    _assert_same(forwards, backwards, f"{component!r}: another order of the terms")


def check_forward_is_pure(component: Adaptive) -> None:
    """Many forward passes before a step are one update, fed with the mean of what was seen."""
    once, often = Training(component), Training(component)
    for step in range(_FEW_STEPS):
        once.forward(step)
        for _ in range(5):
            often.forward(step)
        once.step(step)
        often.step(step)
    _assert_same(once, often, f"{component!r}: 5 forward passes a step", tolerance=1e-4)


def check_micro_batches(component: Adaptive) -> None:
    """N micro-batches are one batch; an `instant` component is exempt."""
    if getattr(component, "instant", False):
        return
    whole, split = Training(component), Training(component)
    for step in range(STEPS):
        whole.forward(step)
        for factor in (0.5, 0.75, 1.25, 1.5):
            split.forward(step, factor, share=0.25)
        whole.step(step)
        split.step(step)
    _assert_same(whole, split, f"{component!r}: 4 micro-batches a step", tolerance=1e-4)


def check_evaluation(component: Adaptive) -> None:
    """Evaluation observes nothing, and disturbs nothing."""
    plain, evaluated = Training(component), Training(component)
    for step in range(STEPS):
        plain.forward(step)
        evaluated.forward(step)
        with torch.no_grad():
            evaluated.total(evaluated.terms(step, 100.0))
        evaluated.criterion.eval()
        evaluated.total(evaluated.terms(step, 100.0))
        evaluated.criterion.train()
        plain.step(step)
        evaluated.step(step)
    _assert_same(plain, evaluated, f"{component!r}: evaluation in between")


def check_nonfinite(component: Adaptive) -> None:
    """A batch that is not finite leaves the state as it was, and what follows is finite."""
    for bad in (torch.nan, torch.inf):
        training = Training(component)
        training.run(range(STEPS // 2))
        before = training.memory()
        criterion = training.criterion
        training.total(training.terms(0, bad))
        criterion.step()
        after = training.memory()
        for key, tensor in before.items():
            assert torch.equal(tensor, after[key]), f"{component!r}: {bad} entered {key!r}"
        training.run(range(STEPS // 2, STEPS))
        training.assert_finite(f"{component!r}: after a batch of {bad}")


def check_absent(component: Adaptive) -> None:
    """Terms may be absent; what was not seen does not change, and weights stay finite."""
    training = Training(component)
    training.run(range(STEPS // 2))
    absent = NAMES[0]
    before = training.memory()
    terms = training.terms(STEPS // 2)
    total = training.total({name: terms[name] for name in NAMES if name != absent})
    assert torch.isfinite(total), f"{component!r}: the total is {total} where {absent!r} is absent"
    training.criterion.step()
    for key, tensor in training.memory().items():
        of_terms = tensor.ndim > 0 and key.startswith("balancer.")
        of_absent = f"terms.{absent}." in key and getattr(component, "source", None) is None
        if of_terms or of_absent:
            old, new = (t[..., 0] if of_terms else t for t in (before[key], tensor))
            assert torch.equal(old, new), f"{component!r}: {key!r} changed for an absent term"
    training.total({})
    training.criterion.step()
    training.run(range(STEPS // 2, STEPS))
    training.assert_finite(f"{component!r}: after terms were absent")


def check_extremes(component: Adaptive) -> None:
    """Losses that are 0, tiny, huge, equal or opposed in sign never give a weight of nan or inf."""
    for values in ((0.0, 0.0, 0.0), (0.0, 1.0, 2.0), (1e-30, 1.0, 1e30), (-1.0, 0.5, 2.0)):
        training = Training(component)
        for step in range(_FEW_STEPS):
            terms = training.given(dict(zip(NAMES, values, strict=True)))
            total = training.total(terms)
            total.backward()  # type: ignore[no-untyped-call]
            gradient = training.parameter.grad
            assert gradient is not None
            finite = gradient.isfinite().all()
            assert finite, f"{component!r}: the gradient is {gradient} for {values}"
            training.step(step)
            training.assert_finite(f"{component!r}: with losses of {values}")


def check_step_before_backward(component: Adaptive) -> None:
    """The clock may move between forward and backward pass: two losses, then two backwards."""
    plain, late = Training(component), Training(component)
    plain.run(range(STEPS // 2))
    late.run(range(STEPS // 2))
    expected = plain.total(plain.terms(STEPS // 2))
    total = late.total(late.terms(STEPS // 2))
    late.criterion.step()
    (before,) = torch.autograd.grad(expected, plain.parameter)
    (after,) = torch.autograd.grad(total, late.parameter)
    assert torch.equal(before, after), (
        f"{component!r}: a step before the backward pass changes the gradient"
    )


def check_gradient(component: Adaptive) -> None:
    """The gradient of the total reaches every term."""
    training = Training(component)
    training.run(range(STEPS // 2))
    value = training.criterion.breakdown(training.terms(0)).value
    for name in NAMES:
        assert value[name].requires_grad, f"{component!r}: the value of {name!r} has no gradient"


def check_no_sync(component: Adaptive) -> None:
    """Neither forward nor `step()` waits for the device, except for a `GramianBalancer`."""
    if isinstance(component, GramianBalancer):
        return
    training = Training(component)
    training.run(range(STEPS // 2))
    with _Refusing(component):
        terms = training.terms(0)
        training.total(terms)
        training.criterion.step()


def check_compiles_once(component: Adaptive) -> None:
    """`torch.compile(fullgraph=True)` makes one graph for a whole training.

    Balancers that weigh by gradients are exempt: they work outside of what is compiled.
    """
    if isinstance(component, GradientBalancer):
        return
    torch.compiler.reset()
    graphs = 0

    def count(module: Any, _: object) -> Any:
        nonlocal graphs
        graphs += 1
        return module.forward

    eager, compiled = Training(component), Training(component)
    compiled.call = torch.compile(compiled.criterion, backend=count, fullgraph=True)
    eager.run(range(STEPS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about terms that are no leaves
        compiled.run(range(STEPS))
    torch.compiler.reset()
    assert graphs == 1, f"{component!r}: {graphs} graphs were compiled, 1 is needed"
    _assert_same(eager, compiled, f"{component!r}: compiled", tolerance=1e-4)


ADAPTIVE_PROPERTIES: tuple[Callable[[Adaptive], None], ...] = (
    check_resume,
    check_order,
    check_forward_is_pure,
    check_micro_batches,
    check_evaluation,
    check_nonfinite,
    check_absent,
    check_extremes,
    check_gradient,
    check_step_before_backward,
    check_no_sync,
)


def _assert_same(
    left: Training, right: Training, what: str, tolerance: float | None = None
) -> None:
    ours, theirs = left.criterion.state_dict(), right.criterion.state_dict()
    assert ours.keys() == theirs.keys(), f"{what} changes the names in the state"
    for key, tensor in ours.items():
        same = torch.equal(tensor, theirs[key])
        if tolerance is not None and tensor.is_floating_point():
            same = torch.allclose(tensor, theirs[key], rtol=tolerance, atol=tolerance)
        assert same, f"{what} changes {key!r}: {tensor} and {theirs[key]}"
    seen, others = left.criterion.metrics(tensors=True), right.criterion.metrics(tensors=True)
    for key in seen.keys() & others.keys() if tolerance is None else ():
        same = not key.startswith("weight/") or torch.equal(seen[key], others[key])
        assert same, f"{what} changes {key}: {seen[key]} and {others[key]}"


def _through_torch_save(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


def _through_distributed_checkpoint(state: dict[str, Any]) -> dict[str, Any]:
    from torch.distributed import checkpoint  # noqa: PLC0415  # slow to import

    criterion = state["criterion"]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that there is one process
        checkpoint.save(dict(criterion), checkpoint_id=folder)  # type: ignore[attr-defined]
        empty = {key: torch.zeros_like(tensor) for key, tensor in criterion.items()}
        checkpoint.load(empty, checkpoint_id=folder)  # type: ignore[attr-defined]
    return {**state, "criterion": empty}


def _is_mask(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype is torch.bool


class _Refusing(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Raises where an operation waits for the device."""

    def __init__(self, component: Component) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._component = component

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masks = [a for a in torch.utils._pytree.tree_leaves(args) if _is_mask(a)]  # noqa: SLF001
        waits = name in _SYNCS or (name.startswith("index") and masks)
        assert not waits, f"{self._component!r}: {name} waits for the device"
        return func(*args, **(kwargs or {}))
