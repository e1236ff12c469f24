"""The config of a loss: its terms, balancer, length of training and options."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from os import PathLike
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import (
    BaseModel,
    Discriminator,
    Field,
    PlainSerializer,
    PlainValidator,
    Tag,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from lossweights.components.balancers import Balancer
from lossweights.components.controllers import Controller
from lossweights.components.declaration import Component, Declaration
from lossweights.components.durations import (
    Duration,
    Horizon,
    pattern,
    read_total,
    read_total_steps,
    wrong_unit,
)
from lossweights.components.transforms import Transform
from lossweights.config.files import Location, Source, plain
from lossweights.config.term import Term
from lossweights.errors import ConfigError, did_you_mean, dotted, explain, quoted, shown

EvalWeights = Literal["final", "current"]
OnNonfinite = Literal["propagate", "raise", "skip_term"]

_MOST_TERMS = 10_000

_TEXT = {"type": "string"}
_NAME = _TEXT | {"minLength": 1, "pattern": r"^[^*\x00-\x1f\x7f-\x9f\u2028\u2029]*$"}
_COUNT = {"type": "integer", "minimum": 1, "maximum": 2**53}
_TOTAL_STEPS = {
    "anyOf": [
        _COUNT,
        _TEXT | {"pattern": pattern("steps", "epochs", count=True)},
        {"type": "null"},
    ]
}
_TOTAL = {
    "anyOf": [_TEXT | {"pattern": pattern("steps", "epochs", own=True)}, {"type": "null"}],
}


class LossConfig(Declaration):
    """The config of a `WeightedLoss`.

    Args:
        terms: The terms by name. In a list of names, each has weight 1.
        total_steps: Optimizer steps of the whole training, or `"40 epochs"`. Can be bound later.
        steps_per_epoch: Optimizer steps of an epoch. Can be bound later.
        total: The length of the whole training in any unit, in place of `total_steps`: with
            `"2e9 tokens"` the clock counts tokens, and durations are in tokens or percent.
        eval_weights: The weights in evaluation. `final`: those at the end of training, so that the
            total means the same during the whole run. `current`: those of training at this step.
            A table of weights by name: these, and `final` for the other terms.
        on_nonfinite: What happens in training if a term is nan or inf: `propagate` it into the
            total, `raise` an error that names the term, or `skip_term`, which leaves the term out
            of the sum. The last two read the values on the host at each step.
        ignore: Names, or patterns such as `acc*`, of values that may be passed beside the terms.
        balancer: Computes the weights of all terms together.
        sync: Whether adaptive components average what they observe over the ranks of
            `torch.distributed`: if there are several (`auto`), or never (`off`).

    >>> config = LossConfig.read({"terms": {"nll": 1.0, "kl": {"kind": "warmup", "over": "10%"}}})
    >>> config.override({"kl.weight": 0.5}).terms["kl"].weight
    0.5
    """

    terms: dict[str, Term]
    total_steps: Annotated[
        int | Duration | None,
        PlainValidator(partial(read_total_steps, least=1)),
        PlainSerializer(lambda total: str(total) if isinstance(total, Duration) else total),
        WithJsonSchema(_TOTAL_STEPS),
    ] = None
    steps_per_epoch: Annotated[int, Field(ge=1)] | None = None
    total: Annotated[
        Duration | None,
        PlainValidator(partial(read_total, least=1)),
        PlainSerializer(lambda total: None if total is None else str(total)),
        WithJsonSchema(_TOTAL),
    ] = None
    eval_weights: Annotated[
        Annotated[EvalWeights, Tag("[rule]")] | Annotated[dict[str, float], Tag("[table]")],
        Discriminator(lambda rule: "[table]" if isinstance(rule, dict) else "[rule]"),
    ] = "final"
    on_nonfinite: OnNonfinite = "propagate"
    ignore: tuple[str, ...] = ()
    balancer: Balancer | None = None
    # YAML reads `off` as false, and some editors as text, so the schema accepts both.
    sync: Annotated[Literal["auto", "off"], WithJsonSchema({"enum": ["auto", "off", False]})] = (
        "auto"
    )

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, data: Any) -> Any:
        return plain(data)

    @field_validator("terms", mode="before")
    @classmethod
    def _by_name(cls, terms: Any) -> Any:
        if terms is None:
            raise ValueError("no terms here: in YAML, indent them below `terms:`")
        if isinstance(terms, dict | list) and len(terms) > _MOST_TERMS:
            raise ValueError(f"a loss has at most {_MOST_TERMS:,} terms, found {len(terms)}")
        for name in terms if isinstance(terms, dict | list) else ():
            if not isinstance(name, str):
                found = f"found {shown(name)}: quote it"
                raise ValueError(f"the name of a term must be a string, {found}")
        if isinstance(terms, dict) and (fields := sorted(terms.keys() & Term.model_fields)):
            for name in [name for name, value in terms.items() if value is None]:
                raise ValueError(
                    f"{shown(name)} has no value, and {quoted(fields)} are next to it: in YAML, "
                    f"indent the fields of {shown(name)} below it"
                )
        if not isinstance(terms, Mapping | list):
            raise ValueError(
                "a table by name is needed, such as {reconstruction: 1.0}, or a list of names, "
                f"found {shown(terms)}"
            )
        if isinstance(terms, Mapping):
            return terms
        if repeated := [name for name, count in Counter(terms).items() if count > 1]:
            raise ValueError(f"listed twice: {quoted(sorted(repeated))}; keep one")
        return dict.fromkeys(terms, 1.0)

    @field_validator("ignore", mode="before")
    @classmethod
    def _one_pattern(cls, ignore: Any) -> Any:
        return (ignore,) if isinstance(ignore, str) else ignore

    @field_validator("sync", mode="before")
    @classmethod
    def _off_in_yaml(cls, sync: Any) -> Any:
        return "off" if sync is False else sync

    @field_validator("terms")
    @classmethod
    def _not_empty(cls, terms: dict[str, Term]) -> dict[str, Term]:
        if not terms:
            raise ValueError("at least one term is needed: write `terms: {reconstruction: 1.0}`")
        if "" in terms:
            raise ValueError("the name of a term must not be empty, found ''")
        if pattern := next((name for name in terms if "*" in name), ""):
            raise ValueError(f"{shown(pattern)} is a pattern: write the name of each term")
        return terms

    @field_validator("eval_weights", mode="before")
    @classmethod
    def _known_rule(cls, rule: Any) -> Any:
        rules = ("final", "current")
        if isinstance(rule, dict) or (isinstance(rule, str) and rule in rules):
            return rule
        raise ValueError(
            f"{shown(rule)} is not a rule for evaluation{did_you_mean(rule, rules)} "
            f"(write one of {quoted(rules)}, or a table of weights by name)"
        )

    @model_validator(mode="after")
    def _lengths_are_in_one_unit(self) -> Self:
        if problem := self.wrong_length(self.horizon.unit):
            raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def _eval_weights_of_terms(self) -> Self:
        table = self.eval_weights if isinstance(self.eval_weights, dict) else {}
        for name in table:
            if name not in self.terms:
                near = did_you_mean(name, self.terms)
                raise ValueError(
                    f"eval_weights: no term is called {shown(name)}{near} "
                    f"(the terms are {quoted(self.terms)})"
                )
        return self

    @model_validator(mode="after")
    def _balancer_has_terms(self) -> Self:
        if self.balancer is not None and not self.balanced_names:
            raise ValueError(
                "balancer: it has no terms, because all have a controller or balanced: false; "
                "remove the balancer, or write balanced: true at a term"
            )
        asking = [name for name, term in self.terms.items() if term.balanced]
        if self.balancer is None and asking:
            raise ValueError(
                f"balanced: true for {quoted(asking)}, but there is no balancer: write "
                "balancer: {kind: ...} beside terms"
            )
        if self.balancer is not None:
            try:
                self.balancer.check_terms(self.balanced_names)
            except ValueError as error:
                raise ValueError(f"balancer: {error}") from None
        return self

    @model_validator(mode="after")
    def _skipped_terms_are_observed(self) -> Self:
        """Refuses terms that would be left out for good, because nothing else is observed."""
        left_out = {
            name: term.controller.source
            for name, term in self.terms.items()
            if term.controller is not None and term.when_zero == "skip"
        }
        for name, source in left_out.items():
            if source in left_out:
                raise ValueError(
                    f"terms.{name}: when_zero: skip would leave the term out for good, because its "
                    f"controller observes {source!r}, which is left out too: write when_zero: keep"
                )
        return self

    @property
    def unit(self) -> str | None:
        """What the clock must count, by the lengths in the config; None if any unit will do."""
        units = (duration.clock_unit for _, duration in self._lengths())
        counted = next(filter(None, units), None)
        return "steps" if counted is None and self.steps_per_epoch is not None else counted

    @property
    def horizon(self) -> Horizon:
        """The length of training, as far as the config says it, with the unit of the clock."""
        return Horizon(self.total_steps, self.steps_per_epoch, total=self.total, unit=self.unit)

    def wrong_length(self, unit: str) -> str:
        """The first length that a clock of a unit cannot count, with its place; empty if none."""
        for place, duration in self._lengths():
            if duration.clock_unit not in (None, unit):
                is_total = place in ("total", "total_steps")
                one = f"{duration}, but the clock counts {unit}: give each total in one unit"
                return f"{place}: {one if is_total else wrong_unit(duration, unit)}"
        if unit == "steps" or self.steps_per_epoch is None:
            return ""
        return f"steps_per_epoch: the clock counts {unit}, not steps: remove it"

    def _lengths(self) -> Iterator[tuple[str, Duration]]:
        """All lengths that are not defaults, the total first, with their places."""
        total = self.total if self.total_steps is None else self.total_steps
        if total is not None:
            name = "total" if self.total_steps is None else "total_steps"
            yield name, Duration(total, "steps") if isinstance(total, int) else total
        for name in type(self).model_fields:
            if name not in ("total", "total_steps"):
                yield from _lengths_in(getattr(self, name), (name,))

    @property
    def balanced_names(self) -> tuple[str, ...]:
        """The terms that a balancer would weight, sorted."""
        return tuple(sorted(name for name, term in self.terms.items() if term.is_balanced))

    def adaptive_parts(self) -> list[Part]:
        """The components that may adapt: those of the terms, sorted, then the balancer."""
        parts = [
            Part(f"terms.{name}.{role}", name, component)
            for name, term in sorted(self.terms.items())
            for role, component in (("controller", term.controller), ("transform", term.transform))
            if component is not None
        ]
        if self.balancer is not None:
            parts.append(Part("balancer", None, self.balancer))
        return parts

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        described: dict[str, Any] = handler(schema)
        properties = handler.resolve_ref_schema(described)["properties"]
        size = {"minItems": 1, "maxItems": _MOST_TERMS, "uniqueItems": True}
        names = {"type": "array", "items": _NAME, **size}
        size = {"minProperties": 1, "maxProperties": _MOST_TERMS}
        table = {**properties["terms"], "propertyNames": _NAME, **size}
        properties["terms"] = {"anyOf": [table, names]}
        properties["ignore"] = {"anyOf": [properties["ignore"], _TEXT]}
        properties["$schema"] = _TEXT | {"description": "The address of this schema."}
        return described

    @classmethod
    def read(
        cls, source: LossConfig | Mapping[str, Any] | str | PathLike[str], at: str | None = None
    ) -> LossConfig:
        """A config from a mapping (also of OmegaConf) or from a JSON, TOML or YAML file.

        A key `$schema`, which is for editors, is ignored.

        Args:
            source: The mapping, or the path of the file. A config is returned unchanged.
            at: Dotted path to the config, if it is a part of the source.

        Raises:
            ConfigError: If the config is invalid; one line per problem, with its place and what to
                write.
            ImportError: For a YAML file without PyYAML (extra `yaml`).
        """
        if isinstance(source, LossConfig):
            return source
        found = Source.of(source)
        data, path = found.part(at)
        if not isinstance(schema := data.pop("$schema", ""), str):
            raise ConfigError(
                f"{found.place((*path, '$schema'))}: the address of a JSON schema must be a "
                f"string, found {shown(schema)}"
            )
        for key, part in data.items():
            if "terms" not in data and isinstance(part, dict) and "terms" in part:
                inner = f"{at}.{key}" if at else str(key)
                raise ConfigError(
                    f"{found.place(path)}: the terms are inside {key!r}: read it with at={inner!r}"
                )
        return cls._validated(data, lambda location: found.place((*path, *location)))

    @classmethod
    def _validated(cls, data: Any, place: Callable[[Location], str] = dotted) -> Self:
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ConfigError(explain(error, place)) from None

    def override(self, changes: Mapping[str, Any]) -> LossConfig:
        """The config with some values replaced, validated again.

        Args:
            changes: New values by dotted path, such as `kl.weight`, `kl.schedule.cycles` or
                `total_steps`. A path begins with a term or a field of the config.

        Raises:
            ConfigError: If a path does not exist, or the config with the new values is invalid.
        """
        data: Any = self
        for path, value in changes.items():
            data = _with_value(data, self._parts_of(path), plain(value), path)
        return self._validated(data)

    def _parts_of(self, path: str) -> list[str]:
        """The parts of a dotted path; the name of a term may have dots itself."""
        in_terms = path.removeprefix("terms.")
        head = in_terms.split(".", 1)[0]
        if in_terms == path and head in type(self).model_fields:
            return path.split(".")
        for name in sorted(self.terms, key=len, reverse=True):
            if in_terms == name or in_terms.startswith(f"{name}."):
                rest = in_terms[len(name) + 1 :]
                return ["terms", name, *(rest.split(".") if rest else [])]
        known = [*self.terms, *type(self).model_fields]
        near = did_you_mean(head, known)
        raise ConfigError(
            f"{dotted([path])}: no term or field is called {shown(head)}{near} "
            f"(the terms are {quoted(self.terms)})"
        )


class Part(NamedTuple):
    """A component that may adapt, with its place in the config.

    Args:
        place: Such as `terms.kl.controller` or `balancer`.
        term: Its term; None for the balancer.
        component: The component.
    """

    place: str
    term: str | None
    component: Controller | Transform | Balancer


def _lengths_in(part: Any, path: Location) -> Iterator[tuple[str, Duration]]:
    """All durations in a part of a config that are not defaults, with their places."""
    if isinstance(part, Duration):
        yield dotted(path), part
    elif isinstance(part, BaseModel):
        for name, field in type(part).model_fields.items():
            value = getattr(part, name)
            if not (isinstance(value, Duration) and value == field.default):
                yield from _lengths_in(value, (*path, name))
    elif isinstance(part, Mapping | tuple | list):
        items = part.items() if isinstance(part, Mapping) else enumerate(part)
        for key, value in items:
            yield from _lengths_in(value, (*path, key))


def _with_value(owner: Any, path: Sequence[str], value: Any, whole: str) -> Any:
    """A config, or a part of one, as data with the value at `path` replaced; not validated yet.

    Raises:
        ConfigError: If the path does not exist; names the `whole` path as it was written.
    """
    if not path:
        return value
    head, rest = path[0], path[1:]
    if isinstance(owner, tuple | list) and head.isdecimal() and int(head) < len(owner):
        index = int(head)
        return [*owner[:index], _with_value(owner[index], rest, value, whole), *owner[index + 1 :]]
    if isinstance(owner, BaseModel):
        fields = type(owner).model_fields
        known: Mapping[str, Any] = {name: getattr(owner, name) for name in fields}
        kind = {"kind": owner.kind} if isinstance(owner, Component) and owner.kind else {}
        owner = {name: known[name] for name in owner.model_fields_set} | kind
        if rest and head not in owner and head in known:
            owner[head] = known[head]  # a default, of which a part is changed
    if isinstance(owner, dict) and (head in owner or not rest):
        return {**owner, head: _with_value(owner.get(head), rest, value, whole)}
    if owner is None:
        raise ConfigError(f"{whole}: the table with {head!r} is not set: write the whole table")
    raise ConfigError(f"{whole}: {owner} has no part {head!r}")
