"""From what the user hands over to named scalars: every check that a value of a term undergoes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from lossweights.config import LossConfig
from lossweights.errors import did_you_mean, quoted


def gather(
    config: LossConfig, terms: Mapping[str, Any], dormant: Collection[str]
) -> dict[str, Tensor]:
    """The terms that are given, as 0-dim tensors on one device, in sorted order of their names.

    Args:
        config: What is wanted.
        terms: What was given.
        dormant: Terms that may be missing for now.

    Raises:
        ValueError: For a name that is unknown or missing, and for a value that is no scalar.
    """
    if not isinstance(terms, Mapping) and not hasattr(terms, "items"):
        raise ValueError(
            "the terms are given by name, as in criterion({'kl': kl}), found "
            f"{type(terms).__name__}"
        )
    given = {name: value for name, value in terms.items() if value is not None}
    _check_names(config, given, dormant)
    found = {
        name: _scalar(name, given[name], config.terms[name].reduction)
        for name in sorted(config.terms)
        if name in given
    }
    devices = {value.device for value in found.values() if isinstance(value, Tensor)}
    if len(devices) > 1:
        places = ", ".join(f"{name!r} on {value.device}" for name, value in found.items())
        raise ValueError(f"the terms lie on different devices ({places}): move them to one")
    device = devices.pop() if devices else None
    return {name: torch.as_tensor(value, device=device) for name, value in found.items()}


def _check_names(config: LossConfig, given: Mapping[str, Any], dormant: Collection[str]) -> None:
    known = config.terms
    unknown = [
        name
        for name in given
        if name not in known and not any(fnmatchcase(str(name), p) for p in config.ignore)
    ]
    missing = [
        name
        for name, term in known.items()
        if name not in given and not term.optional and name not in dormant
    ]
    problems = []
    for name in unknown:
        near = did_you_mean(str(name), missing or known)
        problems.append(
            f"{name!r} is no term of this loss{near} (the terms are {quoted(known)}); "
            f"if it is only for logging, write ignore: [{name}]"
        )
    for name in missing:
        problems.append(
            f"term {name!r} is missing (given: {quoted(given)}); "
            f"if it may be absent, write optional: true at terms.{name}"
        )
    if problems:
        raise ValueError("\n".join(problems))


def _scalar(name: str, value: Any, reduction: str | None) -> Tensor | float:
    if not isinstance(value, Tensor):
        if isinstance(value, Real) and not isinstance(value, bool):
            return float(value)  # a constant, such as the 0.0 of a branch that is off
        raise ValueError(f"term {name!r} is a tensor, found {type(value).__name__}: {value!r}")
    if not value.is_floating_point():
        raise ValueError(
            f"term {name!r} is a floating-point tensor, found {value.dtype}: "
            "a loss comes from float32, float64, bfloat16 or float16 values"
        )
    if reduction is None:
        if value.ndim == 0:
            return value
        raise ValueError(
            f"term {name!r} has shape {tuple(value.shape)}, a scalar is needed: reduce it before, "
            f"or write reduction: mean, sum or batch_mean at terms.{name}"
        )
    if value.dtype in (torch.float16, torch.bfloat16):
        value = value.float()
    if reduction == "mean":
        return value.mean()
    if reduction == "sum":
        return value.sum()
    if value.ndim == 0:
        raise ValueError(
            f"term {name!r} has no batch axis for reduction: batch_mean: give one value per "
            f"example, or drop the reduction at terms.{name}"
        )
    return value.sum() / value.shape[0]
