"""Reading files: formats, `at`, and the place of an error in them."""

from __future__ import annotations

import builtins
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from lossweights import ConfigError, Cyclical, LossConfig, Term, epochs

YAML = """\
# A comment, so that lines and tables differ.
model: {depth: 3}
loss:
  total_steps: 40 epochs
  terms:
    nll: 1.0

    kl:
      weight: 1e-3
      schedule: {kind: cyclical, cycles: 4,
        ratio: 0.5}
"""
TOML = """\
[model]
depth = 3
[loss]
total_steps = "40 epochs"
[loss.terms]
nll = 1.0
[loss.terms.kl]
weight = 1e-3
schedule = {kind = "cyclical", cycles = 4, ratio = 0.5}
"""
JSON = """\
{"model": {"depth": 3},
 "loss": {"total_steps": "40 epochs", "terms": {"nll": 1.0, "kl": {"weight": 1e-3,
          "schedule": {"kind": "cyclical", "cycles": 4, "ratio": 0.5}}}}}
"""
CONFIG = LossConfig(
    terms={"nll": Term(), "kl": Term(weight=1e-3, schedule=Cyclical(cycles=4, ratio=0.5))},
    total_steps=epochs(40),
)


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def problem_of(path: Path, at: str | None = None) -> str:
    with pytest.raises(ConfigError, match=r".") as caught:
        LossConfig.read(path, at=at)
    return str(caught.value)


# Formats


@pytest.mark.parametrize(
    ("name", "text"), [("a.yaml", YAML), ("a.yml", YAML), ("a.toml", TOML), ("a.json", JSON)]
)
@pytest.mark.parametrize("kind_of_path", [str, Path])
def test_each_format_says_the_same(
    name: str, text: str, kind_of_path: type[str | Path], tmp_path: Path
) -> None:
    assert LossConfig.read(kind_of_path(write(tmp_path, name, text)), at="loss") == CONFIG


def test_the_whole_file_may_be_the_declaration(tmp_path: Path) -> None:
    assert LossConfig.read(write(tmp_path, "a.yaml", "terms: [a]")).terms == {"a": Term()}


