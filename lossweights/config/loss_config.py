"""The whole declaration of a loss: its terms, the length of training, and what else is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Annotated, Any, Literal, NamedTuple, Self

import numpy as np
from pydantic import (
    BaseModel,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from lossweights.components.balancers import Balancer
from lossweights.components.controllers import Controller
from lossweights.components.declaration import Declaration
from lossweights.components.durations import Duration, read_total_steps
from lossweights.components.transforms import Transform
from lossweights.config.files import Source, plain
from lossweights.config.term import Term
from lossweights.errors import ConfigError, did_you_mean, explain, quoted

EvalWeights = Literal["final", "current"]
_LARGEST = float(np.finfo(np.float32).max)
OnNonfinite = Literal["propagate", "raise", "skip_term"]


class LossConfig(Declaration):
    """What a `WeightedLoss` does, as data.

    Args:
        terms: The terms by name; a list of names gives each the weight 1.
        total_steps: Optimizer steps of the whole training, or `"40 epochs"`; may be bound later.
        steps_per_epoch: Optimizer steps of an epoch; may be bound later.
        eval_weights: What counts in evaluation. `final`: each term as at the end of training,
            the same measure for the whole run. `current`: as in training at this step. A table of
            weights by name: those, and `final` for terms it does not name.
        on_nonfinite: What a nan or inf among the terms does in training: `propagate` into the
            total, `raise` an error that names it, or `skip_term` (left out of the sum). The last
            two look at the values on the host, at each step.
        ignore: Names, or patterns such as `acc*`, that may be among the values given without
            being terms.
        balancer: What weighs all terms together, by their values.
        sync: Whether what adapts is averaged over the ranks of `torch.distributed`: where there
            are several (`auto`), or never (`off`).

    >>> config = LossConfig.read({"terms": {"nll": 1.0, "kl": {"kind": "warmup", "over": "10%"}}})
    >>> config.override({"kl.weight": 0.5}).terms["kl"].weight
    0.5
    """

    terms: dict[str, Term]
    total_steps: Annotated[
        int | Duration | None,
        PlainValidator(read_total_steps),
        PlainSerializer(lambda total: str(total) if isinstance(total, Duration) else total),
        WithJsonSchema(
            {
                "anyOf": [
                    {"type": "integer", "minimum": 0},
                    {
                        "type": "string",
                        "pattern": r"^\s*[0-9._]+([eE]\+?[0-9]+)?\s*([sS]teps?|[eE]p(ochs?)?)?\s*$",
                    },
                    {"type": "null"},
                ]
            }
        ),
    ] = None
    steps_per_epoch: Annotated[int, Field(ge=1)] | None = None
    eval_weights: EvalWeights | dict[str, float] = "final"
    on_nonfinite: OnNonfinite = "propagate"
    ignore: tuple[str, ...] = ()
    balancer: Balancer | None = None
    # YAML reads `off` as false, some editors as text: the schema has both.
    sync: Annotated[Literal["auto", "off"], WithJsonSchema({"enum": ["auto", "off", False]})] = (
        "auto"
    )

    @field_validator("terms", mode="before")
    @classmethod
    def _by_name(cls, terms: Any) -> Any:
        if terms is None:
            raise ValueError("no term stands here: in YAML they are indented below `terms:`")
        for name in terms if isinstance(terms, dict | list | tuple) else ():
            if not isinstance(name, str):
                raise ValueError(f"the name of a term is a string, found {name!r}: quote it")
        if isinstance(terms, dict) and (fields := sorted(terms.keys() & Term.model_fields)):
            for name in [name for name, said in terms.items() if said is None]:
                raise ValueError(
                    f"nothing is said of {name!r}, and {quoted(fields)} stand beside it: in YAML "
                    f"what belongs to {name!r} is indented below it"
                )
        if isinstance(terms, list | tuple):
            if repeated := {name for name in terms if terms.count(name) > 1}:
                raise ValueError(f"named more than once: {quoted(sorted(map(str, repeated)))}")
            return dict.fromkeys(terms, 1.0)
        return terms

    @field_validator("ignore", mode="before")
    @classmethod
    def _one_pattern(cls, ignore: Any) -> Any:
        return (ignore,) if isinstance(ignore, str) else ignore

    @field_validator("sync", mode="before")
    @classmethod
    def _off_in_yaml(cls, sync: Any) -> Any:
        return "off" if sync is False else sync  # which YAML reads `off` as

    @field_validator("terms")
    @classmethod
    def _not_empty(cls, terms: dict[str, Term]) -> dict[str, Term]:
        if not terms:
            raise ValueError("a loss has at least one term: write `terms: {reconstruction: 1.0}`")
        if "" in terms:
            raise ValueError("a term has a name, found ''")
        if pattern := next((name for name in terms if "*" in name), ""):
            raise ValueError(f"{pattern!r} is a pattern, a term has one name: write each of them")
        return terms

    @field_validator("eval_weights", mode="before")
    @classmethod
    def _known_rule(cls, rule: Any) -> Any:
        rules = ("final", "current")
        if isinstance(rule, dict) or rule in rules:
            return rule
        near = did_you_mean(str(rule), rules)
        raise ValueError(
            f"{rule!r} is no rule for evaluation{near} (there are {quoted(rules)}, "
            "and a table of weights by name)"
        )

    @model_validator(mode="after")
    def _eval_weights_of_terms(self) -> Self:
        if isinstance(self.eval_weights, dict):
            for name, weight in self.eval_weights.items():
                if abs(weight) > _LARGEST:
                    raise ValueError(
                        f"eval_weights: {weight:g} for {name!r} is too large for float32"
                    )
                if name not in self.terms:
                    raise ValueError(
                        f"eval_weights: no term is called {name!r}{did_you_mean(name, self.terms)} "
                        f"(the terms are {quoted(self.terms)})"
                    )
        return self

    @model_validator(mode="after")
    def _balancer_has_terms(self) -> Self:
        if self.balancer is not None and not self.balanced_names:
            raise ValueError(
                "balancer: no term is left to it: all have a controller or balanced: false; "
                "drop the balancer, or write balanced: true at a term"
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

    @property
    def balanced_names(self) -> tuple[str, ...]:
        """The terms that a balancer weighs, sorted."""
        return tuple(sorted(name for name, term in self.terms.items() if term.is_balanced))

    def adaptive_parts(self) -> list[Part]:
        """The components that may adapt: those of the terms, sorted, then the balancer."""
        parts = []
        for name, term in sorted(self.terms.items()):
            if term.controller is not None:
                parts.append(Part(f"terms.{name}.controller", name, term.controller))
            if term.transform is not None:
                parts.append(Part(f"terms.{name}.transform", name, term.transform))
        if self.balancer is not None:
            parts.append(Part("balancer", None, self.balancer))
        return parts

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        described: dict[str, Any] = handler(schema)
        properties = handler.resolve_ref_schema(described)["properties"]
        names = {
            "type": "array",
            "items": {"type": "string"},
            "minItems": 1,
            "uniqueItems": True,
        }
        properties["terms"] = {"anyOf": [{**properties["terms"], "minProperties": 1}, names]}
        properties["ignore"] = {"anyOf": [properties["ignore"], {"type": "string"}]}
        properties["$schema"] = {"type": "string", "description": "Where this schema lies."}
        return described

    @classmethod
    def read(
        cls, source: LossConfig | Mapping[str, Any] | str | PathLike[str], at: str | None = None
    ) -> LossConfig:
        """A config from a mapping (OmegaConf's too) or a JSON, TOML or YAML file.

        Beside the fields it may have a `$schema`, which is for editors.

        Args:
            source: The mapping, or the file's path; a config comes back as it is.
            at: Where in it the declaration lies, as a dotted path.

        Raises:
            ConfigError: Naming, for every problem, its place and what to write.
            ImportError: For a YAML file without PyYAML (extra `yaml`).
        """
        if isinstance(source, LossConfig):
            return source
        found = Source.of(source)
        data, path = found.part(at)
        if not isinstance(schema := data.pop("$schema", ""), str):
            raise ConfigError(
                f"{found.place((*path, '$schema'))}: the address of a JSON schema is a string, "
                f"found {schema!r}"
            )
        for key, part in data.items():
            if "terms" not in data and isinstance(part, dict) and "terms" in part:
                inner = f"{at}.{key}" if at else str(key)
                raise ConfigError(
                    f"{found.place(path)}: the terms lie deeper, within {key!r}: read it with "
                    f"at={inner!r}"
                )
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ConfigError(explain(error, lambda loc: found.place((*path, *loc)))) from None

    def override(self, changes: Mapping[str, Any]) -> LossConfig:
        """The config with some values changed, by dotted path, and validated again.

        Args:
            changes: New values by path: `kl.weight`, `kl.schedule.cycles`, `total_steps`; a
                path begins with a field of the config or with a term.

        Raises:
            ConfigError: For a path that leads nowhere, or a value that is refused there.
        """
        data: Any = self
        for path, value in changes.items():
            data = _with_value(data, self._steps_of(path), plain(value), path)
        try:
            return type(self).model_validate(data)
        except ValidationError as error:
            raise ConfigError(explain(error)) from None

    def _steps_of(self, path: str) -> list[str]:
        """A dotted path in parts; a term's own name may hold dots."""
        in_terms = path.removeprefix("terms.")
        head = in_terms.split(".", 1)[0]
        if in_terms == path and head in type(self).model_fields:
            return path.split(".")
        for name in sorted(self.terms, key=len, reverse=True):
            if in_terms == name or in_terms.startswith(f"{name}."):
                rest = in_terms[len(name) + 1 :]
                return ["terms", name, *(rest.split(".") if rest else [])]
        known = [*self.terms, *type(self).model_fields]
        raise ConfigError(
            f"{path}: no term or field is called {head!r}{did_you_mean(head, known)} "
            f"(the terms are {quoted(self.terms)})"
        )


class Part(NamedTuple):
    """A component that may adapt, and where it stands in the config.

    Args:
        place: As in `terms.kl.controller`, or `balancer`.
        term: The term that it belongs to; None for the balancer.
        component: The component.
    """

    place: str
    term: str | None
    component: Controller | Transform | Balancer


def _with_value(owner: Any, path: Sequence[str], value: Any, whole: str) -> Any:
    """`owner` as data with the value at `path` replaced, not validated yet.

    Args:
        owner: A declaration, or a part of one.
        path: Names and indexes.
        value: The new value.
        whole: The path as it was written, for errors.

    Raises:
        ConfigError: For a path that leads nowhere.
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
        owner = {name: known[name] for name in owner.model_fields_set} | _kind_of(owner)
        if rest and head not in owner and head in known:
            owner[head] = known[head]  # a default that is changed within
    if isinstance(owner, dict) and (head in owner or not rest):
        return {**owner, head: _with_value(owner.get(head), rest, value, whole)}
    if owner is None:
        problem = "nothing is set there yet: give the whole table"
    else:
        problem = f"{owner!r} has no parts by that name"
    raise ConfigError(f"{whole}: there is nothing at {head!r}, {problem}")


def _kind_of(owner: BaseModel) -> dict[str, str]:
    kind = getattr(owner, "kind", "")
    return {"kind": kind} if kind else {}
