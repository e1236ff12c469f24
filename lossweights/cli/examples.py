"""A config for each kind that shows it, and that can be read."""

from __future__ import annotations

from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from lossweights.components.balancers import Balancer
from lossweights.components.controllers import Controller
from lossweights.components.declaration import Component
from lossweights.components.durations import Duration
from lossweights.components.schedules import Schedule, Shape
from lossweights.components.transforms import Transform
from lossweights.config.loss_config import LossConfig

# What the types of the fields alone would not tell, or tell dully.
_TELLING: dict[tuple[str, str], dict[str, Any]] = {
    ("Schedule", "constant"): {"value": 0.5},
    ("Schedule", "cyclical"): {"cycles": 4, "ratio": 0.5},
    ("Schedule", "exponential"): {"start": 1.0, "stop": 0.1, "half_life": "5%"},
    ("Schedule", "piecewise"): {"points": [["0%", 0.0], ["25%", 1.0], ["100%", 0.1]]},
    ("Schedule", "product"): {
        "factors": [
            {"kind": "cyclical", "cycles": 4},
            {"kind": "ramp", "start": 1.0, "stop": 0.1, "over": "100%"},
        ]
    },
    ("Schedule", "ramp"): {"start": 1.0, "stop": 0.1, "over": "50%"},
    ("Schedule", "repeat"): {"schedule": {"kind": "warmup", "over": "10%"}, "cycles": 4},
    ("Schedule", "sequence"): {
        "stages": [
            {"schedule": {"kind": "warmup", "over": "10%"}, "over": "50%"},
            {"schedule": 0.5},
        ]
    },
    ("Controller", "adaptive-kl"): {"target": 3.0},
    ("Controller", "augmented-lagrangian"): {"at_most": 1.5},
    ("Controller", "lagrangian"): {"at_most": 1.5},
    ("Controller", "pid"): {"target": 3.0, "response": "5%"},
    ("Controller", "plateau"): {"source": "val_loss", "factor": 0.5},
    ("Balancer", "lr-annealing"): {"reference": "first"},
    ("Transform", "capacity"): {
        "capacity": {"kind": "ramp", "start": 0.0, "stop": 25.0, "over": "50%"}
    },
    ("Transform", "free-bits"): {"threshold": 0.1},
}


def example(cls: type[Component]) -> dict[str, Any] | None:
    """A config, as plain data, with as few fields of a kind as it needs.

    Returns:
        None where none was found: for a family that no config holds, or fields whose types do
        not tell what may stand in them.
    """
    telling = _TELLING.get((cls.family.__name__, cls.kind))
    for fields in _guesses(cls) if telling is None else (telling,):
        for config in _around(cls, fields):
            try:
                LossConfig.model_validate(config)
            except ValidationError:
                continue
            return config
    return None


def _around(cls: type[Component], fields: dict[str, Any]) -> Iterator[dict[str, Any]]:
    table = {"kind": cls.kind, **fields}
    short: Any = table if fields else cls.kind
    if issubclass(cls, Balancer):
        yield {"terms": {"first": 1.0, "second": 1.0}, "balancer": short}
    elif issubclass(cls, Schedule | Controller):
        yield {"terms": {"nll": 1.0, "kl": table}}
    elif issubclass(cls, Transform):
        yield {"terms": {"nll": 1.0, "kl": {"transform": short}}}
        yield {"terms": {"nll": 1.0, "kl": {"transform": short, "reduction": "batch_mean"}}}
    elif issubclass(cls, Shape):
        yield {"terms": {"nll": 1.0, "kl": {"kind": "warmup", "over": "10%", "shape": short}}}


def _guesses(cls: type[BaseModel]) -> Iterator[dict[str, Any]]:
    """Fields that may do: those that are needed, then one more."""
    needed = {
        name: _value(field.annotation)
        for name, field in cls.model_fields.items()
        if field.is_required()
    }
    yield needed
    for name, field in cls.model_fields.items():
        if name not in needed:
            yield {**needed, name: _value(field.annotation)}


def _value(annotation: Any) -> Any:  # noqa: PLR0911  # one a type
    """Something of a type, as it would be written."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return _value(next(part for part in parts if part is not NoneType))
    if origin is Literal:
        return parts[0]
    if origin is tuple:
        return [_value(part) for part in parts if part is not ...]
    if parts:  # Annotated
        return _value(parts[0])
    if isinstance(annotation, type) and issubclass(annotation, Component):
        return "linear" if issubclass(annotation, Shape) else 1.0
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return next(_guesses(annotation))
    return {Duration: "10%", float: 0.5, int: 1, bool: True, str: "first"}.get(annotation)
