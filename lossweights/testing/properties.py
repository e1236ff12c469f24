"""The properties of components, one function for each."""

import copy
import io
import math
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lossweights.components.balancers import Balancer, GradientBalancer, GramianBalancer
from lossweights.components.controllers import Controller
from lossweights.components.declaration import Component, Declaration
from lossweights.components.durations import Duration, Horizon
from lossweights.components.schedules import Schedule, Steps
from lossweights.components.transforms import Transform
from lossweights.criterion.weighted_loss import WeightedLoss
from lossweights.testing.training import NAMES, STEPS, TOKENS, Adaptive, Training

_SYNCS = ("_local_scalar_dense", "equal", "is_nonzero", "nonzero", "_unique2", "masked_select")
_OF_COMPONENTS = ("adaptive.balancer.", "adaptive.terms.")  # keys of their state
_FEW_STEPS = STEPS // 3  # more than an epoch
_FIRST_HALF, _SECOND_HALF = range(STEPS // 2), range(STEPS // 2, STEPS)


def check(component: Component, *, compiled: bool = True) -> None:
    """Tests all properties of a component's family.

    Args:
        component: A schedule, controller, transform or balancer.
        compiled: Whether to test `torch.compile` too, which takes seconds.

    Raises:
        AssertionError: If a property does not hold; names it.
        TypeError: For a component of another family.
    """
    check_round_trip(component)
    if isinstance(component, Schedule):
        check_schedule(component)
        check_scheduled_number(component)
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
    """A component that is written to a file and read again, or copied, is equal to the original."""
    read = type(component).family.read(component.model_dump(mode="json"))
    assert read == component, f"{component!r} is read from its file as {read!r}"
    assert copy.deepcopy(component) == component, f"{component!r} changes when copied"


def check_schedule(schedule: Schedule, total_steps: int = 97) -> None:
    """A schedule is a pure function of the step, finite, and constant after its end."""
    _check_curve(schedule, Horizon(total_steps, steps_per_epoch=10), np.arange(3 * total_steps))
    tokens = Horizon(total=f"{1000 * total_steps} tokens")
    uneven = np.cumsum(np.arange(3 * total_steps) % 1900)  # that optimizer steps took
    _check_curve(in_tokens(schedule), tokens, uneven)
    for short in (0, 1, 2):
        found = schedule(np.arange(5), Horizon(short, steps_per_epoch=1))
        assert np.isfinite(found).all(), f"{schedule!r} is not finite in {short} steps of training"


def _check_curve(schedule: Schedule, horizon: Horizon, steps: Steps) -> None:
    values = schedule(steps, horizon)
    one_by_one = [float(schedule(step, horizon)) for step in steps]
    assert one_by_one == values.tolist(), f"{schedule!r}: a value depends on the other steps"
    backwards = schedule(steps[::-1].copy(), horizon)
    assert np.array_equal(backwards, values[::-1]), f"{schedule!r}: values depend on the order"
    end = schedule.ends(horizon)
    if end is not None:
        late = values[steps >= end]
        where = horizon.at(end)
        assert np.all(late == late[-1:]), f"{schedule!r} still moves after ends(), {where}"


def check_scheduled_number(schedule: Schedule) -> None:
    """A schedule of a number has the same values, bit for bit, when a training is resumed."""
    horizon = Horizon(STEPS, STEPS // 4)

    def criterion() -> WeightedLoss:
        with warnings.catch_warnings(action="ignore"):  # of a schedule that ends after training
            return WeightedLoss(
                ["loss"],
                scheduled={"number": schedule},
                total_steps=STEPS,
                steps_per_epoch=STEPS // 4,
            )

    begun = criterion()
    for step in (*_FIRST_HALF, *_SECOND_HALF):
        if step == _SECOND_HALF[0]:
            resumed = criterion()
            resumed.load_state_dict(_saved_and_loaded(begun.state_dict()))
            begun = resumed
        number, expected = begun.scheduled["number"], float(schedule(step, horizon))
        assert number == expected, f"{schedule!r} is {expected} at step {step}, found {number}"
        tensor, exact = begun.scheduled.tensor("number"), torch.tensor(number, dtype=torch.float32)
        assert torch.equal(tensor, exact), f"{schedule!r}: the tensor of {number} is {tensor}"
        begun.step()


def check_resume(component: Adaptive) -> None:
    """2N steps equal N steps, save, load, N steps, bit for bit, with every way of saving.

    These are `torch.save`, and `torch.distributed.checkpoint` with the state of a model that
    contains the criterion.
    """
    whole, begun = Training(component).run(range(STEPS)), Training(component).run(_FIRST_HALF)
    for way, load in _WAYS_OF_SAVING.items():
        resumed = Training(component)
        load(begun, resumed)
        _assert_same(begun, resumed, f"{component!r}: a checkpoint ({way})")
        resumed.run(_SECOND_HALF)
        _assert_same(whole, resumed, f"{component!r}: resuming from a checkpoint ({way})")


def check_units(component: Adaptive) -> None:
    """A clock that counts tokens gives the same weights as one that counts steps.

    Its durations are in tokens then. If the steps take different numbers of tokens, 2N steps equal
    N steps, save, load, N steps. The weights of a component with a `seed` depend on the clock.
    """
    counting = in_tokens(component)
    even, uneven = (TOKENS // STEPS,), (700, 1300, 1, 1999)
    if "seed" not in type(component).model_fields:
        by_steps = Training(component).run(range(STEPS)).state()
        by_tokens = Training(counting, per_step=even).run(range(STEPS)).state()
        for key, tensor in by_steps.items():
            same = torch.allclose(tensor, by_tokens[key], rtol=1e-4, atol=1e-4)
            assert same, f"{component!r}: counting tokens changes {key!r}"
    whole = Training(counting, per_step=uneven).run(range(STEPS))
    begun = Training(counting, per_step=uneven).run(_FIRST_HALF)
    resumed = Training(counting, per_step=uneven)
    _load_from_torch_save(begun, resumed)
    _assert_same(begun, resumed, f"{component!r}: a checkpoint of a clock that counts tokens")
    resumed.run(_SECOND_HALF)
    _assert_same(whole, resumed, f"{component!r}: resuming with a clock that counts tokens")
    whole.assert_finite(f"{component!r}: with a clock that counts tokens")


def in_tokens(part: Any, *, whole: bool = False) -> Any:
    """A component with its durations in tokens, 1,000 to a step and 6,000 to an epoch.

    Components other than schedules round percentages to `whole` steps, so theirs are tokens too.
    """
    if isinstance(part, Duration) and part.value and (whole or part.clock_unit is not None):
        horizon = Horizon(STEPS, steps_per_epoch=STEPS // 4)
        length = part.steps(horizon) if whole else part.length(horizon)
        return Duration(round(length * TOKENS / STEPS), "tokens")
    if isinstance(part, Declaration):
        whole = isinstance(part, Component) and not isinstance(part, Schedule)
        fields = {name: getattr(part, name) for name in type(part).model_fields}
        changed = {name: in_tokens(value, whole=whole) for name, value in fields.items()}
        return part.model_copy(update=changed)
    return tuple(map(in_tokens, part)) if isinstance(part, tuple) else part


def check_order(component: Adaptive) -> None:
    """The order in which terms are declared and given does not change the result."""
    forwards = Training(component).run(range(STEPS))
    backwards = Training(component, names=NAMES[::-1]).run(range(STEPS))
    _assert_same(forwards, backwards, f"{component!r}: another order of the terms")


def check_forward_is_pure(component: Adaptive) -> None:
    """Several forward passes before a step make one update, with the mean of the losses."""
    once, often = Training(component), Training(component)
    for step in range(_FEW_STEPS):
        once.forward(step)
        for _ in range(5):
            often.forward(step)
        once.step(step)
        often.step(step)
    _assert_same(once, often, f"{component!r}: 5 forward passes a step", tolerance=1e-4)


def check_micro_batches(component: Adaptive) -> None:
    """N micro-batches equal one batch, unless the component is `instant`."""
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
    """Evaluation observes nothing and changes nothing."""
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


def check_coming_weights(component: Adaptive) -> None:
    """`criterion.weights` has the weights that the next forward pass uses, or nan."""
    training = Training(component)
    for step in range(STEPS):
        coming = training.criterion.weights
        training.forward(step)
        used = training.criterion.metrics(include=["weight"])
        for name, weight in coming.items():
            found = used[f"weight/{name}"]
            assert math.isnan(weight) or weight == found, (
                f"{component!r}: the weight of {name!r} is {weight} before the forward pass of "
                f"step {step}, and {found} in it"
            )
        training.step(step)


def check_nonfinite(component: Adaptive) -> None:
    """A batch that is not finite does not change the state, and later weights are finite."""
    for bad in (torch.nan, torch.inf):
        training = Training(component).run(_FIRST_HALF)
        before = training.state()
        training.total(training.terms(0, bad))
        training.criterion.step()
        after = training.state()
        for key, tensor in before.items():
            assert torch.equal(tensor, after[key]), (
                f"{component!r}: a loss of {bad} changed {key!r}"
            )
        training.run(_SECOND_HALF)
        training.assert_finite(f"{component!r}: after a batch of {bad}")


def check_absent(component: Adaptive) -> None:
    """Terms may be absent: their state does not change, and weights stay finite."""
    training = Training(component).run(_FIRST_HALF)
    absent, before, terms = NAMES[0], training.state(), training.terms(STEPS // 2)
    total = training.total({name: terms[name] for name in NAMES if name != absent})
    assert torch.isfinite(total), f"{component!r}: the total is {total} without {absent!r}"
    training.criterion.step()
    for key, tensor in training.state().items():
        of_terms = tensor.ndim > 0 and key.startswith("balancer.")
        of_absent = f"terms.{absent}." in key and getattr(component, "source", None) is None
        if of_terms or of_absent:
            old, new = (t[..., 0] if of_terms else t for t in (before[key], tensor))
            assert torch.equal(old, new), f"{component!r}: {key!r} changed for an absent term"
    training.total({})
    training.criterion.step()
    training.run(_SECOND_HALF)
    training.assert_finite(f"{component!r}: after terms were absent")


def check_extremes(component: Adaptive) -> None:
    """Losses that are 0, tiny, huge, equal or of both signs give finite weights and gradients."""
    for values in ((0.0, 0.0, 0.0), (0.0, 1.0, 2.0), (1e-30, 1.0, 1e30), (-1.0, 0.5, 2.0)):
        training = Training(component)
        for step in range(_FEW_STEPS):
            total = training.total(training.given(dict(zip(NAMES, values, strict=True))))
            total.backward()  # type: ignore[no-untyped-call]
            gradient = training.parameter.grad
            finite = gradient is not None and gradient.isfinite().all()
            assert finite, f"{component!r}: the gradient is {gradient} for {values}"
            training.step(step)
            training.assert_finite(f"{component!r}: with losses of {values}")


def check_step_before_backward(component: Adaptive) -> None:
    """A step between the forward and the backward pass does not change the gradient."""
    plain, late = Training(component).run(_FIRST_HALF), Training(component).run(_FIRST_HALF)
    expected = plain.total(plain.terms(STEPS // 2))
    total = late.total(late.terms(STEPS // 2))
    late.criterion.step()
    (before,) = torch.autograd.grad(expected, plain.parameter)
    (after,) = torch.autograd.grad(total, late.parameter)
    same = torch.equal(before, after)
    assert same, f"{component!r}: a step before the backward pass changes the gradient"


def check_gradient(component: Adaptive) -> None:
    """The gradient of the total reaches every term."""
    training = Training(component).run(_FIRST_HALF)
    value = training.criterion.breakdown(training.terms(0)).value
    for name in NAMES:
        assert value[name].requires_grad, f"{component!r}: the value of {name!r} has no gradient"


def check_group(component: Adaptive) -> None:
    """A group of two members of weight 0.5 that both have the value of a term is that term.

    Totals, gradients, weights and state are equal, bit for bit. A transform is that of the members.
    """
    alone, halves = Training(component), Training(component, grouped=True)
    what = f"{component!r}: a group of two halves"
    for step in range(STEPS):
        gradients = []
        for training in (alone, halves):
            training.forward(step)
            gradients.append(training.parameter.grad)
            training.step(step)
        left, right = gradients
        _assert_equal(left, right, f"{what} changes the gradient")
        seen, others = (each.criterion.metrics(tensors=True) for each in (alone, halves))
        for key in seen.keys() - {f"raw/{NAMES[0]}"}:  # that of a group is after the transform
            _assert_equal(seen[key], others[key], f"{what} changes {key}")
    ours, theirs = alone.criterion.state_dict(), halves.criterion.state_dict()
    place = f"terms.{NAMES[0]}"
    for key in filter(lambda key: key.startswith(_OF_COMPONENTS), ours):
        of_member = key.replace(f"{place}.transform", f"{place}/left.transform")
        _assert_equal(ours[key], theirs[of_member], f"{what} changes {key!r}")


def check_no_sync(component: Adaptive) -> None:
    """Neither forward nor `step()` waits for the device, except for a `GramianBalancer`."""
    if isinstance(component, GramianBalancer):
        return
    training = Training(component).run(_FIRST_HALF)
    with _RefusingSyncs(component):
        training.total(training.terms(0))
        training.criterion.step()


def check_compiles_once(component: Adaptive) -> None:
    """`torch.compile(fullgraph=True)` makes one graph for a whole training.

    Gradient balancers are exempt: they run outside the compiled graph.
    """
    if isinstance(component, GradientBalancer):
        return
    torch.compiler.reset()
    graphs = 0

    def count(module: Any, _: object) -> Any:
        nonlocal graphs
        graphs += 1
        return module.forward

    eager, compiled = Training(component).run(range(STEPS)), Training(component)
    compiled.call = torch.compile(compiled.criterion, backend=count, fullgraph=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about the gradients of non-leaf tensors
        compiled.run(range(STEPS))
    torch.compiler.reset()
    assert graphs == 1, f"{component!r}: {graphs} graphs were compiled, 1 is needed"
    _assert_same(eager, compiled, f"{component!r}: compiled", tolerance=1e-4)


ADAPTIVE_PROPERTIES: tuple[Callable[[Adaptive], None], ...] = (
    check_resume,
    check_units,
    check_order,
    check_forward_is_pure,
    check_micro_batches,
    check_evaluation,
    check_coming_weights,
    check_nonfinite,
    check_absent,
    check_extremes,
    check_gradient,
    check_step_before_backward,
    check_group,
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


def _assert_equal(left: Tensor | None, right: Tensor | None, what: str) -> None:
    same = left is right or (
        left is not None and right is not None and torch.allclose(left, right, 0, 0, equal_nan=True)
    )
    assert same, f"{what}: {left} and {right}"


def _saved_and_loaded(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


def _load_from_torch_save(begun: Training, resumed: Training) -> None:
    resumed.load(_saved_and_loaded(begun.state_dict()))


def _load_from_distributed_checkpoint(begun: Training, resumed: Training) -> None:
    from torch.distributed import checkpoint  # noqa: PLC0415  # slow to import
    from torch.distributed.checkpoint import state_dict as of_model  # noqa: PLC0415

    source, target = (nn.ModuleDict({"criterion": each.criterion}) for each in (begun, resumed))
    saved: dict[str, Any] = of_model.get_model_state_dict(source)
    same = saved.keys() == source.state_dict().keys()
    assert same, f"get_model_state_dict returns other names than state_dict: {[*saved]}"
    loaded: dict[str, Any] = {key: torch.zeros_like(saved[key]) for key in saved}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about a single process
        checkpoint.save(saved, checkpoint_id=folder)  # type: ignore[attr-defined]
        checkpoint.load(loaded, checkpoint_id=folder)  # type: ignore[attr-defined]
    of_model.set_model_state_dict(target, loaded)
    resumed.load({**begun.state_dict(), "criterion": resumed.criterion.state_dict()})


_WAYS_OF_SAVING = {
    "torch.save": _load_from_torch_save,
    "torch.distributed.checkpoint": _load_from_distributed_checkpoint,
}


class _RefusingSyncs(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Raises if an operation waits for the device."""

    def __init__(self, component: Component) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._component = component

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, leaves = func.overloadpacket.__name__, torch.utils._pytree.tree_leaves(args)  # noqa: SLF001
        has_mask = any(isinstance(a, torch.Tensor) and a.dtype is torch.bool for a in leaves)
        waits = name in _SYNCS or (name.startswith("index") and has_mask)
        assert not waits, (
            f"{self._component!r}: {name} waits for the device: use torch.where in place of if, "
            "and no .item()"
        )
        return func(*args, **(kwargs or {}))
