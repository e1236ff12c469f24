"""From the given terms to one checked vector."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from fnmatch import translate
from numbers import Real
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from lossweights.config.loss_config import LossConfig
from lossweights.config.names import expanded
from lossweights.errors import did_you_mean, quoted


class Values(NamedTuple):
    """The terms of a forward pass.

    Args:
        names: The terms present, sorted.
        raws: Values before a transform, reduced to scalars, of the terms that have one.
        losses: The values of all, reduced and transformed.
        vector: `losses` as one vector, float32 or float64, shape (m,).
    """

    names: tuple[str, ...]
    raws: Mapping[str, Tensor]
    losses: list[Tensor]
    vector: Tensor


class ReadMode(Protocol):
    """What a reader needs to know of a mode."""

    weights: Tensor
    device: torch.device
    inactive: frozenset[str]
    skipped: frozenset[str]
    transforms: Mapping[str, Callable[[Tensor], Tensor]]


class Reader:
    """Reads the terms of a forward pass.

    Args:
        config: The declaration.

    Attributes:
        names: The terms, sorted.
    """

    def __init__(self, config: LossConfig) -> None:
        ignored = [name for pattern in config.ignore for name in expanded(pattern)]
        self._ignored = re.compile("|".join(map(translate, ignored)) or "(?!)")
        self.names = tuple(sorted(config.terms))
        self._declared = list(config.terms)
        self._required = frozenset(n for n, term in config.terms.items() if not term.optional)
        # Terms with a reduction or a transform: index, name, reduction, level of the transform.
        terms = [(index, name, config.terms[name]) for index, name in enumerate(self.names)]
        self._prepared = [
            (index, name, term.reduction, None if term.transform is None else term.transform.level)
            for index, name, term in terms
            if term.reduction or term.transform
        ]

    def read(self, terms: Mapping[str, Any], mode: ReadMode, *, training: bool = True) -> Values:
        """The terms as one vector, in sorted order of their names.

        Args:
            terms: The values by name; None, like a missing name, for an absent term.
            mode: Which terms may be absent, and the transforms.
            training: Whether a term must be given although its weight is 0.

        Raises:
            ValueError: For a name that is unknown or missing, and for a value that is not a
                scalar.
        """
        names = self.names
        losses: list[Any]
        if type(terms) is dict and len(terms) == len(names):
            losses = [terms.get(name) for name in names]
        else:
            names, losses = self._select(terms, mode, training=training)
        raws: dict[str, Tensor] = {}
        if self._prepared:
            losses = self._prepare(names, losses, mode, raws)
        if mode.skipped:
            losses = [
                loss.detach() if name in mode.skipped and isinstance(loss, Tensor) else loss
                for name, loss in zip(names, losses, strict=True)
            ]
        vector = None
        # A compiled graph cannot catch an error of torch.
        if not torch.compiler.is_compiling() or all(isinstance(loss, Tensor) for loss in losses):
            with suppress(TypeError, RuntimeError):
                vector = torch.stack(losses)
        if vector is not None and vector.dtype is torch.float32 and vector.ndim == 1:
            return Values(names, raws, losses, vector)
        if vector is None and any(loss is None for loss in losses):
            names, _ = self._select(terms, mode, training=training)
            losses = [loss for loss in losses if loss is not None]
        losses, vector = self._convert(names, losses, vector, mode)
        return Values(names, raws, losses, vector)

    def usage(self, found: str) -> str:
        """The message for terms that are not passed as one mapping by name."""
        shown = [f"{name!r}: {name if name.isidentifier() else '...'}" for name in self._declared]
        shown[3:] = ["..."] * (len(shown) > 3)
        return (
            "the terms are passed in one mapping by name: write "
            f"criterion({{{', '.join(shown)}}}), found {found}"
        )

    def _prepare(
        self, names: tuple[str, ...], values: list[Any], mode: ReadMode, raws: dict[str, Tensor]
    ) -> list[Any]:
        """The values, reduced, through their transforms; those before go into `raws`."""
        losses = list(values)
        for place, name, reduction, level in self._prepared:
            index = place
            if names is not self.names:
                if name not in names:
                    continue
                index = names.index(name)
            value = values[index]
            if value is None:
                continue
            if not isinstance(value, Tensor) or value.dtype is not torch.float32:
                value = _tensor(name, value, _device_of(values, mode))
            losses[index] = reduced(name, value, reduction)
            apply = mode.transforms.get(name)
            if apply is None:
                continue
            raws[name] = losses[index]
            if level == "value":
                losses[index] = apply(raws[name])
                continue
            batch = _with_batch(name, value, f"a transform of each {level}")
            if level == "element":
                losses[index] = reduced(name, apply(batch), reduction)
            else:
                mean = apply(batch.mean(dim=0))
                losses[index] = reduced(name, mean.expand_as(batch), reduction)
        return losses

    def _select(
        self, terms: Mapping[str, Any], mode: ReadMode, *, training: bool
    ) -> tuple[tuple[str, ...], list[Any]]:
        """The terms present and their values.

        Raises:
            ValueError: For a name that is unknown or missing.
        """
        if not hasattr(terms, "items"):
            raise ValueError(self.usage("none" if terms is None else type(terms).__name__))
        given = {name: value for name, value in terms.items() if value is not None}
        names = [name for name in self.names if name in given]
        if len(names) < len(given) or not self._required <= given.keys():
            inactive = mode.inactive
            if not training and not torch.compiler.is_compiling():
                weights = zip(self.names, mode.weights.tolist(), strict=True)
                inactive = inactive.union(name for name, weight in weights if weight == 0)
            self._check_names(given, inactive)
        return tuple(names), [given[name] for name in names]

    def _check_names(self, given: Mapping[str, Any], inactive: Collection[str]) -> None:
        unknown = [
            name
            for name in given
            if name not in self.names and self._ignored.match(str(name)) is None
        ]
        missing = [
            name
            for name in self._declared
            if name in self._required and name not in given and name not in inactive
        ]
        not_given = [name for name in self._declared if name not in given]
        problems = [
            f"{name!r} is not a term of this loss"
            f"{did_you_mean(str(name), not_given or self._declared)} (the terms are "
            f"{quoted(self._declared)}); if it is only for logging, write ignore: [{name}]"
            for name in unknown
        ]
        problems += [
            f"term {name!r} is missing (given: {quoted(given)}); "
            f"if it may be absent, write optional: true at terms.{name}"
            for name in missing
        ]
        if problems:
            raise ValueError("\n".join(problems))

    def _convert(
        self, names: Sequence[str], losses: list[Any], vector: Tensor | None, mode: ReadMode
    ) -> tuple[list[Tensor], Tensor]:
        """The values as tensors of float32 or float64, and as one vector.

        Raises:
            ValueError: For a value that is not a real scalar, and for values on several devices.
        """
        if vector is not None and vector.ndim == 1:
            if vector.dtype is torch.float64:
                return losses, vector
            if all(loss.is_floating_point() for loss in losses):
                return losses, vector.float()
        devices = {n: v.device for n, v in zip(names, losses, strict=True) if isinstance(v, Tensor)}
        if len(set(devices.values())) > 1:
            found = ", ".join(f"{name!r} on {device}" for name, device in devices.items())
            raise ValueError(f"the terms are on different devices ({found}): move them to one")
        device = _device_of(losses, mode)
        losses = [
            reduced(name, _tensor(name, loss, device), None)
            for name, loss in zip(names, losses, strict=True)
        ]
        if not losses:
            return [], torch.empty(0, dtype=torch.float32, device=device)
        return losses, torch.stack(losses)


def _device_of(values: Sequence[object], mode: ReadMode) -> torch.device:
    """The device of the first tensor; that of the mode if all are numbers."""
    return next((value.device for value in values if isinstance(value, Tensor)), mode.device)


def _tensor(name: str, value: object, device: torch.device) -> Tensor:
    """A term's value as a real tensor of float32 or float64."""
    if isinstance(value, Real) and not isinstance(value, bool):
        # The 0.0 of a branch that is off.
        return torch.tensor(float(value), dtype=torch.float32, device=device)
    if not isinstance(value, Tensor):
        found = f"{type(value).__name__}: {value!r}"
        if isinstance(value, list | tuple):
            found = f"{type(value).__name__} of {len(value)}: give one value, such as its sum(...)"
        raise ValueError(f"term {name!r} must be a tensor, found {found}")
    if value.is_complex():
        raise ValueError(
            f"term {name!r} must be real, found {value.dtype}: give its absolute value"
        )
    return value if value.dtype is torch.float64 else value.float()


def reduced(name: str, value: Tensor, reduction: str | None) -> Tensor:
    """A term's value as a scalar.

    Raises:
        ValueError: For a value that is not a scalar, if no reduction is declared.
    """
    if reduction is None:
        if value.ndim == 0:
            return value
        raise ValueError(
            f"term {name!r} has shape {tuple(value.shape)}, a scalar is needed: reduce it before, "
            f"or write reduction: mean, sum or batch_mean at terms.{name}"
        )
    if reduction == "mean":
        return value.mean()
    if reduction == "sum":
        return value.sum()
    return value.sum() / len(_with_batch(name, value, f"reduction: {reduction}"))


def _with_batch(name: str, value: Tensor, wanted_by: str) -> Tensor:
    """The value, which has a batch axis.

    Raises:
        ValueError: For a scalar.
    """
    if value.ndim == 0:
        raise ValueError(
            f"term {name!r} has no batch axis for {wanted_by}: give one value per example, or drop "
            f"it at terms.{name}"
        )
    return value
