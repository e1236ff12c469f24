"""The docstring and the fields of a component, in the words of a config."""

import inspect
import re
from collections.abc import Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from docstring_parser import DocstringStyle, ParseError, parse

from lossweights.components import declaration
from lossweights.components.declaration import Component
from lossweights.components.durations import Duration

_YEAR = re.compile(r"\b(19|20)\d\d\b")
_NO_PROSE = re.compile(r"[A-Z]\w+:\n|>>>| ")
_ONE = r"\s*(?:\{([^{}]*)\}|([^\s{}\\]|\\[A-Za-z]+))"  # an argument, without braces in it
_FORMULAS = (  # what LaTeX writes, and what a terminal shows, in this order
    (r"\\[,;!\s]|\\q?quad|\\(?:left|right|[bB]ig)(?![A-Za-z])|\\\\", " "),
    (r"\\([{}])", r"\1\1"),  # doubled, so that they are no argument
    (r"\\(?:mathrm|mathbf|text)" + _ONE, r"\1\2"),
    (r"\\tfrac\s*(\d)\s*(\d)", r"\1/\2"),
    (r"\\(hat|tilde|bar)" + _ONE, r"\2\3_\1"),
    (r"\\overline" + _ONE, r"mean(\1\2)"),
    (r"\\sqrt" + _ONE, r"sqrt(\1\2)"),
    (r"\\frac\{(\w+)\}\{(\w+)\}", r"\1 / \2"),
    (r"\\frac\{([^{}]*)\}\{([^{}]*)\}", r"(\1) / (\2)"),
    (r"\\lVert\s*(.*?)\s*\\rVert", r"|\1|"),
    (r"\\lfloor\s*(.*?)\s*\\rfloor", r"floor(\1)"),
    (r"\\langle\s*(.*?)\s*\\rangle", r"<\1>"),
    (r"([_^])\{(\w|[A-Za-z0-9]+|\+|\\[a-z]+)\}", r"\1\2"),
    (r"([_^])\{([^{}]*)\}", r"\1(\2)"),
    (r"\\partial ", "d"),
    (r"\\leftarrow", "<-"),
    (r"\\([lg])eq?(?![A-Za-z])", lambda match: {"l": "<=", "g": ">="}[match[1]]),
    (r"\\cdot", "."),
    (r"\\sim", "~"),
    (r"\\top", "T"),
    (r"\\mp", "-+"),
    (r"\(\s+", "("),
    (r"\s+\)", ")"),
)
_NAMES = r"\\var(?=epsilon)|\\(?=[A-Za-z])"  # alpha, log, sum, ... are shown without a backslash
_SIGNS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
_WORDS = {bool: "true or false", int: "whole number", float: "number", str: "text"}


class Field(NamedTuple):
    """A field of a kind: its type in words, and its default if it is not required.

    `is_shared` is true for a field that all kinds of the family have, with one meaning.
    """

    name: str
    type: str
    default: str | None
    meaning: str
    is_shared: bool


def summary(cls: type) -> str:
    """The first paragraph of a class's own docstring, on one line."""
    return next(iter(_paragraphs(cls)), "")


def sources(cls: type) -> list[str]:
    """The later paragraphs of the docstring that cite a paper or code, recognized by its year."""
    return [text for text in _paragraphs(cls)[1:] if _YEAR.search(text)]


def fields(cls: type[Component]) -> list[Field]:
    """The fields of a kind or of a family, the required ones first, the shared ones last."""
    documented = {name: text for base in reversed(cls.__mro__) for name, text in _arguments(base)}
    of_family = dict(_arguments(getattr(cls, "family", object)))
    found = []
    for name, field in cls.model_fields.items():
        words = type_in_words(field.annotation, field.metadata)
        default = field.get_default(call_default_factory=True)
        shown = None if field.is_required() else written(default)
        meaning = documented.get(name, field.description or "")
        found.append(Field(name, words, shown, meaning, of_family.get(name) == meaning))
    return sorted(found, key=lambda field: (field.default is not None, field.is_shared))