def test_at_goes_as_deep_as_one_likes(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", "a: {b: {c: {terms: [x]}}}")
    assert list(LossConfig.read(path, at="a.b.c").terms) == ["x"]
    assert list(LossConfig.read({"a": {"terms": ["x"]}}, at="a").terms) == ["x"]


def test_yaml_anchors_and_merges_are_read(tmp_path: Path) -> None:
    text = """\
base: &base {kind: cyclical, cycles: 4}
loss:
  terms:
    a: *base
    b: &b {<<: *base, cycles: 8}
    c: {<<: *b, ratio: 0.1}
"""
    config = LossConfig.read(write(tmp_path, "a.yaml", text), at="loss")
    assert config.terms["a"].schedule == Cyclical(cycles=4)
    assert config.terms["c"].schedule == Cyclical(cycles=8, ratio=0.1)
    nested = "in: {x: &x {<<: &b {a: 1}, a: 2}}\nterms: {<<: *x}"
    with pytest.raises(ConfigError, match="unknown field 'in'"):
        LossConfig.read(write(tmp_path, "a.yaml", nested))
    assert config.terms["b"].schedule == Cyclical(cycles=8)


def test_names_are_read_in_any_script(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", "terms: {重构: 1.0, größe: 2.0}")
    assert list(LossConfig.read(path).terms) == ["重构", "größe"]


def test_yaml_runs_nothing(tmp_path: Path) -> None:
    text = "terms: {a: !!python/object/apply:os.getcwd []}"
    assert problem_of(write(tmp_path, "a.yaml", text)) == (
        "a.yaml, line 1: the tag '!!python/object/apply:os.getcwd' is not supported: write the "
        "value without it"
    )


@pytest.mark.parametrize("at", [None, "loss"])
def test_a_schema_for_editors_stands_at_the_top_and_changes_nothing(
    at: str | None, tmp_path: Path
) -> None:
    declaration: Any = {"$schema": "./loss.schema.json", "terms": ["nll"]}
    written = declaration if at is None else {at: declaration}
    for source in (written, write(tmp_path, "a.json", json.dumps(written))):
        assert LossConfig.read(source, at=at) == LossConfig(terms={"nll": Term()})
    assert declaration == {"$schema": "./loss.schema.json", "terms": ["nll"]}, "the caller's own"


def test_a_schema_for_editors_stands_nowhere_else(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", "terms: {nll: {$schema: a.json}}")
    assert "line 1, terms.nll.$schema: unknown field '$schema'" in problem_of(path)
    path = write(tmp_path, "a.yaml", "terms: [nll]\n$schema: 3")
    expected = "a.yaml, line 2, $schema: the address of a JSON schema must be a string, found 3"
    assert problem_of(path) == expected


# What cannot be read


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "none.yaml cannot be read: " in problem_of(tmp_path / "none.yaml")


def test_a_folder_or_binary_file_is_named(tmp_path: Path) -> None:
    assert "cannot be read" in problem_of(tmp_path)
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00terms")
    assert "a.yaml cannot be read: " in problem_of(tmp_path / "a.yaml")


@pytest.mark.parametrize("name", ["a.ini", "a", "a.YAML.bak"])
def test_another_format_is_refused(name: str, tmp_path: Path) -> None:
    problem = problem_of(write(tmp_path, name, "terms: [a]"))
    assert problem == f"{name}: a config file ends in .json, .toml, .yaml or .yml"


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("a.json", '{"terms": [}', "a.json is not well-formed JSON: .* line 1 column 12"),
        ("a.toml", "terms = \n", "a.toml is not well-formed TOML: .* line 1"),
        ("a.yaml", "terms:\n  a: [1\nb: 2", "a.yaml, line 3: incomplete or not well-formed YAML: "),
        ("a.yaml", "terms: {a: 1}\n\tb: 2", "a.yaml, line 2: incomplete or not well-formed YAML: "),
        (
            "a.json",
            '{"terms": {"a": 1, "a": 2}}',
            "a.json is not well-formed JSON: 'a' appears twice in one table; keep one",
        ),
        (
            "a.yaml",
            "terms:\n  a: 1\n  b: 1\n  a: 2",
            "a.yaml, line 4: 'a' appears twice in one table; keep one",
        ),
        ("a.toml", "[terms]\na = 1\na = 2", "a.toml is not well-formed TOML: "),
        ("a.json", "[" * 100_000, "a.json: tables and lists are nested more than 32 deep"),
        ("a.json", '{"terms": ' + "1" * 5000 + "}", "a.json is not well-formed JSON: Exceeds"),
        ("a.toml", f"total_steps = {'1' * 5000}", "a.toml is not well-formed TOML: Exceeds"),
        ("a.yaml", "terms: {a: 2020-13-45}", "line 1, terms.a.weight: .* found '2020-13-45'"),
        ("a.yaml", "terms: &a {a: *a}", "a.yaml, line 1: the table &a contains itself"),
        ("a.yaml", "terms:\n\ta: 1", "line 2: .* a tab, where only spaces can indent"),
        ("a.yaml", "terms:\n  a: @x", "line 2: .* character that cannot start any token"),
        ("a.yaml", "terms:\n  a: 1\n b: 2", "line 3: .* indented differently from the lines above"),
        ("a.yaml", "terms:\n  a: {kind: warmup}}", "line 2: .* check the quotes and brackets"),
        ("a.yaml", "terms:\n  a: 1\n  - b", "line 3: .* a list among the keys"),
        ("a.yaml", "terms:\n  a: 1\n   b: 2", "line 3: .* more indented than the line before"),
    ],
)
def test_what_is_malformed_is_told_with_its_line(
    name: str, text: str, problem: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=problem):
        LossConfig.read(write(tmp_path, name, text))


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.yaml", ""), ("a.yaml", "- a"), ("a.json", "[]"), ("a.json", "3"), ("a.yaml", "just text")],
)
def test_a_file_without_a_table_is_refused(name: str, text: str, tmp_path: Path) -> None:
    problem = problem_of(write(tmp_path, name, text))
    assert problem.startswith(f"{name}: a table with `terms` is needed, such as {{terms: {{rec")
    assert problem.endswith("found nothing") is (not text)


