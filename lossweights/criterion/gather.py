"""From what the user hands over to named scalars: every check that a value of a term undergoes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from lossweights.config.loss_config import LossConfig
from lossweights.errors import did_you_mean, quoted


def gather(
    config: LossConfig, terms: Mapping[str, Any], dispensable: Collection[str]
) -> dict[str, Tensor]:
    """The terms that are given, as tensors on one device, in sorted order of their names.

    Args:
        config: What is wanted.
        terms: What was given.
        dispensable: Terms that may be missing for now.

    Raises:
        ValueError: For a name that is unknown or missing, and for a value that is no number.
    """
    check_named(terms)
    given = {name: value for name, value in terms.items() if value is not None}
    _check_names(config, given, dispensable)
    given = {name: value for name, value in given.items() if name in config.terms}
    places = {name: value.device for name, value in given.items() if isinstance(value, Tensor)}
    if len(set(places.values())) > 1:
        found = ", ".join(f"{name!r} on {device}" for name, device in places.items())
        raise ValueError(f"the terms lie on different devices ({found}): move them to one")
    device = next(iter(places.values())) if places else None  # torch 2.7 compiles no default
    return {name: _tensor(name, given[name], device) for name in sorted(given)}


def check_named(terms: object) -> None:
    """Refuses what holds no values by name.

    Raises:
        ValueError: For a tensor, a list, None, ...
    """
    if not hasattr(terms, "items"):
        raise ValueError(
            "the terms are given by name, as in criterion({'nll': nll, 'kl': kl}), found "
            f"{type(terms).__name__}"
        )


def _check_names(
    config: LossConfig, given: Mapping[str, Any], dispensable: Collection[str]
) -> None:
    known = config.terms
    unknown = [
        name
        for name in given
        if name not in known and not any(fnmatchcase(str(name), p) for p in config.ignore)
    ]
    missing = [
        name
        for name, term in known.items()
        if name not in given and not term.optional and name not in dispensable
    ]
    not_given = [name for name in known if name not in given]
    problems = [
        f"{name!r} is no term of this loss{did_you_mean(str(name), not_given or known)} "
        f"(the terms are {quoted(known)}); if it is only for logging, write ignore: [{name}]"
        for name in unknown
    ]
    problems += [
        f"term {name!r} is missing (given: {quoted(given)}); "
        f"if it may be absent, write optional: true at terms.{name}"
        for name in missing
    ]
    if problems:
        raise ValueError("\n".join(problems))


def _tensor(name: str, value: object, device: torch.device | None) -> Tensor:
    if isinstance(value, Real) and not isinstance(value, bool):
        return torch.tensor(float(value), device=device)  # the 0.0 of a branch that is off
    if not isinstance(value, Tensor):
        found = f"{type(value).__name__}: {value!r}"
        if isinstance(value, list | tuple):
            found = f"{type(value).__name__} of {len(value)}: give one value, such as its sum(...)"
        raise ValueError(f"term {name!r} is a tensor, found {found}")
    if value.is_complex():
        raise ValueError(f"term {name!r} is real, found {value.dtype}: give its absolute value")
    # Before the terms are put together: among them all, the lowest precision would rule.
    return value if value.dtype is torch.float64 else value.float()


def reduced(name: str, value: Tensor, reduction: str | None) -> Tensor:
    """A term's value as a scalar.

    Raises:
        ValueError: For a value that is no scalar, where no reduction is declared.
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
    return value.sum() / len(with_batch(name, value, f"reduction: {reduction}"))


def with_batch(name: str, value: Tensor, asked_by: str) -> Tensor:
    """The value, which has a batch axis.

    Raises:
        ValueError: For a scalar.
    """
    if value.ndim == 0:
        raise ValueError(
            f"term {name!r} has no batch axis for {asked_by}: give one value per "
            f"example, or drop it at terms.{name}"
        )
    return value
