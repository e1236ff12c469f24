"""Declarations: frozen, strictly read, and, in families, selected by `kind`."""

from __future__ import annotations

import functools
import importlib.metadata
import inspect
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, KeysView, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidatorFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from pydantic_core import (
    CoreSchema,
    ErrorDetails,
    InitErrorDetails,
    PydanticCustomError,
    core_schema,
)

from lossweights.components.json_schema import FAMILY, Generator, with_kinds
from lossweights.components.limits import LARGEST_FLOAT32, LARGEST_INT, SMALLEST_FLOAT32
from lossweights.errors import MOST_PROBLEMS, did_you_mean, quoted, shown

PLUGIN_GROUP = "lossweights.plugins"

# Text that YAML reads as itself without quotes.
_PLAIN = re.compile(r"(?!(?i:true|false|yes|no|on|off|y|n|null)$)[^\W\d][\w./*-]*")


_CONTROL = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\ud800-\\udfff]")
_LEADING_ZERO = re.compile(r"\s*[-+]?0[0-9_]+\s*")


def _strict(schema: Any, *, in_float32: bool) -> Any:
    """Adds rules, for which pydantic has no setting, to the core schema of a class."""
    # Numbers fit the tensors that they become, and text is on one line. `Duration | str` validates
    # as a duration alone, which reads text itself: the other members of such a union are for the
    # type checker.
    if isinstance(schema, list | tuple):
        return type(schema)(_strict(part, in_float32=in_float32) for part in schema)
    if not isinstance(schema, dict) or schema.get("metadata", {}).get("strict"):
        return schema
    if schema.get("type") in ("float", "int"):
        return _strict_number(schema, in_float32=in_float32)
    if schema.get("type") == "str":
        return core_schema.no_info_before_validator_function(
            _refuse_control, {**schema, "strict": True}, metadata={"strict": True}
        )
    if schema.get("type") == "union":
        choices = [part[0] if isinstance(part, tuple) else part for part in schema["choices"]]
        for choice in choices:
            if reader := choice.get("metadata", {}).get("reads_all"):
                if {part.get("type") for part in choices if part is not choice} - {"str", "none"}:
                    raise TypeError(
                        f"a field typed {reader} also reads text, so it can be combined with str "
                        f"and None alone: write `{reader} | str`"
                    )
                return choice
    kept = ("cls", "function", "config", "default", "metadata", "ref", "serialization")
    return {
        key: part if key in kept else _strict(part, in_float32=in_float32)
        for key, part in schema.items()
    }


def _lists_schedules(schema: Any, *, in_list: bool = False) -> bool:
    if isinstance(schema, dict):
        if in_list and schema.get("metadata", {}).get("reads_all") == "Schedule":
            return True
        in_list |= schema.get("type") in ("list", "tuple", "dict", "set", "frozenset")
        schema = schema.values()
    elif not isinstance(schema, list | tuple):
        return False
    return any(_lists_schedules(part, in_list=in_list) for part in schema)


def _strict_number(schema: dict[str, Any], *, in_float32: bool) -> CoreSchema:
    """The schema of a float or int that fits its type in a tensor."""
    is_float = schema["type"] == "float"
    largest: float = LARGEST_FLOAT32 if is_float else LARGEST_INT
    smallest = SMALLEST_FLOAT32 if is_float and in_float32 and schema.get("gt") == 0 else 0.0
    bounds: dict[str, float] = {} if schema.keys() & {"gt", "ge"} else {"minimum": -largest}
    bounds |= {} if schema.keys() & {"lt", "le"} else {"maximum": largest}
    most = (
        f" for float32: write a number up to {largest:.3g}" if is_float else ": write up to 2**53"
    )

    def read(value: Any, handler: ValidatorFunctionWrapHandler) -> float:
        if isinstance(value, bool | np.bool_ | bytes | bytearray):
            raise ValueError(f"a number is needed, found {shown(value)}")
        if isinstance(value, str) and _LEADING_ZERO.fullmatch(value):
            raise ValueError(
                f"a number is needed, found {shown(value)}, which some programs read as octal: "
                "write it without the 0 in front"
            )
        too_large = isinstance(value, int) and value.bit_length() > 1024  # beyond float64
        number: float = 0.0 if too_large else handler(_float_of(value))
        low, high = bounds.get("minimum", -math.inf), bounds.get("maximum", math.inf)
        if too_large or not low <= number <= high:
            raise ValueError(f"{shown(value)} is too large{most}")
        if 0 < number < smallest:
            raise ValueError(
                f"{shown(value)} is too small for float32: write at least {smallest:.3g}"
            )
        return number

    return core_schema.no_info_wrap_validator_function(
        read, schema, metadata={"strict": True, "pydantic_js_updates": bounds}
    )


