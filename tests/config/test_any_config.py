"""Any config, from Python or a file: a criterion that works, or an error of ours, soon.

`LOSSWEIGHTS_EXAMPLES=100000 pytest tests/config/test_any_config.py` tries for hours.
"""

from __future__ import annotations

import collections
import copy
import datetime as dt
import json
import os
import re
import socket
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from fractions import Fraction
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from lossweights import (
    Balancer,
    ConfigError,
    Controller,
    LossConfig,
    Schedule,
    Shape,
    Term,
    WeightedLoss,
)
from lossweights.components.transforms import Transform
from tests.fuzzing import NUMBERS, TEXTS, many, read

FAMILIES: tuple[Any, ...] = (Schedule, Shape, Controller, Transform, Balancer)

# Valid configs, one for each kind


def one_of_each_kind() -> list[dict[str, Any]]:
    text = files("lossweights.cli").joinpath("examples.yaml").read_text("utf-8")
    fields = yaml.safe_load(text)
    configs = []
    for family in FAMILIES:
        role = family.__name__.lower()
        for kind, member in family.kinds().items():
            if not member.__module__.startswith("lossweights."):
                continue
            table = {"kind": kind, **fields.get(role, {}).get(kind, {})}
            part: dict[str, Any] = {
                "schedule": {
                    "terms": {"first": {"schedule": table}, "nll": 1.0},
                    "scheduled": {"number": table, "ratio": 0.3},
                },
                "shape": {"terms": {"first": {"kind": "cyclical", "shape": table}, "b": 1.0}},
                "controller": {"terms": {"first": {"controller": table}, "b": 1.0}},
                "transform": {
                    "terms": {"first": {"transform": table, "reduction": "batch_mean"}, "b": 1.0}
                },
                "balancer": {"terms": {"first": 1.0, "b": 1.0}, "balancer": table},
            }[role]
            configs.append(part | {"total_steps": 1000, "steps_per_epoch": 10})
    return [*configs, *filter(None, map(in_tokens, configs))]


def in_tokens(config: dict[str, Any]) -> dict[str, Any] | None:
    """The same for a clock that counts tokens; None if a default is in steps or epochs."""
    changed = {**config, "total": "2e9 tokens"}
    del changed["total_steps"], changed["steps_per_epoch"]
    with suppress(ConfigError):
        WeightedLoss(LossConfig.read(changed))
        return changed
    return None


def in_groups(config: dict[str, Any]) -> dict[str, Any]:
    """The same terms in groups: one around each, or around all where a member may be so."""
    first, terms = config["terms"]["first"], copy.deepcopy(config["terms"])
    inner = {"terms": terms, "weight": 0.5}
    if isinstance(first, dict) and "controller" in first:
        terms = {"first": {**first, "terms": {"x": 2.0, "in": {"terms": ["y", "z"]}}}, "b": 1.0}
    elif "balancer" in config:
        terms = {name: {"terms": {f"{name}{{0..2}}": term}} for name, term in terms.items()}
    else:
        terms = {"g": {"after": "1%", "terms": {"in": inner, "first": 1.0}}, "b": 1.0}
    config = config | {"terms": terms}
    if "g" in terms:  # what a complement names
        text = json.dumps(config).replace('"of": "nll"', '"of": "g/in/nll"')
        config = json.loads(text)
    return config


KINDS = one_of_each_kind()
VALID = KINDS + [in_groups(config) for config in KINDS]


@pytest.mark.parametrize("config", VALID, ids=json.dumps)
def test_the_configs_to_change_are_valid(config: dict[str, Any]) -> None:
    assert read(config) is not None


# Changed at random


