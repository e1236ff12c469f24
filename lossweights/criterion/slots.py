"""One component in its place, with its state and the values of its scheduled fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from lossweights.components.balancers import Balancer, GradientBalancer
from lossweights.components.balancers.base import adjusted_weights
from lossweights.components.context import Gradients, State, StepContext, orthonormal
from lossweights.components.controllers import Controller
from lossweights.components.durations import Horizon
from lossweights.components.transforms import Transform
from lossweights.config.loss_config import Part
from lossweights.criterion.indexing import take
from lossweights.criterion.torch_internals import version
from lossweights.errors import ConfigError


class Slot:
    """A component in its place.

    Args:
        place: Its place in the config, such as `terms.kl.controller` or `balancer`.
        component: The component.
        terms: The terms that it serves, sorted.
        table: Its tensors that are not learned, at fixed addresses on a device.
        learned: The learned ones; torch may replace them in this mapping.

    Attributes:
        now: What the component is given between forward passes.
        adjusts: Whether the weights that a balancer finds are not those that are applied.
    """

    def __init__(
        self,
        place: str,
        component: Controller | Transform | Balancer,
        terms: tuple[str, ...],
        table: State,
        learned: Mapping[str, Tensor | None] | None = None,
    ) -> None:
        self.place, self.component, self.terms = place, component, terms
        self._table, self._learned = table, learned or {}
        self._pairs = getattr(component, "pairs", ())
        self.now = self._inside = StepContext({}, terms=terms)
        self.adjusts = isinstance(component, Balancer) and component.adjusts
        self._penalty = (
            component.penalty
            if isinstance(component, Balancer) and type(component).penalty is not Balancer.penalty
            else None
        )

    @property
    def state(self) -> State:
        """All tensors of the component; learned ones may have been replaced by torch."""
        return {**self._table, **self._learned} if self._learned else self._table  # type: ignore[dict-item]

    @property
    def learns(self) -> bool:
        """Whether the component has an `update`."""
        return type(self.component).update is not Balancer.update

    @property
    def adapts(self) -> bool:
        """Whether the component has any state."""
        return bool(self.state)

    def with_fields(self, fields: Mapping[str, Tensor]) -> Slot:
        """Another slot with the same component, for values of scheduled fields that stay."""
        slot = Slot(self.place, self.component, self.terms, self._table)
        slot.show(0, 0, Horizon(), fields)
        return slot

    def show(
        self,
        step: int,
        before: int,
        horizon: Horizon,
        fields: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Sets the step, and the values of scheduled fields; None to keep these."""
        terms = self.terms
        if fields is not None:
            self._inside = StepContext(fields, terms=terms)
        fields = self._inside.fields
        self.now = StepContext(fields, terms=terms, step=step, before=before, horizon=horizon)

    def apply(self, value: Tensor) -> Tensor:
        """The value through a transform."""
        # Copies: the clock may move before the backward pass, and the state with it.
        state = {key: tensor.clone() for key, tensor in self.state.items()}
        return self.component.apply(value, state, self._inside)  # type: ignore[union-attr]

    def weigh(self, values: Tensor) -> Tensor:
        """The weights until the next step, of a component that does not read the losses."""
        weights: Tensor = self.component.weigh(values, self.state, self.now)  # type: ignore[union-attr]
        return weights if weights.dtype is torch.float32 else weights.float()

    def weigh_inside(
        self, values: Tensor, where: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The weights and penalties of a forward pass, none of which is a tensor of the state.

        They have the dtype of the values, float32 or float64.

        Args:
            values: The values of the terms present, detached.
            where: Their positions among the slot's terms; None for all.
        """
        state, now = self.state, self._inside
        if where is not None:
            state = {key: take(tensor, where) for key, tensor in state.items()}
            now = StepContext(now.fields, terms=tuple(self.terms[index] for index in where))
        weights = self.component.weigh(values, state, now)  # type: ignore[union-attr]
        penalty = None if self._penalty is None else self._penalty(state, now)
        if weights.dtype is not values.dtype:
            weights = weights.to(values)
        # The state may change before the backward pass.
        if state and weights.is_leaf:
            weights = weights.clone()
        if penalty is not None and penalty.dtype is not values.dtype:
            penalty = penalty.to(values)
        if penalty is not None and penalty.is_leaf:
            penalty = penalty.clone()
        return weights, penalty

    def adjusted(self, found: Tensor) -> Tensor:
        """The weights that are applied, for those that a balancer that `adjusts` found."""
        balancer = self.component
        weights = adjusted_weights(found, balancer.normalize, balancer.bounds)  # type: ignore[union-attr]
        if not found.requires_grad:
            return weights
        # Learned weights have the gradient that they would have without: beyond a bound there would
        # be none, and the penalty alone would move them.
        return weights.detach() + (found - found.detach())

    def learn(self, observed: Tensor, valid: Tensor, gradients: Gradients | None = None) -> None:
        """Updates the state from one step, or one interval.

        Args:
            observed: What the component observes.
            valid: Whether something finite was observed: 0-dim, or one for each term. The state of
                the other terms stays as it was.
            gradients: Means of the gradients' statistics over the step.
        """
        now = self.now if gradients is None else self.now.with_gradients(gradients)
        self._change(self.component.update, observed, valid, now)

    def learn_after(self, observed: Tensor, valid: Tensor) -> None:
        """Updates the state from the losses after the step."""
        self._change(self.component.update_after, observed, valid, self.now)  # type: ignore[union-attr]

    def _change(
        self,
        update: Callable[[Tensor, State, StepContext], None],
        observed: Tensor,
        valid: Tensor,
        now: StepContext,
    ) -> None:
        """Gives `update` copies of the state, and keeps what belongs to terms that were seen."""
        state = {key: tensor.detach().clone() for key, tensor in self.state.items()}
        copies = dict(state)
        if (returned := update(observed, state, now)) is not None:  # type: ignore[func-returns-value]
            raise RuntimeError(
                f"{self.place}: {update.__name__}() returns {returned!r}, which would be lost: it "
                "changes the state, as in state['average'] = ..."
            )
        self._check_update(f"{self.place}: {update.__name__}()", state)
        for key, tensor in self.state.items():
            new, mask = state[key], valid
            if key in self._pairs and valid.ndim:
                mask = valid[:, None] & valid
            elif not tensor.ndim and valid.ndim:
                mask = valid.any()
            if key not in self._learned:
                torch.where(mask, new.to(tensor.dtype), tensor, out=tensor)
            elif new is not copies[key] or version(new):  # else a backward pass may need it
                tensor.copy_(torch.where(mask, new, tensor))

    def _check_update(self, what: str, state: State) -> None:
        declared = self.state
        if added := state.keys() - declared.keys():
            raise RuntimeError(
                f"{what} adds {min(added)!r} to its state, where it would be lost: declare it in "
                "init()"
            )
        if removed := declared.keys() - state.keys():
            raise RuntimeError(
                f"{what} removes {min(removed)!r} from its state: keep what init() declared"
            )
        for key, new in state.items():
            if not isinstance(new, Tensor):
                raise RuntimeError(f"{what} sets {key!r} to {new!r}: a tensor is needed")
            if new.shape != (shape := declared[key].shape):
                raise RuntimeError(
                    f"{what} gives {key!r} shape {tuple(new.shape)}, init() gave it "
                    f"{tuple(shape)}: keep the shape"
                )

    def why_impossible(self, state: State) -> str:
        """The key and the problem of a state that gives impossible weights; empty if none does."""
        if not (state and (problem := self._problem_of(state))):
            return ""
        ours = self.state
        guilty = [key for key in state if not self._problem_of({**state, key: ours[key]})]
        return f"{(guilty or [*state])[0]} {problem}"

    @torch.no_grad()
    def _problem_of(self, state: State) -> str:
        component = self.component
        if isinstance(component, Transform | GradientBalancer):
            return ""
        shape = () if isinstance(component, Controller) else (len(self.terms),)
        device = next(iter(state.values())).device
        value = 1.0 if component.instant else torch.nan
        losses = torch.full(shape, value, dtype=torch.float32, device=device)
        weights = component.weigh(losses, state, self.now)
        is_signed = isinstance(component, Controller) and not component.stays_above_zero
        if not weights.isfinite().all() or (not is_signed and (weights < 0).any()):
            return f"gives weights of {weights.tolist()}, which no training produces"
        return ""

    def check(self, device: torch.device) -> None:
        """Calls the component once, and checks what it returns.

        Raises:
            ConfigError: If its weights are not numbers, or not one for each term.
        """
        component = self.component
        if isinstance(component, Transform):
            return
        n = len(self.terms)
        shape = () if isinstance(component, Controller) else (n,)
        now = self.now
        value = 1.0 if component.instant else torch.nan
        values = torch.full(shape, value, dtype=torch.float32, device=device)
        if isinstance(component, GradientBalancer):
            now = now.with_gradients(orthonormal(self.terms, device))
        with torch.no_grad():
            weights = component.weigh(values, self.state, now)
            self._check_weights(weights, shape, "weigh")
            if version(values):
                raise ConfigError(
                    f"{self.place}: weigh() of {type(component).__name__} changes the losses in "
                    "place, which are those of the total: write losses / x in place of losses /= x"
                )
            if self._penalty is not None:
                penalty = self._penalty(self.state, now)
                if penalty is not None:
                    self._check_weights(penalty, shape, "penalty")

    def _check_weights(self, weights: Tensor, shape: tuple[int, ...], method: str) -> None:
        kind, place = type(self.component).__name__, self.place
        if not isinstance(weights, Tensor):
            raise ConfigError(
                f"{place}: {method}() of {kind} must return a tensor, found {weights!r}"
            )
        if tuple(weights.shape) != shape:
            raise ConfigError(
                f"{place}: {method}() of {kind} returns shape {tuple(weights.shape)}, {shape} is "
                f"needed: {'one number for each term' if shape else 'one number'}"
            )
        if not weights.is_meta and not weights.isfinite().all():
            hint = ""
            reads = method == "weigh" and not getattr(self.component, "instant", False)
            if reads and weights.isnan().any():
                hint = ": weigh() reads the losses only in a class with `instant = True`"
            raise ConfigError(f"{place}: {method}() of {kind} returns {weights.tolist()}{hint}")


def initial_state(part: Part, n: int) -> State:
    """The tensors that a component declares, in float32 or whole numbers.

    Args:
        part: The component in its place.
        n: Number of balanced terms.

    Raises:
        ConfigError: For anything that cannot be state.
    """
    component, place = part.component, part.place
    if isinstance(component, Balancer):
        declared, wanted = component.init(n), f"is 0-dim, or has the {n} terms on its last axis"
    else:
        n, declared, wanted = 0, component.init(), "is 0-dim"
    if not isinstance(declared, dict) or not all(
        isinstance(tensor, Tensor) for tensor in declared.values()
    ):
        raise ConfigError(
            f"{place}: init() returns tensors by name, as in {{'average': torch.zeros(n)}}, found "
            f"{declared!r}"
        )
    state: State = {}
    for key, tensor in declared.items():
        if tensor.ndim > 0 and (n == 0 or tensor.shape[-1] != n):
            raise ConfigError(
                f"{place}: init() returns {key!r} of shape {tuple(tensor.shape)}; a tensor of the "
                f"state {wanted}"
            )
        if not isinstance(tensor, nn.Parameter):
            kept = tensor.detach().clone(memory_format=torch.contiguous_format)
            state[key] = kept.float() if kept.is_floating_point() else kept
        elif isinstance(component, GradientBalancer):
            raise ConfigError(
                f"{place}: {key!r} is an nn.Parameter, which a GradientBalancer cannot have: let "
                "update() change it"
            )
        elif isinstance(component, Balancer):
            state[key] = nn.Parameter(tensor.detach().float().clone())
        else:
            raise ConfigError(
                f"{place}: {key!r} is an nn.Parameter, which only a balancer can have"
            )
    return state