def written(value: Any) -> str:
    """A default as written in a config.

    >>> from lossweights import Cyclical, steps
    >>> written(None), written(0.5), written(steps(500)), written(Cyclical(cycles=4))
    ('none', '0.5', '500 steps', '{kind: cyclical, cycles: 4}')
    """
    return "none" if value is None else declaration.written(value)


def plain(text: str) -> str:
    r"""A text whose formulas are written as in a terminal.

    >>> plain(r"After $T$: $w(t) = a + (b - a) f(\min(t / T, 1))$, $\tfrac12 e^{-s_i} \ge \hat b$.")
    'After T: w(t) = a + (b - a) f(min(t / T, 1)), 1/2 e^(-s_i) >= b_hat.'
    """
    return re.sub(r"\$\$?([^$]+)\$\$?", lambda match: _formula(match[1]), text)


def _formula(latex: str) -> str:
    before = ""
    while latex != before:  # from the inner braces to the outer ones
        before = latex
        for pattern, shown in _FORMULAS:
            latex = re.sub(pattern, shown, latex)
    return " ".join(re.sub(r"([{}])\1", r"\1", re.sub(_NAMES, "", latex)).split())


def type_in_words(annotation: Any, metadata: Sequence[Any] = ()) -> str:  # noqa: PLR0911  # one each
    """The values that a field accepts, from its type and the bounds in its metadata.

    >>> from pydantic import Field
    >>> from lossweights import Schedule
    >>> type_in_words(Annotated[float, Field(ge=0, lt=1)] | None), type_in_words(Duration | str)
    ('number >= 0 and < 1 or none', 'duration')
    >>> type_in_words(tuple[Schedule, ...]), type_in_words(Literal["min", "max"])
    ('list of (schedule or number)', 'min | max')
    """
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_in_words(parts[0], [*metadata, *parts[1:]])
    if origin in (Union, UnionType):
        members = [part for part in parts if part is not NoneType]
        if any(isinstance(part, type) and issubclass(part, Duration | Component) for part in parts):
            members = [part for part in members if part is not str]  # text is how these are written
        words = [type_in_words(part, metadata) for part in members]
        return " or ".join([*words, "none"] if NoneType in parts else words)
    if origin is Literal:
        return " | ".join(map(str, parts))
    if origin is list or (origin is tuple and ... in parts):
        inner = type_in_words(parts[0])
        return f"list of ({inner})" if " or " in inner else f"list of {inner}"
    if origin is tuple:
        return f"[{', '.join(map(type_in_words, parts))}]"
    if isinstance(annotation, type) and issubclass(annotation, Component):
        family = annotation.family.__name__.lower()
        return f"{family} or number" if family == "schedule" else family
    marks = [mark for each in metadata for mark in getattr(each, "metadata", [each])]
    given = ((sign, getattr(mark, name, None)) for mark in marks for name, sign in _SIGNS.items())
    bounds = [f"{sign} {bound:g}" for sign, bound in given if bound is not None]
    name = getattr(annotation, "__name__", str(annotation)).lower()
    return f"{_WORDS.get(annotation, name)} {' and '.join(bounds)}".rstrip()


def _paragraphs(cls: type) -> list[str]:
    """The paragraphs of a class's own docstring, one line each: no sections, no examples."""
    text = inspect.cleandoc(cls.__dict__.get("__doc__") or "")
    paragraphs = [each for each in re.split(r"\n\s*\n", text) if not _NO_PROSE.match(each)]
    return [" ".join(each.split()) for each in paragraphs]


def _arguments(cls: type) -> list[tuple[str, str]]:
    """The arguments that a class's own docstring describes; none if it cannot be parsed."""
    try:
        found = parse(cls.__dict__.get("__doc__") or "", DocstringStyle.GOOGLE).params
    except ParseError:
        return []
    return [(each.arg_name, " ".join((each.description or "").split())) for each in found]