class Unprintable:
    """An object that fails whatever it is asked."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    __float__ = __index__ = __eq__ = __bool__ = __str__ = __len__ = __repr__  # type: ignore[assignment]
    __hash__ = object.__hash__


class Broken(collections.UserDict[str, Any]):
    """A mapping that cannot be read."""

    def items(self) -> Any:
        raise RuntimeError("no items")


def nested(levels: int, *, width: int = 1, leaf: Any = 1.0) -> Any:
    """Lists of the same list: more values than any memory has, if each is visited."""
    for _ in range(levels):
        leaf = [leaf] * width
    return leaf


def nested_tables(levels: int, *, width: int = 1, leaf: Any = 1.0) -> Any:
    for _ in range(levels):
        leaf = {f"k{number}": leaf for number in range(width)}
    return leaf


LOOP: dict[str, Any] = {}
LOOP["terms"] = LOOP
LOOP_OF_LISTS: list[Any] = []
LOOP_OF_LISTS.append(LOOP_OF_LISTS)
ODD = [
    10**400,
    10**5000,
    -(10**5000),
    "1" * 5000,
    "1" * 30_000 + "! 1",
    "1" + " " * 30_000 + "!",
    "x" * 100_000,
    Decimal("1e999999"),
    Decimal("nan"),
    Decimal("snan"),
    Fraction(10**5000, 3),
    Fraction(1, 3),
    np.float16(2),
    np.int64(3),
    np.bool_(True),  # noqa: FBT003
    np.array([1.0, 2.0]),
    float("nan"),
    1j,
    b"1.5",
    bytearray(b"1"),
    {1.0},
    object(),
    Unprintable(),
    Broken(),
    collections.UserString("x"),
    range(10**12),
    dt.date(2020, 1, 1),
    LOOP,
    LOOP_OF_LISTS,
    nested(9, width=9),
    nested_tables(9, width=9),
    nested(500),
    nested_tables(500),
    {1: 1.0},
    {None: 1.0},
    {(1, 2): 1.0},
    {"\ud800": 1.0},
    {"a\0": 1.0},
    {f"t{number}": "x" for number in range(5000)},
]
ANYTHING = st.one_of(
    NUMBERS,
    TEXTS,
    st.none() | st.booleans(),
    st.sampled_from(ODD),
    st.recursive(
        NUMBERS | TEXTS,
        lambda parts: st.lists(parts, max_size=3) | st.dictionaries(TEXTS, parts, max_size=3),
        max_leaves=6,
    ),
)
TABLES = st.sampled_from([part for config in VALID for part in config["terms"].values()]).map(
    copy.deepcopy
)


def places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values, without those inside of an odd one."""
    if any(data is odd for odd in ODD):
        return [path]
    if isinstance(data, dict):
        parts: Any = data.items()
    elif isinstance(data, list):
        parts = enumerate(data)
    else:
        return [path]
    return [path, *(found for key, part in parts for found in places(part, (*path, key)))]


@st.composite
def changed_configs(draw: st.DrawFn) -> Any:
    """A valid config in which values are replaced, removed, renamed or added."""
    config = copy.deepcopy(draw(st.sampled_from(VALID)))
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(places(config)))
        if not path:
            config[draw(TEXTS | st.sampled_from([*LossConfig.model_fields]))] = draw(ANYTHING)
            continue
        owner = config
        for key in path[:-1]:
            owner = owner[key]
        change = draw(st.sampled_from(["replace", "remove", "rename", "add"]))
        if change == "replace":
            owner[path[-1]] = draw(ANYTHING | TABLES)
        elif change == "remove":
            del owner[path[-1]]
        elif isinstance(owner, list):
            owner.append(draw(ANYTHING | TABLES))
        elif change == "rename":
            owner[draw(TEXTS)] = owner.pop(path[-1])
        else:
            owner[draw(TEXTS | st.sampled_from([*Term.model_fields]))] = draw(ANYTHING)
    return config


@many
@given(changed_configs())
def test_a_changed_config(config: Any) -> None:
    read(config)


@many
@given(st.dictionaries(TEXTS | st.sampled_from([*LossConfig.model_fields]), ANYTHING, max_size=4))
def test_a_random_config(config: Any) -> None:
    read(config)


