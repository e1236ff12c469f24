"""The config of a loss: its terms, balancer, length of training and options."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
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
from lossweights.components.declaration import Component, Declaration, written
from lossweights.components.durations import (
    Duration,
    Horizon,
    pattern,
    read_total,
    read_total_steps,
    wrong_unit,
)
from lossweights.components.limits import MOST_TERMS
from lossweights.components.schedules import Schedule
from lossweights.components.transforms import Transform
from lossweights.config.complements import Owner, check_complements
from lossweights.config.files import Location, Source, plain
from lossweights.config.names import (
    NAME_JSON,
    ByName,
    Name,
    as_written,
    by_name,
    expanded,
    read_terms,
    terms_json,
    times,
)
from lossweights.config.term import Term
from lossweights.errors import ConfigError, did_you_mean, dotted, explain, quoted, shown

EvalWeights = Literal["final", "current"]
OnNonfinite = Literal["propagate", "raise", "skip_term"]

_LONGEST_SHOWN = 40  # characters of a name in an example
_LARGEST_SHOWN = 1000  # weight in an example
_NEAR = 0.75  # the similarity from which a key is taken for a misspelled `terms`, unlike `mse`
_TEXT = {"type": "string"}
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


ScheduleLike = Schedule | float | Callable[[int], float] | Mapping[str, Any]


class LossConfig(Declaration):
    """The config of a `WeightedLoss`.

    Args:
        terms: The terms by name. In a list of names, each has weight 1. Braces in a name stand for
            several names: `"aux_{0..5}"`, `"{box,cls}_loss"`. `"{{x}}"` is a name with braces. A
            term may hold `terms` itself: see `Term`.
        scheduled: Other numbers that change with the clock, such as a temperature, by name: a
            schedule or a number each. `WeightedLoss.scheduled` has their values.
        total_steps: Optimizer steps of the whole training, or `"40 epochs"`. Can be bound later.
        steps_per_epoch: Optimizer steps of an epoch. Can be bound later.
        total: The length of the whole training in any unit, in place of `total_steps`: with
            `"2e9 tokens"` the clock counts tokens, and durations are in tokens or percent.
        eval_weights: The weights in evaluation. `final`: those at the end of training, so that the
            total means the same during the whole run. `current`: those of training at this step.
            A table of weights by name: these, and `final` for the other terms; the weight of a
            member is that in its group.
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
    scheduled: Annotated[dict[Name, Schedule], AfterValidator(by_name)] = Field(default={})
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

    @field_validator("scheduled", mode="before")
    @classmethod
    def _numbers_by_name(cls, numbers: Any) -> Any:
        if not isinstance(numbers, Mapping):
            hint = ": in YAML, indent the numbers below it" if numbers is None else ""
            raise ValueError(
                f"a table is needed, such as {{ratio: 0.3}}, found {shown(numbers)}{hint}"
            )
        if len(numbers) > MOST_TERMS:
            raise ValueError(f"at most {MOST_TERMS:,} numbers are scheduled, found {len(numbers)}")
        for name in numbers:
            if not isinstance(name, str):
                raise ValueError(
                    f"the name of a number must be a string, found {shown(name)}: quote it"
                )
        return numbers

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
    def _lengths_are_in_one_unit(self) -> Self:
        if problem := self.wrong_length(self.horizon.unit):
            raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def _eval_weights_of_terms(self) -> Self:
        table = self.eval_weights if isinstance(self.eval_weights, dict) else {}
        terms = self.all_terms if table else {}
        for name in table:
            if name not in terms:
                raise ValueError(
                    f"eval_weights: no term is called {shown(name)}{did_you_mean(name, terms)} "
                    f"(the terms are {quoted(terms)})"
                )
        return self

    @model_validator(mode="after")
    def _members_have_their_own_names(self) -> Self:
        counts = Counter(name for name, _ in _walk(self.terms))
        if repeated := [name for name, count in counts.items() if count > 1]:
            raise ValueError(
                f"two terms are called {shown(repeated[0])}: a term and a member of a group, or a "
                "member of two; rename one"
            )
        if len(counts) > MOST_TERMS:
            raise ValueError(
                f"a loss has at most {MOST_TERMS:,} terms, found {len(counts):,} with the members "
                "of groups"
            )
        return self

    @model_validator(mode="after")
    def _members_are_not_observed(self) -> Self:
        for name, term in self.terms.items():
            source = None if term.controller is None else term.controller.source
            if source is not None and source not in self.terms and _keys(self.terms, source):
                raise ValueError(
                    f"terms.{name}.controller: source {shown(source)} is a member of a group: "
                    "observe the group, or pass the value as a metric, under another name"
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
    def _complements_have_weights(self) -> Self:
        owners = {
            name: Owner(f"terms.{name}.schedule", term.schedule, term.controller is not None)
            for name, term in self.all_terms.items()
        }
        for name, schedule in self.scheduled.items():
            owners.setdefault(f"scheduled.{name}", Owner(f"scheduled.{name}", schedule))
        check_complements(owners, [(part.place, part.component) for part in self.adaptive_parts()])
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
        yield from as_written(super().__repr_args__())

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

    @property
    def all_terms(self) -> dict[str, Term]:
        """The terms, each group followed by its members, by name such as `deep/d0`."""
        return dict(_walk(self.terms))

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """The members of each group, sorted; a group comes before those inside it."""
        return {
            name: tuple(sorted(f"{name}/{member}" for member in term.terms))
            for name, term in self.all_terms.items()
            if term.terms is not None
        }

    def lineage(self, name: str) -> list[Term]:
        """The groups around a term, from the outside, and the term; empty if it is unknown."""
        found, terms = [], self.terms
        for key in _keys(terms, name):
            found.append(terms[key])
            terms = terms[key].terms or terms
        return found

    def adaptive_parts(self) -> list[Part]:
        """The components that may adapt: those of the terms, sorted, then the balancer."""
        parts = [
            Part(f"terms.{name}.{role}", name, component)
            for name, term in sorted(self.all_terms.items())
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
        properties["terms"] = {"anyOf": terms_json(properties["terms"])}
        properties["scheduled"] |= {"propertyNames": NAME_JSON, "maxProperties": MOST_TERMS}
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
        if path and path[-1] == "terms" and "terms" not in data:
            how = f"with at={dotted(path[:-1])!r}" if path[1:] else "without at"
            raise ConfigError(
                f"{found.place(path)}: at leads to the terms, not to the config with them: leave "
                f"'terms' out of the path, and read it {how}"
            )
        for key, part in data.items():
            if "terms" not in data and isinstance(part, dict) and "terms" in part:
                inner = f"{at}.{key}" if at else str(key)
                raise ConfigError(
                    f"{found.place(path)}: the terms are inside {key!r}: read it with at={inner!r}"
                )
        if "terms" not in data:
            raise ConfigError(_without_terms(data, lambda *key: found.place((*path, *key))))
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
                `total_steps`. A path begins with a term, a scheduled number or a field of the
                config; braces in it expand. `terms.new` adds a term.

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
        """The parts of a dotted path; the name of a term or a number may have dots itself."""
        table, _, inside = path.partition(".")
        if not inside or table not in ("terms", "scheduled"):
            table, inside = "", path
        head, *rest = inside.split(".")
        if not table and head in type(self).model_fields:
            return path.split(".")
        for count in range(len(rest), -1, -1):  # the longest name first
            name = ".".join([head, *rest[:count]])
            keys = [] if table == "scheduled" else _keys(self.terms, name)
            is_number = table != "terms" and name in self.scheduled
            if keys and is_number:
                raise ConfigError(
                    f"{dotted([path])}: {shown(name)} is a term and a scheduled number: write "
                    f"terms.{inside} or scheduled.{inside}"
                )
            if keys or is_number:
                return [*(_inside(keys) if keys else ("scheduled", name)), *rest[count:]]
        if table and not rest:  # one more
            return [table, head] if table == "scheduled" else self._parts_of_new(head)
        terms, numbers = [*self.all_terms], [*self.scheduled]
        names = {"terms": terms, "scheduled": numbers}.get(
            table, [*terms, *numbers, *type(self).model_fields]
        )
        what = "scheduled number" if table == "scheduled" else "term or field"
        which = f"the scheduled numbers are {quoted(numbers)}"
        if table != "scheduled":
            which = f"the terms are {quoted(terms)}{f', {which}' if numbers else ''}"
        raise ConfigError(
            f"{dotted([path])}: no {what} is called {shown(head)}{did_you_mean(head, names)} "
            f"({which}); to add one, write all of it at {dotted([table or 'terms', head])}"
        )

    def _parts_of_new(self, name: str) -> list[str]:
        """The path of a term that is added: a member, if it begins with the name of a group."""
        groups = self.groups
        for end in [index for index, letter in enumerate(name) if letter == "/"][::-1]:
            if name[:end] in groups:
                return _inside([*_keys(self.terms, name[:end]), name[end + 1 :]])
        return ["terms", name]


def _without_terms(data: Mapping[Any, Any], place: Callable[..., str]) -> str:
    """What is wrong with a config that has no key `terms`; `place` names it, or a key of it."""
    names = [key for key in data if isinstance(key, str) and len(key) <= _LONGEST_SHOWN]
    names = [key for key in names if key not in LossConfig.model_fields]
    for key in names:
        if get_close_matches(key.lower(), ["terms"], cutoff=_NEAR):
            return f"{place(key)}: write 'terms' instead of {shown(key)}"
    numbers = [key for key in names if type(data[key]) in (int, float)]
    weights = {key: data[key] for key in numbers if 0 <= data[key] < _LARGEST_SHOWN}
    example = dict([*weights.items()][:2]) or {"reconstruction": 1.0}
    return (
        f"{place()}: no key 'terms' (found {quoted(data)}): write the terms below it, "
        f"`terms: {written(example)}`"
    )


def _walk(terms: Mapping[str, Term], group: str = "") -> Iterator[tuple[str, Term]]:
    """The terms by name, each group followed by its members."""
    for name, term in terms.items():
        yield group + name, term
        if term.terms is not None:
            yield from _walk(term.terms, f"{group}{name}/")


def _keys(terms: Mapping[str, Term], name: str) -> list[str]:
    """The keys of the groups around a term, and of the term; none if it is unknown."""
    if name in terms:
        return [name]
    for end in [index for index, letter in enumerate(name) if letter == "/"]:  # of any key
        group = terms.get(name[:end])
        members = None if group is None else group.terms
        if members and (keys := _keys(members, name[end + 1 :])):
            return [name[:end], *keys]
    return []


def _inside(keys: Sequence[str]) -> list[str]:
    """The path of a term in a config."""
    return [part for key in keys for part in ("terms", key)]


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
        changed = {**owner, head: _with_value(owner.get(head), rest, value, whole)}
        return ByName(changed) if isinstance(owner, ByName) else changed
    if owner is None:
        raise ConfigError(f"{whole}: the table with {head!r} is not set: write the whole table")
    raise ConfigError(f"{whole}: {owner} has no part {head!r}")
