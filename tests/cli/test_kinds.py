"""`kinds` shows what is needed to write a kind."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
from pathlib import Path
from types import NoneType

import pytest
import yaml

import lossweights
from lossweights import Balancer, Component, GradientBalancer, LossConfig
from lossweights.cli.docstrings import fields, plain, sources, summary
from tests.cli.conftest import SPIKE, Call, write

OURS = [
    cls
    for family in Component.__subclasses__()
    for cls in family.kinds().values()
    if cls.__module__.startswith("lossweights.")
]


def name(cls: type[Component]) -> str:
    return f"{cls.family.__name__}.{cls.kind}"


def home(cls: type[Component]) -> str:
    """The root if it exports the class, else the package or module of the family."""
    if cls.__name__ in lossweights.__all__:
        return "lossweights"
    return ".".join(cls.__module__.split(".")[:3])


@pytest.mark.parametrize("cls", OURS, ids=name)
def test_a_kind_is_imported_from_where_it_is_shown(cls: type[Component]) -> None:
    assert getattr(importlib.import_module(home(cls)), cls.__name__) is cls


@pytest.mark.parametrize("cls", OURS, ids=name)
def test_a_kind_is_shown_in_full(cls: type[Component], call: Call) -> None:
    family = cls.family.__name__.lower()
    done = call("kinds", cls.kind, "--family", family, columns=200)
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith(f"{cls.kind}  a {family}, in Python {home(cls)}.{cls.__name__}\n")
    assert summary(cls).partition("$")[0][:60] in done.out
    assert "$" not in done.out  # formulas are printed without it
    for field, info in cls.model_fields.items():
        if info.annotation is NoneType:  # it must be omitted
            assert f"\n  {field}: " not in done.out
            continue
        end = ", required\n" if info.is_required() else ", default "
        assert any(
            line.startswith(f"  {field}: ") and end in f"{line}\n" for line in done.out.splitlines()
        )


def test_formulas_are_printed_without_latex(call: Call) -> None:
    assert "w(t) = a + (b - a) f(min(t / T, 1))" in call("kinds", "ramp", columns=200).out
    out = " ".join(call("kinds", "uncertainty").out.split())
    assert "`log`, s / 2; `log_variance`, s; or `log1p`, log(1 + e^s)" in out


@pytest.mark.parametrize(
    ("latex", "shown"),
    [
        (r"\frac{\sigma_{r_i}}{\sqrt{1 - \hat v^2}}", "(sigma_(r_i)) / (sqrt(1 - v_hat^2))"),
        (
            r"\left\lVert \sum_i b_i g_i \right\rVert^2 \ge 10^{-12}",
            "|sum_i b_i g_i|^2 >= 10^(-12)",
        ),
        (r"t - \lfloor c P \rfloor \leq \varepsilon", "t - floor(c P) <= epsilon"),
        (r"\{d : g_i \cdot d \ge 0 \text{ for all } i\}", "{d : g_i . d >= 0 for all i}"),
        (r"\partial f / \partial l_i = \tfrac12 e^{-s_i}", "df / dl_i = 1/2 e^(-s_i)"),
        (r"\overline{\tilde L_i}\, \mathrm{softmax}\big(x\big)", "mean(L_tilde_i) softmax (x)"),
    ],
)
def test_a_formula_in_a_terminal(latex: str, shown: str) -> None:
    assert plain(f"With ${latex}$.") == f"With {shown}."


@pytest.mark.parametrize("cls", OURS, ids=name)
def test_no_kind_is_printed_with_latex(cls: type[Component], call: Call) -> None:
    for text in (call("kinds", cls.kind).out, plain(cls.__doc__ or "")):
        assert not re.search(r"[\\$]|frac\b|lVert", text)


@pytest.mark.parametrize("cls", OURS, ids=name)
def test_the_example_is_a_config_that_has_the_kind(cls: type[Component], call: Call) -> None:
    out = call("kinds", cls.kind, "--family", cls.family.__name__.lower()).out
    config = LossConfig.read(yaml.safe_load(out.split("\nexample\n")[1]))
    parts: list[object] = [config.balancer]
    for term in config.terms.values():
        parts += [term.schedule, term.controller, term.transform]
        parts.append(getattr(term.schedule, "shape", None))
    assert any(type(part) is cls for part in parts)


@pytest.mark.parametrize("cls", OURS, ids=name)
def test_every_field_has_a_meaning_and_a_type(cls: type[Component]) -> None:
    for field in fields(cls):
        assert len(field.meaning) > 3, field.name
        assert "lossweights" not in field.type
        assert not field.type[0].isupper()


def test_the_meaning_of_a_field_may_go_over_lines_and_come_from_a_base() -> None:
    found = {field.name: field for field in fields(_of("Controller", "pid"))}
    assert found["response"].meaning.endswith("such as `5%` or `500 steps`.")
    assert found["source"].meaning == "The watched value: the term itself, or a metric."
    found = {field.name: field for field in fields(_of("Controller", "lagrangian"))}
    assert found["at_most"].meaning.startswith("The bound $c$"), "its own, not that of the base"
    found = {field.name: field for field in fields(_of("Balancer", "gradvac"))}
    assert found["every"].meaning.startswith("Time between two steps in which gradients"), (
        "that of the base"
    )


def _of(family: str, kind: str) -> type[Component]:
    return next(c for c in OURS if (c.family.__name__, c.kind) == (family, kind))


def test_papers_are_shown() -> None:
    assert "Fu et al., NAACL 2019" in sources(_of("Schedule", "cyclical"))[0]
    assert "arXiv 2202.01017" in sources(_of("Balancer", "nash-mtl"))[0]
    assert sources(_of("Shape", "linear")) == []


def test_fields_of_every_kind_are_explained_with_the_family_alone(call: Call) -> None:
    meaning, end = "The lowest and the highest weight", "`lossweights kinds --family balancer`"
    for kind in ("dwa", "mgda"):
        lines = call("kinds", kind).out.splitlines()
        at = lines.index("  bounds: [number, number] or none, default none")
        assert lines[at + 1] == "  normalize: none | mean | sum, default none"
        assert lines[at + 2].strip() == f"explained by {end}"
        assert not any(meaning in line for line in lines)
    out = call("kinds", "--family", "balancer").out
    assert out.count("fields of every balancer") == out.count(meaning) == 1
    assert "fields of every" not in call("kinds", "--family", "shape").out
    assert "explained by" not in call("kinds", "pid").out, "it describes `source` itself"


def test_all_kinds_are_listed_by_family(call: Call) -> None:
    lines = call("kinds", columns=200).out.splitlines()
    for cls in OURS:
        start = lines.index(f"{cls.family.__name__.lower()}s")
        block = lines[start + 1 : lines.index("", start)]
        assert sum(line.startswith(f"  {cls.kind} ") for line in block) == 1


def test_families_are_listed_in_the_order_in_which_they_are_needed(call: Call) -> None:
    families = ["schedules", "controllers", "balancers", "transforms", "shapes"]
    lines = call("kinds").out.splitlines()
    assert [line for line in lines if line in families] == families


def test_balancers_that_use_gradients_are_marked(call: Call) -> None:
    lines = call("kinds", columns=200).out.splitlines()
    marked = {line.split()[0] for line in lines if "(uses gradients)" in line}
    kinds = Balancer.kinds()  # those of other tests too
    assert marked == {kind for kind, cls in kinds.items() if issubclass(cls, GradientBalancer)}
    assert "pcgrad" in marked
    assert "uncertainty" not in marked


def test_one_family_is_listed_alone(call: Call) -> None:
    for family in ("transform", "Transforms"):
        lines = call("kinds", "--family", family).out.splitlines()
        assert lines[0] == "transforms"
        assert "balancers" not in lines


def test_a_kind_of_two_families_is_shown_twice(call: Call) -> None:
    lines = call("kinds", "exponential").out.splitlines()
    assert [line for line in lines if line.startswith("exponential")] == [
        "exponential  a schedule, in Python lossweights.Exponential",
        "exponential  a shape, in Python lossweights.components.schedules.ExponentialShape",
    ]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["cylical"], "did you mean 'cyclical'?"),
        (["Cyclical"], "did you mean 'cyclical'?"),
        (["linear", "--family", "schedule"], "'linear' is not a kind"),
        (["--family", "balencer"], "did you mean 'balancer'?"),
    ],
)
def test_the_nearest_name_is_suggested_for_an_unknown_one(
    arguments: list[str], problem: str, call: Call
) -> None:
    done = call("kinds", *arguments)
    assert done.status == 2
    assert problem in done.err


@pytest.mark.parametrize("columns", [40, 120])
def test_it_fits_the_terminal(columns: int, call: Call) -> None:
    out = call("kinds", columns=columns).out
    longest = max(len(kind) for each in Component.__subclasses__() for kind in each.kinds())
    assert max(map(len, out.splitlines()[:-1])) <= max(columns, longest + 4 + 20)
    assert not any(line != line.rstrip() for line in out.splitlines())


@pytest.mark.parametrize("kind", ["pid", "augmented-lagrangian"])
def test_no_name_is_broken_over_lines(kind: str, call: Call) -> None:
    first, *_ = call("kinds", kind, columns=20).out.splitlines()
    assert first.startswith(f"{kind}  a controller, in Python lossweights.")


# The user's own


def test_a_kind_of_a_user_is_listed_and_shown(call: Call, tmp_path: Path) -> None:
    write(tmp_path, "spike.py", SPIKE)
    assert "  cli-spike " in call("kinds", "--import", "spike").out
    assert call("kinds", "cli-spike").out == (
        "cli-spike  a schedule, in Python spike.Spike\n"
        "  One spike.\n\n"
        "fields\n"
        "  height: number, required\n"
        "      How high it is.\n"
        "  every: duration or none, default none\n"
        "      explained by `lossweights kinds --family schedule`\n\n"
        "example\n"
        "  terms:\n"
        "    nll: 1.0\n"
        "    kl: {kind: cli-spike, height: <number>}\n\n"
    )


BARE = '''
from typing import Annotated, Literal
from pydantic import Field
from lossweights import Component, Schedule, Shape, Transform

class Odd(Transform, kind="test-odd"):
    when: Annotated[str, Field(pattern="[0-9]{9}", description="Nine digits.")]
    def apply(self, value, state, now):
        return value

class Wave(Schedule, kind="test-wave"):
    form: Shape | str
    mode: Literal["a", "b"]
    parts: tuple[Schedule, ...]
    much: int | None
    def values(self, steps, horizon):
        return 0.0 * steps

class Reader(Component):
    """Reads."""

class File(Reader, kind="test-file"):
    path: str
'''


def test_a_kind_of_a_user_may_say_little(call: Call, tmp_path: Path) -> None:
    write(tmp_path, "bare.py", BARE)
    out = call("kinds", "test-odd", "--import", "bare").out
    assert "  when: text, required\n      Nine digits.\n" in out
    assert "    kl:\n      transform: {kind: test-odd, when: <text>}\n" in out
    out = call("kinds", "test-wave").out
    assert "  mode: a | b, required\n" in out
    assert "  parts: list of (schedule or number), required\n" in out
    example = yaml.safe_load(out.split("\nexample\n")[1])["terms"]["kl"]
    assert example == {
        "kind": "test-wave",
        "form": "<shape>",
        "mode": "<a | b>",
        "parts": "<list of (schedule or number)>",
        "much": "<whole number or none>",
    }
    out = call("kinds", "test-file", "--family", "readers").out
    assert out.startswith("test-file  a reader, in Python bare.File\n")
    assert "example" not in out


def test_a_docstring_may_be_of_any_form(call: Call, tmp_path: Path) -> None:
    long = SPIKE.replace("One spike.", "One\n    spike, that is\n    long.")
    write(tmp_path, "spike.py", long.replace("        height: How high\n", "\n"))
    out = call("kinds", "cli-spike", "--import", "spike").out
    assert "\n  One spike, that is long.\n\nfields\n  height: number, required\n" in out


def test_a_plug_in_that_is_broken_is_a_warning(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    point = importlib.metadata.EntryPoint("mine", "no_such_module", "lossweights.plugins")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: [point])
    done = call("kinds")
    assert done.status == 0
    assert "warning: the plug-in 'mine' failed to load: ModuleNotFoundError" in done.err