FIELDS: dict[str, Callable[[Any], Any]] = {
    "terms": lambda odd: {"terms": odd},
    "a term": lambda odd: {"terms": {"a": odd}},
    "a name": lambda odd: {"terms": [odd]},
    "members": lambda odd: {"terms": {"a": {"terms": odd}}},
    "a member": lambda odd: {"terms": {"a": {"terms": {"b": odd}}}},
    "a name of a member": lambda odd: {"terms": {"a": {"terms": [odd]}}},
    "kind": lambda odd: {"terms": {"a": {"kind": odd}}},
    "schedule": lambda odd: {"terms": {"a": {"schedule": odd}}},
    "cycles": lambda odd: {"terms": {"a": {"kind": "cyclical", "cycles": odd}}, "total_steps": 9},
    "points": lambda odd: {"terms": {"a": {"kind": "piecewise", "points": odd}}},
    "source": lambda odd: {"terms": {"a": {"kind": "pid", "target": 1, "source": odd}}},
    "after": lambda odd: {"terms": {"a": {"after": odd}}},
    "balancer": lambda odd: {"terms": ["a", "b"], "balancer": odd},
    "temperature": lambda odd: {
        "terms": ["a", "b"],
        "balancer": {"kind": "stch", "temperature": odd},
    },
    "scheduled": lambda odd: {"terms": ["a"], "scheduled": odd},
    "a number": lambda odd: {"terms": ["a"], "scheduled": {"a": odd}},
    "total_steps": lambda odd: {"terms": ["a"], "total_steps": odd},
    "steps_per_epoch": lambda odd: {"terms": ["a"], "steps_per_epoch": odd},
    "eval_weights": lambda odd: {"terms": ["a"], "eval_weights": odd},
    "ignore": lambda odd: {"terms": ["a"], "ignore": odd},
    "sync": lambda odd: {"terms": ["a"], "sync": odd},
    "$schema": lambda odd: {"terms": ["a"], "$schema": odd},
}


@pytest.mark.parametrize("field", FIELDS)
def test_odd_values(field: str) -> None:
    for odd in ODD:
        read(FIELDS[field](odd))


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        (LOOP, "^terms: a table or list contains itself$"),
        ({"terms": {"a": {"schedule": LOOP_OF_LISTS}}}, r"^terms.a.schedule\[0\]: .* itself$"),
        ({"terms": nested_tables(9, width=9)}, "^terms.k0.*: a config has at most 100,000 values"),
        ({"terms": {"a": nested(500)}}, r"^terms.a\[0\].*: .* nested more than 32 deep$"),
        ({"terms": {"a": Broken()}}, "^terms.a: this part cannot be read: no items$"),
        ({"terms": {"a": 10**400}}, "^terms.a.weight: an integer of 1329 bits is too large for fl"),
        ({"terms": {"a": {"schedule": 3.5e38}}}, r"schedule.value: 3.5e\+38 is too large for floa"),
        ({"terms": {"a": "017"}}, "found '017', which some programs read as octal: write it with"),
        ({"terms": {"a": b"1"}}, "^terms.a.weight: a number is needed, found b'1'$"),
        ({"terms": ["a\nb"]}, r"^terms.'a\\nb': text cannot contain '\\n', found 'a\\nb'$"),
        ({"terms": ["a"], "ignore": b"a"}, "^ignore: a list is needed"),
        ({"terms": ["a"], "total_steps": 0}, "total_steps must be a whole number of at least 1"),
        ({"terms": ["a"], "steps_per_epoch": 2**53 + 1}, "^steps_per_epoch: .* write up to 2..53"),
        (
            {"terms": ["a", "b"], "balancer": {"kind": "famo", "learning_rate": 3.5e38}},
            r"^balancer.learning_rate: 3.5e\+38 is too large for float32: write a number up to 3.4",
        ),
        (
            {"terms": ["a", "b"], "balancer": {"kind": "stch", "temperature": 1e-40}},
            "^balancer.temperature: 1e-40 is too small for float32: write at least 1.18e-38",
        ),
        (
            {"terms": [f"t{number}" for number in range(10_001)]},
            "at most 10,000 terms, found 10001",
        ),
        (
            {"terms": {"g{0..99}": {"terms": ["t{0..98}"]}, "h": {"terms": ["t{0..99}"]}}},
            "at most 10,000 terms, found 10,101 with the members of groups",
        ),
        ({"terms": {"g": {"terms": {"in": LOOP}}}}, "^terms.g.terms.in.*: .* contains itself$"),
    ],
)
def test_an_odd_value_is_named_with_what_to_write(config: Any, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        LossConfig.read(config)


def test_of_many_problems_the_first_are_listed() -> None:
    with pytest.raises(ConfigError, match=r"terms.t0.weight: ") as caught:
        LossConfig.read({"terms": {f"t{number}": "x" for number in range(300)}})
    assert str(caught.value).splitlines()[20:] == ["and 280 more problems"]


def test_a_part_that_is_used_twice_is_read_twice() -> None:
    warmup = {"kind": "warmup", "over": "2 steps"}
    config = LossConfig.read({"terms": {"a": warmup, "b": warmup}})
    assert config.terms["a"] == config.terms["b"]


# Files

WHOLE = """\
# A comment.
loss: &loss
  total_steps: 1_000
  terms:
    nll: 1.0
    kl: &kl {kind: cyclical, cycles: 4, ratio: 5e-1}
    ce: {<<: *kl, "cycles": 8}
  balancer: {kind: dwa, every: 10 steps}
"""
BOMB = "a0: &a0 [1]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
)
MERGES = "a: &a {" + ", ".join(f"k{n}: 1" for n in range(3000)) + "}\n"
MERGES += "".join(f"b{n}: {{<<: *a}}\n" for n in range(3000)) + "terms: [a]\n"