@pytest.mark.parametrize("at", [None, "loss", "training.loss"])
def test_a_file_without_terms_says_what_to_write(at: str | None, tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", "model: {depth: 3}\nnll: 1.0\n")
    missing = "terms" if at is None else at.partition(".")[0]
    problem = problem_of(path, at=at)
    assert problem.startswith(f"a.yaml: no key {missing!r} (found 'model', 'nll'): write the ")
    assert "\n" not in problem
    path.write_text(problem.split("`")[1])
    assert [*LossConfig.read(path, at=at).terms] == ["nll" if at is None else "reconstruction"]


@pytest.mark.parametrize("at", ["terms", "a.loss.terms"])
def test_a_path_to_the_terms_says_to_leave_them_out(at: str) -> None:
    data: dict[str, Any] = {"terms": {"mse": 1.0, "kl": 0.5}}
    outer = at.removesuffix("terms").rstrip(".")
    for key in reversed(outer.split(".") if outer else []):
        data = {key: data}
    with pytest.raises(ConfigError, match="leave 'terms' out of the path, and read it with") as e:
        LossConfig.read(data, at=at)
    assert str(e.value).endswith(f"at={outer!r}" if outer else "without at")
    assert [*LossConfig.read(data, at=outer or None).terms] == ["mse", "kl"]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (
            {"mse": 1.0, "kl": 2.0, "x": 10**5000, "on": True},
            "(found 'mse', 'kl', 'x', 'on'): write the terms below it, `terms: {mse: 1, kl: 2}`",
        ),
        ({"trms": {"mse": 1.0}, "kl": 1.0}, "trms: write 'terms' instead of 'trms'"),
        ({"TERMS": {"mse": 1.0}}, "TERMS: write 'terms' instead of 'TERMS'"),
        (
            {"total_steps": 9},
            "no key 'terms' (found 'total_steps'): write the terms below it, `terms: {reconstr",
        ),
    ],
)
def test_missing_terms_are_one_problem(data: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        LossConfig.read(data)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_path_to_a_part_that_is_the_whole_says_so(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", "terms: [nll]")
    assert "'terms'): `terms` is at this level, so leave 'loss'" in problem_of(path, at="loss")


@pytest.mark.parametrize(
    ("at", "problem"),
    [
        (
            "lsos",
            r"a.yaml: no key 'lsos'; did you mean 'loss'? (found 'model', 'loss')",
        ),
        ("loss.term", "a.yaml, line 3, loss: no key 'term'; did you mean 'terms'?"),
        ("model.depth", "a.yaml, line 2, model.depth: a table with `terms` is needed, such"),
        ("model.depth.x", "a.yaml, line 2, model.depth: no key 'x' (found none)"),
    ],
)
def test_a_path_that_leads_nowhere_is_told(at: str, problem: str, tmp_path: Path) -> None:
    assert problem_of(write(tmp_path, "a.yaml", YAML), at=at).startswith(problem)


def test_yaml_without_pyyaml_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "yaml", raising=False)
    usual = builtins.__import__

    def without_yaml(name: str, *rest: Any, **named: Any) -> Any:
        if name == "yaml":
            raise ImportError(name)
        return usual(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without_yaml)
    with pytest.raises(ImportError, match=r"a.yaml: reading YAML needs PyYAML; pip install 'loss"):
        LossConfig.read(write(tmp_path, "a.yaml", YAML))
    assert LossConfig.read(write(tmp_path, "a.toml", TOML), at="loss") == CONFIG


# The place of an error


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("nll: 1.0", "nll: much", "a.yaml, line 6, loss.terms.nll.weight: "),
        ("weight: 1e-3", "wieght: 1e-3", "a.yaml, line 9, loss.terms.kl.wieght: unknown field"),
        ("cycles: 4", "cycles: 0", "a.yaml, line 10, loss.terms.kl.schedule.cycles: "),
        ("ratio: 0.5", "ratio: 5", "a.yaml, line 11, loss.terms.kl.schedule.ratio: "),
        ("40 epochs", "40", None),
        (
            "40 epochs",
            "40.5",
            "a.yaml, line 4, loss.total_steps: total_steps must be a whole number",
        ),
        ("nll: 1.0", "nll:", "a.yaml, line 6, loss.terms.nll: this term has no value"),
        ("  terms:", "  tersm:", "a.yaml, line 5, loss.tersm: write 'terms' instead of 'tersm'"),
        ("terms:", "ignore:", "a.yaml, line 3, loss: no key 'terms' (found 'total_steps'"),
    ],
)
def test_yaml_errors_tell_the_line(old: str, new: str, place: str | None, tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", YAML.replace(old, new))
    if place is None:
        assert LossConfig.read(path, at="loss").total_steps == 40
    else:
        assert any(line.startswith(place) for line in problem_of(path, at="loss").splitlines())


def test_a_line_within_a_list_is_told(tmp_path: Path) -> None:
    text = """\
terms:
  a:
    kind: sequence
    stages:
      - {schedule: 1.0, over: 5 steps}
      - schedule:
          kind: warmup
          over: 10
"""
    assert problem_of(write(tmp_path, "a.yaml", text)).startswith(
        "a.yaml, line 8, terms.a.schedule.stages[1].schedule.over: 10 has no unit"
    )


@pytest.mark.parametrize(("name", "text"), [("a.json", JSON), ("a.toml", TOML)])
def test_other_formats_tell_the_file_and_the_place(name: str, text: str, tmp_path: Path) -> None:
    path = write(tmp_path, name, text.replace("1.0", "true"))
    assert problem_of(path, at="loss") == (
        f"{name}, loss.terms.nll.weight: a number is needed, found True"
    )


def test_each_problem_has_a_line_of_its_own(tmp_path: Path) -> None:
    text = YAML.replace("1.0", "true").replace("cycles: 4", "cycles: 0")
    lines = problem_of(write(tmp_path, "a.yaml", text), at="loss").splitlines()
    assert [line.split(",")[1] for line in lines] == [" line 6", " line 10"]
