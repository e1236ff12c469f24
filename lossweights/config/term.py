"""The config of one term."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, Self

from pydantic import ValidatorFunctionWrapHandler, field_validator, model_validator

from lossweights.components.controllers import Controller, Manual
from lossweights.components.declaration import Declaration, load_plugins, written
from lossweights.components.durations import Duration, steps
from lossweights.components.json_schema import NOT_NULL, NUMBER
from lossweights.components.schedules import Schedule
from lossweights.components.transforms import Transform
from lossweights.config.names import ByName, Name, as_written, read_terms, terms_json
from lossweights.errors import did_you_mean, quoted, shown


class Term(Declaration):
    """A named scalar of the loss, and its weight over time.

    In place of a term you can write a number, which is its `weight`, or a table with `kind`, which
    is its `schedule` or `controller`. In Python a schedule, a controller or a function of the step
    will do, too.

    A term that holds `terms` is a *group*. Its value is the weighted sum of these members, and
    otherwise it is a term like any other: with a weight, a schedule or a controller of its own, and
    one weight from a balancer. A member has no controller, and no balancer sees it. The name of a
    member is `group/member` wherever terms are named.

    Args:
        weight: Base factor, which multiplies the schedule.
        schedule: The weight over time; by default constant 1.
        controller: Adjusts the weight by the value of the term, in place of a schedule.
        transform: Applied to the value of the term before it is weighted.
        balanced: Whether the balancer of the loss weights this term. By default it does, unless
            the term has a controller: two feedback loops on one term work against each other.
        after: How long the term is dormant. Until then its weight is 0, it need not be computed,
            and its schedule does not begin.
        reduction: How to reduce a value that is not a scalar: `mean`, `sum`, or `batch_mean` (the
            sum divided by the length of the first axis). By default such a value is an error.
        accumulates: What the forward passes of one optimizer step give: each its own mean
            (`mean`, so that the value of the step is the mean over them), or each a part of the
            value (`sum`), as a sum of losses divided by the number of tokens of all of them.
        optional: Whether the term may be missing from a batch, or None.
        when_zero: Whether a term is kept in the graph while its weight is 0, with zero gradients
            (`keep`, which DistributedDataParallel needs), or left out of the sum (`skip`). Its
            weight is the product of all factors but that of a balancer. With a controller it is
            read from the device at each step.
        terms: The members of a group by name, or a list of names. They may be groups themselves. A
            group has no `transform` and no `reduction`, and its members have no `controller`, no
            `balanced` and no `accumulates`.

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
    accumulates: Literal["mean", "sum"] = "mean"
    optional: bool = False
    when_zero: Literal["keep", "skip"] = "keep"
    terms: dict[Name, Term] | None = None

    @model_validator(mode="before")
    @classmethod
    def _shorthands(cls, data: Any) -> Any:
        if isinstance(data, Controller):
            return {"controller": data}
        if isinstance(data, Schedule) or callable(data):
            return {"schedule": data}
        if data is None:
            raise ValueError("this term has no value: write its weight, such as 1.0")
        if isinstance(data, dict):
            if "kind" not in data:
                return data
            family = _family_of(data["kind"])
            role = family.__name__.lower()
            fields = cls.model_fields.keys() - family.fields_of(data["kind"])
            if both := sorted(data.keys() & fields):
                raise ValueError(
                    f"{quoted(both)} beside `kind`: write the {role} as a table of its own, "
                    f"`{role}: {{kind: {data['kind']}, ...}}`"
                )
            return {role: data}
        if isinstance(data, str) and did_you_mean(data, _kinds()):
            return {_family_of(data).__name__.lower(): data}
        return data if isinstance(data, Term) else {"weight": data}

    @field_validator("weight", mode="before")
    @classmethod
    def _is_a_number(cls, weight: Any) -> Any:
        if isinstance(weight, Schedule | Controller | dict):
            kind, hint = weight.get("kind") if isinstance(weight, dict) else weight.kind, ""
            if Schedule.has_kind(kind) or Controller.has_kind(kind):
                role = _family_of(kind).__name__.lower()
                hint = f": write `{role}: {{kind: {kind}, ...}}` instead"
            raise ValueError(f"a number is needed, found {shown(weight)}{hint}")
        return weight

    @field_validator("terms", mode="wrap")
    @classmethod
    def _by_name(cls, terms: Any, read: ValidatorFunctionWrapHandler) -> ByName[Term] | None:
        return None if terms is None else read_terms(terms, read, cls.model_fields.keys())

    @model_validator(mode="after")
    def _one_owner(self) -> Self:
        if self.schedule is not None and self.controller is not None:
            raise ValueError("a term has a schedule or a controller, not both: remove one of them")
        if isinstance(self.controller, Manual) and self.weight != 1:
            raise ValueError(
                f"a weight of {self.weight:g} next to a manual controller would multiply "
                "each weight that is set: remove it, and write it as `initial` of the controller"
            )
        return self

    @model_validator(mode="after")
    def _is_observed_while_skipped(self) -> Self:
        controller = self.controller
        if controller is None or self.when_zero == "keep" or not controller.observes:
            return self
        if controller.instant or controller.source is None:
            raise ValueError(
                f"when_zero: skip would leave the term out for good: {controller.kind!r} observes "
                "its value, and a term that is left out has none. Write when_zero: keep, or let "
                "the controller observe a metric, `source: <name>`"
            )
        return self

    @model_validator(mode="after")
    def _is_reduced_after_transform(self) -> Self:
        level = "value" if self.transform is None else self.transform.level
        if level != "value" and self.reduction is None:
            raise ValueError(
                f"`{self.transform}` acts on each {level}, before the value is reduced: write "
                "`reduction: batch_mean` (the sum over dimensions, the mean over the batch), "
                "`mean` or `sum`; or write `per: value`, so that it acts on the scalar"
            )
        return self

    @model_validator(mode="after")
    def _is_whole_before_transform(self) -> Self:
        if self.transform is not None and self.accumulates == "sum":
            raise ValueError(
                f"`{self.transform}` needs the value of a whole step, and with accumulates: sum "
                "each forward pass gives a part of it: give means, or transform the loss yourself"
            )
        return self

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        """Refuses what the value of a group, a weighted sum, has no place for."""
        if self.terms is None:
            return self
        if self.transform is not None or self.reduction is not None:
            field = "reduction" if self.transform is None else "transform"
            raise ValueError(
                f"a group has no `{field}`, because the parts of its members would not add up to "
                f"it: write `{field}` at its members, or compute the value yourself, as one term"
            )
        for name, term in self.terms.items():
            if term.controller is not None:
                raise ValueError(
                    f"{shown(name)} is a member of a group and cannot have a controller: give it "
                    "to the group, or declare the member as a term of its own"
                )
            for field in ("balanced", "accumulates"):
                if getattr(term, field) != type(term).model_fields[field].default:
                    raise ValueError(
                        f"{shown(name)} is a member of a group, and `{field}` applies to the whole "
                        "group: write it there"
                    )
        return self

    def __repr_args__(self) -> Iterator[tuple[str, Any]]:
        yield from as_written(super().__repr_args__())

    def __str__(self) -> str:
        fields = dict(self.__repr_args__())
        return written(fields if fields.keys() - {"weight"} else self.weight)

    @property
    def is_balanced(self) -> bool:
        """Whether a balancer weights this term."""
        return self.controller is None if self.balanced is None else self.balanced

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        table = handler(schema)
        described = handler.resolve_ref_schema(table)
        properties = described["properties"]
        families = [properties[role]["anyOf"][0] for role in ("schedule", "controller")]
        roles = ["schedule", "controller"]  # not both
        described["not"] = {"required": roles, "properties": dict.fromkeys(roles, NOT_NULL)}
        members, null = properties["terms"]["anyOf"][0], {"type": "null"}
        of_group = {"controller": null, "balanced": null, "accumulates": {"const": "mean"}}
        member = {"properties": of_group, "not": families[1]}
        members["allOf"] = [{"additionalProperties": member}]
        properties["terms"]["anyOf"] = [*terms_json(members), null]
        described["if"] = {"required": ["terms"], "properties": {"terms": NOT_NULL}}
        described["then"] = {"properties": {"transform": null, "reduction": null}}
        return {"anyOf": [NUMBER, table, *families]}


TermLike = Term | Schedule | Controller | float | Callable[[int], float] | Mapping[str, Any]


def _kinds() -> list[str]:
    return [*Schedule.kinds(), *Controller.kinds()]


def _family_of(kind: object) -> type[Schedule | Controller]:
    """The family of a `kind`; of an unknown one, the family with the most similar name."""
    for family in (Schedule, Controller):
        if family.has_kind(kind):
            return family
    load_plugins()
    near = did_you_mean(kind, _kinds())
    return Controller if any(repr(kind) in near for kind in Controller.kinds()) else Schedule