def in_file(folder: Path, suffix: str, text: str | bytes) -> Path:
    path = folder / f"a.{suffix}"
    path.write_bytes(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)
    return path


SIGNS = st.sampled_from(
    [*":-?[]{},#&*!|>'\"%@`~<=.\n\t \\\0", "<<: ", "!!int ", "*kl", "&a ", "- "]
)
BY_SUFFIX = {
    "yaml": WHOLE,
    "json": json.dumps({"loss": VALID[0]}, indent=1),
    "toml": '[loss]\ntotal_steps = 40\n[loss.terms]\na = 1e-3\nb = {kind = "warmup", over = 1}\n',
}


@st.composite
def texts(draw: st.DrawFn) -> tuple[str, str]:
    """A config file with characters replaced, removed, repeated or added."""
    suffix = draw(st.sampled_from(["yaml", "json", "toml"]))
    text = BY_SUFFIX[suffix]
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        stop = draw(st.integers(start, min(start + 12, len(text))))
        new = draw(st.one_of(st.just(""), SIGNS, TEXTS, st.just(text[start:stop] * 2)))
        text = text[:start] + new + text[stop:]
    return suffix, text


@many
@given(texts())
@example(("yaml", BOMB + "terms: *a9"))
@example(("yaml", MERGES))
def test_a_damaged_file(tmp_path_factory: pytest.TempPathFactory, file: tuple[str, str]) -> None:
    path = in_file(tmp_path_factory.getbasetemp(), *file)
    read(path)
    read(path, at="loss")


@pytest.mark.parametrize(
    ("suffix", "text", "problem"),
    [
        (
            "yaml",
            BOMB + "terms: *a9",
            r"^a.yaml, line \d+, .*: a config has at most 100,000 values",
        ),
        ("yaml", MERGES, r"^a.yaml, line \d+: a file has at most 20,000 values"),
        ("yaml", "#" * 300_000, "^a.yaml: a config file has at most 262,144 bytes$"),
        ("yaml", "terms: " + "[" * 40 + "]" * 40, "^a.yaml, line 1: .* nested more than 32 deep"),
        ("yaml", "[" * 200_000, "^a.yaml, line 1: "),
        ("yaml", "- " * 500, "^a.yaml, line 1: .* nested more than 32 deep"),
        (
            "yaml",
            "terms:\n" + "".join(f" t{n}: 1\n" for n in range(10_500)),
            "at most 10,000 terms",
        ),
        ("json", '{"terms": ' + "[" * 500 + "]" * 500 + "}", "^a.json, terms.*: .* than 32 deep$"),
        ("json", '{"terms": ' + "[" * 100_000 + "]" * 100_000 + "}", "^a.json: .* than 32 deep$"),
        ("json", '{"terms": {"a": NaN}}', "^a.json, terms.a.weight: a finite number .* found nan$"),
        ("json", '{"terms": {"\\ud800": 1}}', "^a.json, terms.*: text cannot contain '.ud800'"),
        ("toml", "terms = " + "[" * 500 + "]" * 500, "^a.toml.*: .* nested more than 32 deep"),
        ("toml", "a." * 100_000 + "a = 1", "^a.toml: .* nested more than 32 deep$"),
        ("toml", "[" + "'a' . " * 40_000 + "a]", "^a.toml: .* nested more than 32 deep$"),
        (
            "yaml",
            "terms: {a: !!timestamp x}",
            "^a.yaml, line 1: the tag '!!timestamp' is not supported",
        ),
        (
            "yaml",
            "terms: {a: !!set {b}}",
            "the tag '!!set' is not supported: write the value without",
        ),
        ("yaml", "terms: {a: !!omap [b: 1]}", "the tag '!!omap' is not supported"),
        ("yaml", "terms: {a: !!binary aaa}", "the tag '!!binary' is not supported"),
        ("yaml", "terms: {a: !!bool x}", "^a.yaml, line 1: 'x' is not a value of type bool$"),
        ("yaml", "terms:\n  a: !!int\n", "^a.yaml, line 2: '' is not a value of type int$"),
        ("yaml", "terms: {a: 017}", "line 1, terms.a.weight: .*'017', which some .* octal: write"),
        ("yaml", "terms: {a: 1:30}", "line 1, terms.a.weight: .* found '1:30'$"),
        ("yaml", "terms: {a: yes}", "line 1, terms.a.weight: .* found 'yes'$"),
        ("yaml", "terms:\n  1: 1.0", "line 1, terms: the name of a term .* found 1: quote it$"),
        ("yaml", "terms:\n  ? [a]\n  : 1.0", "^a.yaml, line 2: a key is text, found a table or"),
        ("yaml", "terms: [a]\n---\nterms: [b]", "^a.yaml, line 2: a second document begins here"),
        ("yaml", "terms: {a: *b}", r"^a.yaml, line 1: the alias \*b has no anchor above it$"),
        ("yaml", "terms: {a: &b [*b]}", "^a.yaml, line 1: the table &b contains itself$"),
        ("yaml", "terms: {<<: 1}", "^a.yaml, line 1: `<<` merges a table, or a list of tables$"),
    ],
    ids=lambda part: part[:24] if isinstance(part, str) else None,
)
def test_a_file_is_refused_with_what_to_write(
    suffix: str, text: str, problem: str, tmp_path: Path
) -> None:
    path = in_file(tmp_path, suffix, text)
    assert read(path) is None
    with pytest.raises(ConfigError, match=problem):
        LossConfig.read(path)


