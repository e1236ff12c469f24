"""The config of a loss: its terms, balancer, length of training and options."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from os import PathLike
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    Discriminator,
    Field,
    PlainSerializer,
    PlainValidator,
    Tag,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from lossweights.components.balancers import Balancer
from lossweights.components.controllers import Controller
from lossweights.components.declaration import Component, Declaration
from lossweights.components.durations import Duration, pattern, read_total_steps
from lossweights.components.limits import MOST_TERMS
from lossweights.components.transforms import Transform
from lossweights.config.files import Location, Source, plain
from lossweights.config.names import NAME_JSON, ByName, Name, by_name, expanded, read_terms, times
from lossweights.config.term import Term
from lossweights.errors import ConfigError, did_you_mean, dotted, explain, quoted, shown

EvalWeights = Literal["final", "current"]
OnNonfinite = Literal["propagate", "raise", "skip_term"]

_TEXT = {"type": "string"}
_COUNT = {"type": "integer", "minimum": 1, "maximum": 2**53}
_TOTAL_STEPS = {
    "anyOf": [
        _COUNT,
        _TEXT | {"pattern": pattern("steps", "epochs", count=True)},
        {"type": "null"},
    ]
}


class LossConfig(Declaration):
    """The config of a `WeightedLoss`.

    Args:
        terms: The terms by name. In a list of names, each has weight 1. Braces in a name stand for
            several names: `"aux_{0..5}"`, `"{box,cls}_loss"`. `"{{x}}"` is a name with braces.
        total_steps: Optimizer steps of the whole training, or `"40 epochs"`. Can be bound later.
        steps_per_epoch: Optimizer steps of an epoch. Can be bound later.
        eval_weights: The weights in evaluation. `final`: those at the end of training, so that the
            total means the same during the whole run. `current`: those of training at this step.
            A table of weights by name: these, and `final` for the other terms.
        on_nonfinite: What happens in training if a term is nan or inf: `propagate` it into the
            total, `raise` an error that names the term, or `skip_term`, which leaves the term out
            of the sum. The last two read the values on the host at each step.
        ignore: Names, or patterns such as `acc*`, of values that may be passed beside the terms.
            Braces in them expand, as in the names of terms.
        balancer: Computes the weights of all terms together.
        sync: Whether adaptive components average what they observe over the ranks of
            `torch.distributed`: if there are several (`auto`), or never (`off`).

    >>> config = LossConfig.read({"terms": {"nll": 1.0, "kl": {"kind": "warmup", "over": "10%"}}})
    >>> config.override({"kl.weight": 0.5}).terms["kl"].weight
    0.5
    """

    terms: dict[Name, Term]
    total_steps: Annotated[
        int | Duration | None,
        PlainValidator(partial(read_total_steps, least=1)),
        PlainSerializer(lambda total: str(total) if isinstance(total, Duration) else total),
        WithJsonSchema(_TOTAL_STEPS),
    ] = None
    steps_per_epoch: Annotated[int, Field(ge=1)] | None = None
    eval_weights: Annotated[
        Annotated[EvalWeights, Tag("[rule]")]
        | Annotated[dict[Name, float], AfterValidator(by_name), Tag("[table]")],
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

    @field_validator("terms", mode="wrap")
    @classmethod
    def _by_name(cls, terms: Any, read: ValidatorFunctionWrapHandler) -> ByName[Term]:
        return read_terms(terms, read, Term.model_fields.keys())

    @field_validator("ignore", mode="before")
    @classmethod
    def _one_pattern(cls, ignore: Any) -> Any:
        return (ignore,) if isinstance(ignore, str) else ignore

    @field_validator("ignore")
    @classmethod
    def _few_patterns(cls, ignore: tuple[str, ...]) -> tuple[str, ...]:
        if (count := sum(map(times, ignore))) > MOST_TERMS:
            raise ValueError(f"at most {MOST_TERMS:,} patterns are ignored, found {count}")
        for each in ignore:
            expanded(each)  # refuses a wrong pattern
        return ignore

    @field_validator("sync", mode="before")
    @classmethod
    def _off_in_yaml(cls, sync: Any) -> Any:
        return "off" if sync is False else sync

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

    def __repr_args__(self) -> Iterator[tuple[str, Any]]:
        for field, value in super().__repr_args__():
            yield field, value.written() if isinstance(value, ByName) else value

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
        size = {"minItems": 1, "maxItems": MOST_TERMS, "uniqueItems": True}
        names = {"type": "array", "items": NAME_JSON, **size}
        size = {"minProperties": 1, "maxProperties": MOST_TERMS}
        table = {**properties["terms"], "propertyNames": NAME_JSON, **size}
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
                `total_steps`. A path begins with a term or a field of the config; braces in it
                expand. `terms.new` adds a term.

        Raises:
            ConfigError: If a path does not exist, two paths change the same value, or the config
                with the new values is invalid.
        """
        data: Any = self
        paths: dict[Location, str] = {}  # as they are written, by the locations that they change
        for path, value in changes.items():
            new = plain(value)
            for each in _expanded(path):
                parts = self._parts_of(each)
                if (other := paths.setdefault(tuple(parts), path)) != path:
                    raise ConfigError(
                        f"{shown(other)} and {shown(path)} both change {dotted(parts)}: keep one"
                    )
                data = _with_value(data, parts, new, each)

        def place(location: Location) -> str:
            for depth in range(len(location), 0, -1):
                if "{" in (path := paths.get(location[:depth], "")):
                    return dotted([path, *location[depth:]])
            return dotted(location)

        return self._validated(data, place)

    def _parts_of(self, path: str) -> list[str]:
        """The parts of a dotted path; the name of a term may have dots itself."""
        in_terms = path.removeprefix("terms.")
        head, *rest = in_terms.split(".")
        if in_terms == path and head in type(self).model_fields:
            return path.split(".")
        for count in range(len(rest), -1, -1):  # the longest name first
            if (name := ".".join([head, *rest[:count]])) in self.terms:
                return ["terms", name, *rest[count:]]
        if in_terms != path and not rest:
            return ["terms", head]
        near = did_you_mean(head, [*self.terms, *type(self).model_fields])
        raise ConfigError(
            f"{dotted([path])}: no term or field is called {shown(head)}{near} (the terms are "
            f"{quoted(self.terms)}); to add a term, write all of it at {dotted(['terms', head])}"
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


def _expanded(path: str) -> list[str]:
    if not isinstance(path, str):
        raise ConfigError(f"a path is text, such as 'kl.weight', found {shown(path)}")
    try:
        return expanded(path)
    except ValueError as error:
        raise ConfigError(f"{dotted([path])}: {error}") from None


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
        changed = {**owner, head: _with_value(owner.get(head), rest, value, whole)}
        return ByName(changed) if isinstance(owner, ByName) else changed
    if owner is None:
        raise ConfigError(f"{whole}: the table with {head!r} is not set: write the whole table")
    raise ConfigError(f"{whole}: {owner} has no part {head!r}")
