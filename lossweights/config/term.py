"""What a config says of one term."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, Self

from pydantic import model_validator

from lossweights.components.controllers import Controller
from lossweights.components.declaration import Declaration, load_plugins
from lossweights.components.durations import Duration, steps
from lossweights.components.schedules import Schedule
from lossweights.components.transforms import Transform
from lossweights.errors import did_you_mean, quoted


class Term(Declaration):
    """A named scalar of the loss, and how much it counts when.

    Where a term is wanted a number stands for `weight`, a table with `kind` for `schedule` or
    `controller`, and in Python also a schedule, a controller or a function of the step.

    Args:
        weight: Base factor, by which the schedule is multiplied.
        schedule: The weight over time; constant 1 where there is none.
        controller: What steers the weight by the term's own value, in place of a schedule.
        transform: What the term's value goes through before it is weighted.
        balanced: Whether the balancer of the loss gives this term a weight; where it is not said,
            it does so unless the term has a controller: two feedback loops on one term fight.
        after: How long the term is dormant: until then its weight is 0, it need be neither given
            nor computed, and its schedule waits for it.
        reduction: What to do with a value that is not a scalar: `mean`, `sum`, or `batch_mean`
            (the sum divided by the length of the first axis). An error where it is not said.
        optional: Whether the term may be missing from a batch (or None).
        when_zero: With a weight of 0 the term stays in the graph and gives zero gradients
            (`keep`, what DistributedDataParallel needs), or is left out of the sum (`skip`).

    >>> from lossweights import Term, Warmup, WeightedLoss
    >>> kl = Term(weight=0.5, schedule=Warmup(over="4 steps"), after="2 steps")
    >>> criterion = WeightedLoss({"nll": 1.0, "kl": kl})
    >>> criterion.set_step(4)
    >>> criterion.weights
    {'nll': 1.0, 'kl': 0.25}
    """

    weight: float = 1.0
    schedule: Schedule | None = None
    controller: Controller | None = None
    transform: Transform | None = None
    balanced: bool | None = None
    after: Duration | str = steps(0)
    reduction: Literal["mean", "sum", "batch_mean"] | None = None
    optional: bool = False
    when_zero: Literal["keep", "skip"] = "keep"

    @model_validator(mode="before")
    @classmethod
    def _shorthands(cls, data: Any) -> Any:
        if isinstance(data, Controller):
            return {"controller": data}
        if isinstance(data, Schedule) or callable(data):
            return {"schedule": data}
        if data is None:
            raise ValueError("nothing is said of this term: write its weight, such as 1.0")
        if isinstance(data, dict):
            if "kind" not in data:
                return data
            family = _family_of(data["kind"])
            role = family.__name__.lower()
            fields = cls.model_fields.keys() - family.fields_of(data["kind"])
            if both := sorted(data.keys() & fields):
                raise ValueError(
                    f"{quoted(both)} beside `kind`: put the {role} into a table of its own, "
                    f"`{role}: {{kind: {data['kind']}, ...}}`"
                )
            return {role: data}
        if isinstance(data, str) and did_you_mean(data, _kinds()):
            return {_family_of(data).__name__.lower(): data}
        return data if isinstance(data, Term) else {"weight": data}

    @model_validator(mode="after")
    def _one_owner(self) -> Self:
        if self.schedule is not None and self.controller is not None:
            raise ValueError(
                "a term has a schedule or a controller, not both: one owner for one factor"
            )
        return self

    @model_validator(mode="after")
    def _has_what_is_transformed(self) -> Self:
        level = "value" if self.transform is None else self.transform.level
        if level != "value" and self.reduction is None:
            raise ValueError(
                f"{self.transform!r} acts on each {level}, before the value is reduced: say how, "
                "with reduction: batch_mean (sums over dimensions, mean over the batch), mean or "
                "sum; or let the transform act on the scalar, with per: value"
            )
        return self

    @property
    def is_balanced(self) -> bool:
        """Whether a balancer gives this term a weight."""
        return self.controller is None if self.balanced is None else self.balanced

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        table = handler(schema)
        properties = handler.resolve_ref_schema(table)["properties"]
        families = [properties[role]["anyOf"][0] for role in ("schedule", "controller")]
        return {"anyOf": [{"type": "number"}, table, *families]}


TermLike = Term | Schedule | Controller | float | Callable[[int], float] | Mapping[str, Any]


def _kinds() -> list[str]:
    return [*Schedule.kinds(), *Controller.kinds()]


def _family_of(kind: object) -> type[Schedule | Controller]:
    """Which of the two a term's `kind` belongs to; for an unknown one, to which it is nearer."""
    for family in (Schedule, Controller):
        if family.has_kind(kind):
            return family
    load_plugins()
    near = did_you_mean(str(kind), _kinds())
    return Controller if any(repr(kind) in near for kind in Controller.kinds()) else Schedule