@pytest.mark.parametrize(
    ("written", "weight"),
    [
        ("1e-3", 1e-3),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("+5.", 5.0),
        ("1_000", 1000.0),
        ("0x1F", 31.0),
        ("0o17", 15.0),
        ("0b11", 3.0),
        ("-0.25", -0.25),
        ("'2'", 2.0),
        ("!!float 1", 1.0),
        ("!!str 2", 2.0),
        ("0", 0.0),
    ],
)
def test_yaml_numbers(written: str, weight: float, tmp_path: Path) -> None:
    """As in YAML 1.2, and with underscores."""
    config = LossConfig.read(in_file(tmp_path, "yaml", f"terms: {{a: {written}}}"))
    assert config.terms["a"].weight == weight


def test_yaml_words_are_names_where_text_is_needed(tmp_path: Path) -> None:
    text = "terms: {no: 1, on: {optional: yes, balanced: no}, 2020-01-01: 1, 017: 1}\nsync: off"
    config = LossConfig.read(in_file(tmp_path, "yaml", text))
    assert list(config.terms) == ["no", "on", "2020-01-01", "017"]
    assert (config.terms["on"].optional, config.terms["on"].balanced) == (True, False)
    assert config.sync == "off"


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.floats(allow_nan=False)
        | st.integers(-(10**9), 10**9)
        # PyYAML writes 1e3 without quotes, since it is text in YAML 1.1; here it is a number.
        | st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8).filter(
            lambda text: re.fullmatch("[-+]?[0-9_]+[eE][-+]?[0-9]+", text) is None
        ),
        lambda parts: (
            st.lists(parts, max_size=3)
            | st.dictionaries(
                st.text(st.characters(categories=["L"]), max_size=3), parts, max_size=3
            )
        ),
        max_leaves=10,
    )
)
def test_yaml_is_read_as_it_is_written_by_others(
    tmp_path_factory: pytest.TempPathFactory, data: Any
) -> None:
    from lossweights.config.files import Source

    path = in_file(tmp_path_factory.getbasetemp(), "yaml", yaml.safe_dump(data))
    assert Source.of(path).data == data


@pytest.mark.parametrize("kind", ["device", "pipe", "folder", "socket"])
def test_only_regular_files_are_read(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    if kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(path))
        server.close()
    with pytest.raises(ConfigError, match="a.yaml cannot be read: it is not a regular file$"):
        LossConfig.read(path)


@pytest.mark.parametrize("path", ["a\0b.yaml", "\ud800.yaml", "x" * 5000 + ".yaml", ""])
def test_a_path_that_no_file_has(path: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read: ") as caught:
        LossConfig.read(path)
    assert len(str(caught.value)) < 400
