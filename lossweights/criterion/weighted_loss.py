"""`WeightedLoss`: checks the terms, weights them, adds them up, and keeps time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from os import PathLike
from typing import Any, Literal, Self

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from lossweights.components.balancers import Balancer, GradientBalancer
from lossweights.components.durations import Duration
from lossweights.config.files import plain
from lossweights.config.loss_config import EvalWeights, LossConfig, OnNonfinite
from lossweights.config.term import TermLike
from lossweights.criterion.account import Account
from lossweights.criterion.gather import check_named
from lossweights.criterion.gradients.shared import SharedLike
from lossweights.criterion.report import Breakdown
from lossweights.criterion.standing import Standing
from lossweights.errors import ConfigError, HorizonError, explain


class WeightedLoss(Account):
    """Combines named terms into one scalar, each with the weight that its config gives it now.

    Args:
        terms: The terms by name: a number (a constant weight), a schedule, a table, a `Term`, or
            in Python a function of the step; or a list of names, all of weight 1.
        total_steps: Optimizer steps of the whole training, or `"40 epochs"`.
        steps_per_epoch: Optimizer steps of an epoch.
        eval_weights: What counts in evaluation: `final`, `current`, `ones`, or weights by name.
        on_nonfinite: `propagate`, `raise` or `skip_term`.
        ignore: Names or patterns that may be given without being terms.
        balancer: What weighs all terms together, such as `uncertainty` or a table with `kind`.
        sync: `auto`: what adapts is averaged over the ranks, where there are several; `off`.
        clock: Another criterion whose clock this one shares: two optimizers of one training.
        process_group: The ranks of `torch.distributed` that train together; None for all.

    Raises:
        ConfigError: For a declaration that cannot be used; each line names its place.

    Only `step()`, or the optimizer that it follows, moves its time. In evaluation (eval mode, or
    gradients disabled) `eval_weights` rules and nothing is recorded.

    >>> import torch
    >>> from lossweights import Cyclical, WeightedLoss
    >>> criterion = WeightedLoss(
    ...     terms={"reconstruction": 1.0, "kl": Cyclical(cycles=4, ratio=0.5)}, total_steps=40_000
    ... )
    >>> criterion.set_step(2_500)
    >>> criterion({"reconstruction": torch.tensor(3.0), "kl": torch.tensor(2.0)})
    tensor(4.)
    """

    def __init__(
        self,
        terms: Mapping[str, TermLike] | Sequence[str],
        *,
        total_steps: int | Duration | str | None = None,
        steps_per_epoch: int | None = None,
        eval_weights: EvalWeights | Mapping[str, float] = "final",
        on_nonfinite: OnNonfinite = "propagate",
        ignore: Sequence[str] = (),
        balancer: Balancer | str | Mapping[str, Any] | None = None,
        sync: Literal["auto", "off"] = "auto",
        clock: WeightedLoss | None = None,
        process_group: Any = None,
    ) -> None:
        if isinstance(terms, str | PathLike | LossConfig):
            raise ConfigError(
                f"terms is a table by name or a list of names, found {terms!r}; "
                "from a file or a LossConfig build it with WeightedLoss.from_config(...)"
            )
        declared = {
            "terms": terms,
            "total_steps": total_steps,
            "steps_per_epoch": steps_per_epoch,
            "eval_weights": eval_weights,
            "on_nonfinite": on_nonfinite,
            "ignore": ignore,
            "balancer": balancer,
            "sync": sync,
        }
        try:
            config = LossConfig.model_validate(plain(declared))
        except ValidationError as error:
            raise ConfigError(explain(error)) from None
        super().__init__(config, clock, process_group)
        self._names = tuple(sorted(config.terms))
        self._is_plain = (
            config.on_nonfinite == "propagate"
            and not isinstance(config.balancer, GradientBalancer)
            and not any(term.reduction or term.transform for term in config.terms.values())
        )

    @classmethod
    def from_config(
        cls,
        source: LossConfig | Mapping[str, Any] | str | PathLike[str],
        at: str | None = None,
        *,
        clock: WeightedLoss | None = None,
        process_group: Any = None,
    ) -> Self:
        """A criterion from a `LossConfig`, a mapping, or a JSON, TOML or YAML file.

        Args:
            source: The config, or where it is.
            at: Where in it the declaration lies, as a dotted path.
            clock: Another criterion whose clock this one shares.
            process_group: The ranks that train together; None for all.

        Raises:
            ConfigError: Naming, for every problem, its place and what to write.

        >>> config = {"loss": {"terms": {"nll": 1.0, "kl": 0.5}}}
        >>> WeightedLoss.from_config(config, at="loss").weights
        {'nll': 1.0, 'kl': 0.5}
        """
        config = LossConfig.read(source, at)
        declared = {name: getattr(config, name) for name in LossConfig.model_fields}
        return cls(**declared, clock=clock, process_group=process_group)

    def forward(
        self, terms: Mapping[str, Tensor | None], shared: SharedLike | None = None
    ) -> Tensor:
        """The weighted sum, a scalar with its graph, in float32 (float64 for float64 terms).

        Args:
            terms: A scalar tensor for each term by name, in any order; None, like a missing
                name, for one that is optional or dormant.
            shared: For a balancer that weighs by gradients, with respect to what they are taken:
                features, as the trunk returned them, or parameters; a tensor, or a sequence or
                mapping of tensors. All others leave it alone.

        Raises:
            ValueError: For a name that is missing or unknown, and for a value that is no scalar;
                for `shared` where it is needed and missing, or does not lead to a term.
            HorizonError: Where the length of training is needed and not known: call `bind`.
            FloatingPointError: For a nan or inf, with `on_nonfinite="raise"`.
        """
        if type(terms) is not dict:  # its `__class__` is what torch 2.15 does not compile
            check_named(terms)
        training = self.training and torch.is_grad_enabled()
        standing = self._in_training if training else self._in_evaluation
        if standing is None:
            raise HorizonError(self._lacking)
        # The short way of every ordinary step: all terms there, each a scalar. Whatever does not
        # fit raises on it and goes the long way, which checks one by one and says what is wrong.
        adaptation = standing.adaptation
        quiet = standing.left_out or (adaptation is not None and standing.dormant)
        if self._is_plain and not quiet and len(terms) == len(self._names):
            try:
                losses: list[Tensor] = [terms[name] for name in self._names]  # type: ignore[misc]
                values = torch.stack(losses)
                # What is written over must be copied: it may move on before the backward pass.
                weights = standing.weights.clone() if standing.in_place else standing.weights
                factors, penalty, measured = None, None, values
                if adaptation is not None and standing.weighs:
                    if values.dtype is not torch.float32 or values.ndim != 1:
                        return self._long_way(terms, standing, training, shared)
                    factors, penalty = adaptation.weigh(values, self._names, standing.moments)
                    if penalty is None:
                        measured = values * factors
                    else:
                        measured = torch.addcmul(penalty, factors, values)
                total = torch.dot(measured, weights)  # refuses all but float32 on one device
            except (KeyError, IndexError, TypeError, RuntimeError):
                return self._long_way(terms, standing, training, shared)
            if training:
                self._seen.record(self._names, losses, values, weights, factors, penalty)
                if adaptation is not None and adaptation.observes:
                    adaptation.observe(values, {}, self._names)
            return total
        return self._long_way(terms, standing, training, shared)

    def breakdown(self, terms: Mapping[str, Tensor | None]) -> Breakdown:
        """All parts of the total for these terms, without recording anything.

        A balancer that weighs by gradients takes none: its weights are those that stand, after a
        forward pass those of that.

        Raises:
            ValueError: As a call does.
            HorizonError: As a call does.
        """
        training = self.training and torch.is_grad_enabled()
        combined = self._combined(terms, self._standing(training), training)
        weights, factors, penalty = combined.weights, combined.factors, combined.penalty
        return Breakdown.of(
            combined.names,
            combined.raws,
            combined.losses,
            weights if factors is None else weights * factors,
            None if penalty is None else weights * penalty,
            combined.left_out,
            self.config.terms,
        )

    def wrap(self, function: Callable[..., Mapping[str, Tensor | None]]) -> WrappedLoss:
        """A module that calls `function`, which returns named terms, and combines them.

        For a balancer that weighs by gradients it returns what they share too, `terms, features`.

        >>> criterion = WeightedLoss(terms={"mse": 1.0, "l1": 0.1})
        >>> loss_fn = criterion.wrap(
        ...     lambda out, target: {"mse": ((out - target) ** 2).mean(), "l1": out.abs().mean()}
        ... )
        >>> loss_fn(torch.ones(3), torch.zeros(3))
        tensor(1.1000)
        """
        return WrappedLoss(function, self)

    def _long_way(
        self,
        terms: Mapping[str, Tensor | None],
        standing: Standing,
        training: bool,
        shared: SharedLike | None,
    ) -> Tensor:
        go: Callable[..., Tensor] = WeightedLoss._checked
        if training and isinstance(self.config.balancer, GradientBalancer):
            if torch.compiler.is_compiling():
                raise RuntimeError(
                    f"the balancer {self.config.balancer.kind!r} takes gradients, which a compiled "
                    "graph cannot: compile the model, and call the criterion outside"
                )
            # Around it something may be compiled, in pieces: this is called without compiling
            # then, and torch would go on to compile what is called from here.
            go = _uncompiled(go)
        return go(self, terms, standing, training, shared)

    def _checked(
        self,
        terms: Mapping[str, Tensor | None],
        standing: Standing,
        training: bool,
        shared: SharedLike | None,
    ) -> Tensor:
        if training and not torch.compiler.is_compiling() and isinstance(terms, Mapping):
            devices = {
                value.device
                for name, value in terms.items()
                if isinstance(value, Tensor) and name in self.config.terms
            }
            if len(devices) == 1 and devices != {self._device}:
                self._move(devices.pop())  # to where the losses are, once
                standing = self._standing(training)
        combined = self._combined(terms, standing, training, shared, takes_gradients=training)
        if training:
            names, raws, values = combined.names, combined.raws, combined.values
            adaptation, quiet = self._adaptation, standing.inactive
            self._seen.record(
                names,
                combined.losses,
                values,
                combined.weights,
                combined.factors,
                combined.penalty,
                raws if adaptation is not None else None,
                combined.left_out,
            )
            if adaptation is not None and combined.taken is not None:
                adaptation.record(combined.taken)
            if adaptation is not None and adaptation.observes:
                where = [index for index, name in enumerate(names) if name not in quiet]
                if where:
                    adaptation.observe(
                        torch.stack([values[index] for index in where]),
                        {names[index]: raws[index] for index in where},
                        [names[index] for index in where],
                    )
        return combined.total

    def extra_repr(self) -> str:
        """The terms, as declared."""
        return ", ".join(f"{name}: {term!r}" for name, term in self.config.terms.items())


@cache
def _uncompiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function that torch does not compile; made once, which takes longer than a call."""
    return torch.compiler.disable(function)  # type: ignore[no-untyped-call, no-any-return]


class WrappedLoss(nn.Module):
    """A function that returns named terms, with a criterion that combines them.

    Args:
        function: Called with the module's arguments, gives terms, or terms and what they share; a
            module's parameters travel along.
        criterion: What combines the terms.
    """

    def __init__(
        self, function: Callable[..., Mapping[str, Tensor | None]], criterion: WeightedLoss
    ) -> None:
        super().__init__()
        self.function = function
        self.criterion = criterion

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The total of the terms that the function returns for these arguments.

        Raises:
            TypeError: Where it returns no named terms.
        """
        found: Any = self.function(*args, **kwargs)
        terms, shared = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
        if not hasattr(terms, "items"):
            raise TypeError(
                f"the wrapped function returns named terms, such as {{'kl': kl}}, or these and "
                f"what they share, found {type(terms).__name__}"
            )
        return self.criterion(terms, shared)  # type: ignore[no-any-return]
