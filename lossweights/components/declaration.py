"""Declarations: frozen, strictly read, and, in families, selected by `kind`."""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import re
from collections.abc import Iterator, KeysView, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    ValidationError,
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

from lossweights.components.json_schema import FAMILY, with_kinds
from lossweights.errors import did_you_mean, quoted

PLUGIN_GROUP = "lossweights.plugins"

# Text that YAML reads as itself without quotes.
_PLAIN = re.compile(r"(?!(?i:true|false|yes|no|on|off|y|n|null)$)[^\W\d][\w./*-]*")


def _strict(schema: Any) -> Any:
    """Adds two rules, for which pydantic has no setting, to the core schema of a class."""
    # Numbers refuse bools. `Duration | str` validates as a duration alone, which reads text itself:
    # the other members of such a union are for the type checker.
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    if not isinstance(schema, dict) or schema.get("metadata", {}).get("strict"):
        return schema
    if schema.get("type") in ("float", "int"):
        return core_schema.no_info_before_validator_function(
            _refuse_bool, schema, metadata={"strict": True}
        )
    if schema.get("type") == "union":
        for choice in schema["choices"]:
            if isinstance(choice, dict) and choice.get("metadata", {}).get("reads_all"):
                return choice
    kept = ("cls", "function", "config", "default", "metadata", "ref", "serialization")
    return {key: part if key in kept else _strict(part) for key, part in schema.items()}


def _refuse_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError(f"a number is needed, found {value}")
    return value


class Declaration(BaseModel):
    """A table of a config: frozen, without unknown fields, nan, inf, or bools as numbers.

    Its `repr` is Python, and its `str` is what a config contains, in one line of YAML.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True
    )

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
        except ValidationError as error:
            raise ValidationError.from_exception_data(
                cls.__name__, [_reworded(cls, problem) for problem in error.errors()]
            ) from None

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema: CoreSchema = _strict(handler(source))
        return schema

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The JSON schema, with every registered kind of every family, plug-ins included."""
        load_plugins()
        families = {family.__name__: family for family in Component.__subclasses__()}
        return with_kinds(super().model_json_schema(*args, **kwargs), families)


class Component(Declaration):
    """An immutable declaration selected by `kind`: fields are config, methods behavior, no state.

    A direct subclass is a *family*; `class X(Family, kind="x")` registers X in it, for every
    config. A subclass without `kind` is an abstract base. A field typed as the family reads a
    member, a table with `kind`, or one of the family's shorthands.

    Raises:
        TypeError: At the definition of a class whose kind is not kebab-case, or belongs to
            another class of the family, or that lacks a method. The same class defined again (a
            notebook cell run twice) replaces the first.
    """

    kind: ClassVar[str] = ""
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
            others = [f.__name__.lower() for f in Component.__subclasses__() if f.has_kind(kind)]
            elsewhere = f" (it is one of {others[0]}):" if others else ""
            raise ValueError(
                f"{kind!r} is not a kind of {cls.__name__.lower()}"
                f"{elsewhere or did_you_mean(kind, cls._registry) or ':'} "
                f"there are {quoted(sorted(cls._registry))}{broken}"
            )
        return cls._registry[kind]  # type: ignore[return-value]

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
        return ValueError(
            f"a {cls.__name__.lower()} is a table with a `kind`, found {written!r}; "
            f"there are {quoted(sorted(cls._registry))}"
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
                raise ValueError(f"{cls.__name__} is of kind {cls.kind!r}, found {kind!r}")
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
            return super().__get_pydantic_core_schema__(source, handler)
        return core_schema.no_info_plain_validator_function(
            cls.read,
            serialization=core_schema.plain_serializer_function_ser_schema(
                _dump_member, info_arg=True
            ),
            metadata={"reads_all": True},
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
    for point in importlib.metadata.entry_points(group=PLUGIN_GROUP):
        if point.value in _loaded:
            continue
        try:
            point.load()
        except Exception as error:  # noqa: BLE001  # a broken plug-in must not stop other configs
            broken += f"; the plug-in {point.name!r} failed to load: {error!r}"
        else:
            _loaded.add(point.value)
    return broken


_loaded: set[str] = set()


def _full_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _dump_member(member: Component, info: SerializationInfo) -> dict[str, Any]:
    options = ("mode", "exclude_defaults", "exclude_unset", "exclude_none")
    return member.model_dump(**{name: getattr(info, name) for name in options})


def _reworded(cls: type[BaseModel], problem: ErrorDetails) -> InitErrorDetails:
    """The problem, to be raised again, with our message for an unknown field."""
    location, kind, message = problem["loc"], problem["type"], problem["msg"]
    if kind == "extra_forbidden" and len(location) == 1:
        kind, fields = "unknown_field", cls.model_fields
        owner = repr(cls.kind) if getattr(cls, "kind", "") else cls.__name__  # type: ignore[attr-defined]
        message = (
            f"unknown field {location[0]!r}{did_you_mean(str(location[0]), fields)} "
            f"({owner} has {quoted(fields)})"
        )
    named = PydanticCustomError("unknown_field", message) if kind == "unknown_field" else kind
    context = problem.get("ctx", {})
    return {"type": named, "loc": location, "input": problem["input"], "ctx": context}