def _float_of(value: object) -> object:
    """A `Decimal` or `Fraction` as a float: its int might not fit into memory."""
    if not isinstance(value, Decimal | Fraction):
        return value
    try:
        return float(value)
    except (OverflowError, ValueError):  # beyond float64, a signaling nan
        return math.inf


def _refuse_control(value: object) -> object:
    if isinstance(value, str) and (found := _CONTROL.search(value)):
        character = ascii(found[0])
        raise ValueError(f"text cannot contain {character}, found {shown(value)}")
    return value


class Declaration(BaseModel):
    """A table of a config: frozen, without unknown fields, nan, inf, or bools as numbers.

    Its `repr` is Python, and its `str` is what a config contains, in one line of YAML.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True
    )
    _in_float32: ClassVar[bool] = True  # whether tensors are computed from its numbers

    if not TYPE_CHECKING:  # type checkers and editors show the fields

        def __new__(cls, *values: object, **fields: object) -> Self:
            """Names the fields of values that are passed without their names."""
            if not values:
                return super().__new__(cls)
            own, known = inspect.get_annotations(cls), cls.model_fields
            names = sorted(known, key=lambda each: (not known[each].is_required(), each not in own))
            named = dict(zip((each for each in names if each not in fields), values, strict=False))
            shown = ", ".join(f"{each}={value!r}" for each, value in (named | fields).items())
            raise TypeError(f"{cls.__name__} takes its fields by name: {cls.__name__}({shown})")

    def __str__(self) -> str:
        return written(dict(self.__repr_args__()))

    def __repr_args__(self) -> Iterator[tuple[str, Any]]:
        for name, field in type(self).model_fields.items():
            if getattr(self, name) != field.get_default(call_default_factory=True):
                yield name, getattr(self, name)

    @model_validator(mode="wrap")
    @classmethod
    def _name_unknown_fields(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Names the nearest known field for each unknown one, besides all other problems."""
        try:
            return handler(data)
        except RecursionError:
            raise ValueError("tables and lists are nested too deeply") from None
        except ValidationError as error:
            problems = enumerate(error.errors(include_url=False))
            raise ValidationError.from_exception_data(
                cls.__name__,
                [_reworded(cls, problem, is_shown=i < MOST_PROBLEMS) for i, problem in problems],
            ) from None

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema: CoreSchema = _strict(handler(source), in_float32=cls._in_float32)
        return schema

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The JSON schema, with every registered kind of every family, plug-ins included."""
        load_plugins()
        families = {family.__name__: family for family in Component.__subclasses__()}
        options = {"schema_generator": Generator, **kwargs}
        return with_kinds(super().model_json_schema(*args, **options), families)


class Component(Declaration):
    """An immutable declaration selected by `kind`: fields are config, methods behavior, no state.

    A direct subclass is a *family*; `class X(Family, kind="x")` registers X in it, for every
    config. A subclass without `kind` is an abstract base. A field typed as the family reads a
    member, a table with `kind`, or one of the family's shorthands.

    Attributes:
        never_negative: Tensors of the state that are never below 0, such as counts; a checkpoint
            with such a value is refused.

    Raises:
        TypeError: At the definition of a class whose kind is not kebab-case, or belongs to
            another class of the family, or that lacks a method. The same class defined again (a
            notebook cell run twice) replaces the first.
    """

    kind: ClassVar[str] = ""
    never_negative: ClassVar[tuple[str, ...]] = ()
    family: ClassVar[type[Component]]
    _registry: ClassVar[dict[str, type[Component]]]

    def __init_subclass__(cls, kind: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.kind = kind
        if Component in cls.__bases__:
            cls.family = cls
            cls._registry = {}

    @classmethod
    def __pydantic_init_subclass__(cls, kind: str = "", **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if not kind:
            return
        if re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", kind) is None:
            raise TypeError(
                f"{cls.__name__}: a kind must be kebab-case such as 'half-life', found {kind!r}"
            )
        if missing := sorted(cls.__abstractmethods__):
            raise TypeError(f"{cls.__name__} (kind {kind!r}) lacks the method {missing[0]!r}")
        taken = cls._registry.get(kind)
        if taken is not None and _full_name(taken) != _full_name(cls):
            raise TypeError(
                f"kind {kind!r} of {cls.family.__name__} is already {_full_name(taken)}: "
                f"give {_full_name(cls)} another kind"
            )
        cls._registry[kind] = cls

    def __str__(self) -> str:
        fields = dict(self.__repr_args__())
        if not self.kind:
            return repr(self)
        return written({"kind": self.kind, **fields}) if fields else self.kind

    @classmethod
    def kinds(cls) -> dict[str, type[Self]]:
        """Every registered class of the family, by kind, including plug-ins."""
        load_plugins()
        return dict(sorted(cls._registry.items()))  # type: ignore[arg-type]

    @classmethod
    def of_kind(cls, kind: str) -> type[Self]:
        """The class of a kind; if it is unknown even among the plug-ins, a ValueError."""
        broken = "" if kind in cls._registry else load_plugins()
        if kind not in cls._registry:
            family = cls.__name__.lower()
            for other in Component.__subclasses__():
                if other.has_kind(kind):
                    raise ValueError(
                        f"{shown(kind)} is a {other.__name__.lower()}, not a {family}: write "
                        f"{other.usage(kind)}"
                    )
            raise ValueError(
                f"{shown(kind)} is not a kind of {family}"
                f"{did_you_mean(kind, cls._registry) or ':'} "
                f"there are {quoted(sorted(cls._registry))}{broken}"
            )
        return cls._registry[kind]  # type: ignore[return-value]

    @classmethod
    def usage(cls, kind: str) -> str:
        """How a config uses a kind of the family, for messages."""
        return f"`{cls.__name__.lower()}: {{kind: {kind}, ...}}` in a term"

    @classmethod
    def has_kind(cls, kind: object) -> bool:
        """Whether a class of that kind is registered now."""
        return isinstance(kind, str) and kind in cls._registry

    @classmethod
    def fields_of(cls, kind: object) -> KeysView[str]:
        """The names of a kind's fields; empty for an unknown kind."""
        member = cls._registry.get(kind) if isinstance(kind, str) else None
        return member.model_fields.keys() if member is not None else {}.keys()

    @classmethod
    def read(cls, written: object) -> Self:
        """A member of the family from a member, a table with `kind`, or a shorthand."""
        if isinstance(written, cls):
            return written
        if isinstance(written, Mapping):
            table = dict(written)
            if not isinstance(table.get("kind"), str):
                raise cls.not_a_member(table)
            return cls.of_kind(table.pop("kind")).model_validate(table)
        return cls.from_shorthand(written)

    @classmethod
    def from_shorthand(cls, written: object) -> Self:
        """Reads a shorthand: a kind alone, for that kind with its defaults."""
        if isinstance(written, str):
            return cls.of_kind(written).model_validate({})
        raise cls.not_a_member(written)

    @classmethod
    def not_a_member(cls, written: object) -> ValueError:
        """The error for a value that the family cannot read."""
        hint = f"; there are {quoted(sorted(cls._registry))}"
        if isinstance(written, Mapping) and len(written) == 1 and cls.has_kind(*written):
            hint = f": write {{kind: {next(iter(written))}, ...}}"  # the fields are inside it
        return ValueError(
            f"a {cls.__name__.lower()} is a table with a `kind`, found {shown(written)}{hint}"
        )

    @classmethod
    def shorthand_json_schemas(cls) -> list[dict[str, Any]]:
        """The JSON schemas of the shorthands."""
        complete = [
            kind
            for kind, member in cls.kinds().items()
            if not any(field.is_required() for field in member.model_fields.values())
        ]
        return [{"enum": complete}] if complete else []

    @model_validator(mode="before")
    @classmethod
    def _take_kind(cls, data: Any) -> Any:
        """A table that is passed to its class may still contain its `kind`."""
        if isinstance(data, dict) and "kind" in data:
            data = dict(data)
            if (kind := data.pop("kind")) != cls.kind:
                raise ValueError(f"{cls.__name__} is of kind {cls.kind!r}, found {shown(kind)}")
        return data

    @model_serializer(mode="wrap")
    def _with_kind(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = handler(self)
        if not self.kind:
            raise ValueError(f"{type(self).__name__} has no kind, so a file cannot name it")
        return {"kind": self.kind, **fields}

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        if cls is not getattr(cls, "family", None):
            schema = super().__get_pydantic_core_schema__(source, handler)
            if cls._in_float32 and _lists_schedules(schema):
                raise TypeError(
                    f"{cls.__name__}: now[...] has the values of fields typed Schedule, not of "
                    "lists of schedules: give each schedule a field of its own"
                )
            return schema
        return core_schema.no_info_plain_validator_function(
            cls.read,
            serialization=core_schema.plain_serializer_function_ser_schema(
                _dump_member, info_arg=True
            ),
            metadata={"reads_all": cls.__name__},
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        if cls is getattr(cls, "family", None):
            return {FAMILY: cls.__name__}
        described = handler.resolve_ref_schema(handler(schema))
        described["properties"] = {"kind": {"const": cls.kind}, **described.get("properties", {})}
        described["required"] = ["kind", *described.get("required", [])]
        return described


def written(value: object) -> str:
    """A value as a config contains it, in one line of YAML.

    >>> from lossweights import Warmup
    >>> written([None, True, 2.0, "a b", Warmup(over="10%", shape="cosine")])
    '[null, true, 2, "a b", {kind: warmup, over: 10%, shape: cosine}]'
    """
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{written(key)}: {written(each)}' for key, each in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(written, value))}]"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) else json.dumps(value, ensure_ascii=False)
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)


def load_plugins() -> str:
    """Imports each entry point of `lossweights.plugins` once; says which ones failed."""
    broken = ""
    for point in _entry_points(importlib.metadata.entry_points):
        if point.value in _loaded:
            continue
        try:
            point.load()
        except Exception as error:  # noqa: BLE001  # a broken plug-in must not stop other configs
            broken += f"; the plug-in {point.name!r} failed to load: {error!r}"
        else:
            _loaded.add(point.value)
    return broken


@functools.cache
def _entry_points(find: Callable[..., Iterable[Any]]) -> tuple[Any, ...]:
    return tuple(find(group=PLUGIN_GROUP))  # it reads a file of every installed package


_loaded: set[str] = set()


def _full_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _dump_member(member: Component, info: SerializationInfo) -> dict[str, Any]:
    options = ("mode", "exclude_defaults", "exclude_unset", "exclude_none")
    return member.model_dump(**{name: getattr(info, name) for name in options})


class _Shown:
    """A value in an error of pydantic, which would write out all of it."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __repr__(self) -> str:
        return shown(self._value)


def _reworded(cls: type[BaseModel], problem: ErrorDetails, *, is_shown: bool) -> InitErrorDetails:
    """The problem, to be raised again, with our message for an unknown field."""
    location, kind, message = problem["loc"], problem["type"], problem["msg"]
    if is_shown and kind == "extra_forbidden" and len(location) == 1:
        kind, fields = "unknown_field", cls.model_fields
        owner = repr(cls.kind) if getattr(cls, "kind", "") else cls.__name__  # type: ignore[attr-defined]
        message = (
            f"unknown field {shown(location[0])}{did_you_mean(location[0], fields)} "
            f"({owner} has {quoted(fields)})"
        )
    named = PydanticCustomError("unknown_field", message) if kind == "unknown_field" else kind
    context = problem.get("ctx", {})
    return {"type": named, "loc": location, "input": _Shown(problem["input"]), "ctx": context}
