"""Every example of README.md and docs/ does what it says.

The blocks of a page run in order, in one namespace and an empty folder. Python with prompts must
print what it shows, and so must a block that is followed by one of text. YAML and TOML whose first
line is a comment with a file's name, such as `# elbo.yaml`, become that file; whatever declares
terms in YAML must be a config.
"""

import doctest
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser

from lossweights import (
    Balancer,
    Component,
    Controller,
    GradientBalancer,
    LossConfig,
    Schedule,
    Shape,
    Term,
    Transform,
    WeightedLoss,
)

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
OUTSIDE = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/README.md")
PAGES = [*(ROOT / page for page in OUTSIDE), *sorted(DOCS.rglob("*.md"))]
SCHEDULES = ["schedules.md", "combined_schedules.md"]
ADAPTIVE = {  # the pages of each family; the first has the table of all its kinds
    Controller: ["controllers.md", "constraints.md"],
    Transform: ["transforms.md"],
    Balancer: ["balancers.md", "uncertainty.md", "learning_speed.md", "loss_sizes.md"],
}
PRINTED = "what the last block printed"
OF_OTHERS = {"_target_"}  # what Hydra needs beside `terms`


def write_file(example: Example) -> None:
    """Makes a block that begins with a file's name that file."""
    if name := re.match(r"# ([\w-]+\.(?:yaml|toml))\n", example.parsed):
        Path(name[1]).write_text(example.parsed, encoding="utf-8")


def use_yaml(example: Example) -> None:
    """Writes the file and builds a criterion of every declaration."""
    write_file(example)
    found = list(declarations(yaml.safe_load(example.parsed)))
    assert found or "terms:" not in example.parsed
    for declaration in found:
        criterion = WeightedLoss.from_config(LossConfig.read(declaration))
        config = criterion.config
        if criterion.clock.unit == "steps":
            criterion.bind(
                total_steps=1000 if config.total_steps is None else None,
                steps_per_epoch=100 if config.steps_per_epoch is None else None,
            )
        assert criterion.weights.keys() == config.all_terms.keys()


def declarations(data: Any) -> Iterator[dict[str, Any]]:
    """Every table that has `terms`, at any depth."""
    if isinstance(data, dict):
        if "terms" in data:
            yield {key: value for key, value in data.items() if key not in OF_OTHERS}
        else:
            for part in data.values():
                yield from declarations(part)


def compare_output(example: Example) -> None:
    """Where the block before printed something, this is it; floats to the first digits."""
    printed = example.namespace.pop(PRINTED, "").split()
    for got, shown in zip(printed, example.parsed.split(), strict=bool(printed)):
        if got != shown:
            try:
                wanted = pytest.approx(float(shown.rstrip("%")), rel=2e-3)
                assert float(got.rstrip("%")) == wanted
            except ValueError:
                pytest.fail(f"{got!r} is printed, and {shown!r} is on the page")


SYBIL = Sybil(
    parsers=[
        PythonCodeBlockParser(doctest_optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS),
        CodeBlockParser(language="yaml", evaluator=use_yaml),
        CodeBlockParser(language="toml", evaluator=write_file),
        CodeBlockParser(language="text", evaluator=compare_output),
    ],
    path=str(ROOT),
)


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_examples_run(
    page: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for family in Component.__subclasses__():  # a page knows our kinds and its own, none of a test
        ours = {
            k: c for k, c in family._registry.items() if c.__module__.startswith("lossweights.")
        }
        monkeypatch.setattr(family, "_registry", ours)
    for example in SYBIL.parse(page).examples():
        example.evaluate()
        if printed := capsys.readouterr().out:
            example.namespace[PRINTED] = printed


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_within_the_docs_lead_somewhere(page: Path) -> None:
    text = re.sub(r"(?ms)^```.*?^```", "", page.read_text(encoding="utf-8"))
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", text):
        found = page.parent / target if target else page
        assert found.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", found.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(slug, headings), f"{target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_pictures_in_html_are_there(page: Path) -> None:
    text = re.sub(r"(?ms)^```.*?^```", "", page.read_text(encoding="utf-8"))
    for target in re.findall(r' (?:src|srcset)="(?!https?:)([^"]*)"', text):
        assert (page.parent / target).is_file(), target


def test_the_readme_and_the_first_page_of_the_docs_open_alike() -> None:
    readme, first = ROOT / "README.md", DOCS / "index.md"
    opening = readme.read_text(encoding="utf-8").partition("<picture>")[0]
    assert "plot.overview" in opening
    assert first.read_text(encoding="utf-8").partition("![")[0] == opening


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))], ids=named)
def test_a_page_is_short(page: Path) -> None:
    limit = 900 if page.name == "README.md" else 2000
    assert len(page.read_text(encoding="utf-8").split()) <= limit


def slug(heading: str) -> str:
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-")


def section(page: str, heading: str) -> str:
    """The text under a heading, up to the next one."""
    text = (DOCS / page).read_text(encoding="utf-8")
    found = re.search(
        rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", text, re.DOTALL | re.MULTILINE
    )
    assert found, f"{page} has no section {heading!r}"
    return found[1]


def home(pages: list[str], kind: str) -> str:
    """The one page that has a section on a kind."""
    found = [page for page in pages if f"## {kind}\n" in (DOCS / page).read_text(encoding="utf-8")]
    assert len(found) == 1, f"{kind} has a section in {found}"
    return found[0]


def link(table_page: str, page: str, kind: str) -> str:
    """How a table of one page names a kind whose section is on the other."""
    return f"[`{kind}`]({'' if page == table_page else page}#{kind})"


def ours(family: type[Component]) -> list[type[Component]]:
    return [kind for kind in family.kinds().values() if kind.__module__.startswith("lossweights.")]


@pytest.mark.parametrize("schedule", ours(Schedule), ids=lambda schedule: schedule.kind)
def test_every_schedule_is_documented_and_drawn(schedule: type[Schedule]) -> None:
    page = home(SCHEDULES, schedule.kind)
    text = section(page, schedule.kind)
    assert f"kind: {schedule.kind}" in text
    assert f"(pictures/{schedule.kind}.png)" in text
    fields = schedule.model_fields.keys() - Schedule.model_fields
    assert not [name for name in fields if name not in text]
    table = section("schedules.md", "Schedules")
    assert f"\n| {link('schedules.md', page, schedule.kind)} |" in table
    assert "`every`" in section("durations.md", "Staircases")


@pytest.mark.parametrize("shape", ours(Shape), ids=lambda shape: shape.kind)
def test_every_shape_is_documented(shape: type[Shape]) -> None:
    text = section("shapes.md", "Shapes")
    assert f"| `{shape.kind}` |" in text
    assert not [name for name in shape.model_fields if f"`{name}`" not in text]


@pytest.mark.parametrize(
    "component",
    [
        kind
        for family in (Controller, Transform, Balancer)
        for kind in ours(family)
        if not issubclass(kind, GradientBalancer)
    ],
    ids=lambda component: component.kind,
)
def test_every_component_that_adapts_is_documented(component: type[Component]) -> None:
    kind, role = component.kind, component.family.__name__.lower()
    pages = ADAPTIVE[component.family]
    page = home(pages, kind)
    text = section(page, kind)
    assert f"kind: {kind}" in text or f"{role}: {kind}" in text
    own = component.model_fields.keys() - Balancer.model_fields.keys()
    assert not [name for name in own if f"`{name}`" not in text]
    table = section(pages[0], f"{role.title()}s")
    row = re.search(rf"^\| {re.escape(link(pages[0], page, kind))} \|.*", table, re.MULTILINE)
    assert row, f"{kind} is not in the table of {role}s"
    assert ("`instant`" in row[0]) is getattr(component, "instant", False)


@pytest.mark.parametrize(
    "balancer",
    [kind for kind in ours(Balancer) if issubclass(kind, GradientBalancer)],
    ids=lambda balancer: balancer.kind,
)
def test_every_balancer_by_gradients_is_documented(balancer: type[GradientBalancer]) -> None:
    kind, common = balancer.kind, GradientBalancer.model_fields.keys()
    page = f"gradient_{'directions' if 'gramian' in balancer.needs else 'norms'}.md"
    text = section(page, kind)
    assert f"kind: {kind}" in text or f"balancer: {kind}" in text
    own = balancer.model_fields.keys() - common
    assert not [name for name in own if f"`{name}`" not in text]
    first = text.split(". ")[0].split("\n\n$$")[0]
    assert re.search(r"\b(?:19|20)\d\d\b", first), "the first sentence names the paper"
    row = re.search(rf"^\| \[`{kind}`\]\(#{kind}\) \|(.*)", section(page, "Compare"), re.MULTILINE)
    assert row, f"{kind} is not in the table"
    assert row[1].count("|") == 3, "what it promises, when to use it, and when not"
    assert f"[`{kind}`]({page}#{kind})" in section("gradients.md", "Which one do I need?")


def test_the_readme_counts_the_balancers_by_gradients() -> None:
    kinds = [kind for kind in ours(Balancer) if issubclass(kind, GradientBalancer)]
    assert f"|weights from gradients|{len(kinds)} kinds|" in (ROOT / "README.md").read_text("utf-8")


def test_the_fields_of_all_balancers_by_gradients_are_documented() -> None:
    text = section("gradient_options.md", "Fields")
    own = GradientBalancer.model_fields.keys() - Balancer.model_fields.keys()
    assert not [name for name in own if f"| `{name}` |" not in text]


def test_the_fields_of_all_balancers_are_documented() -> None:
    text = section("balancers.md", "Bounds and normalize")
    assert not [name for name in Balancer.model_fields if f"| `{name}` |" not in text]


def test_every_family_has_its_check() -> None:
    checked = {Schedule, Shape, Controller, Transform, Balancer}
    assert {f for f in Component.__subclasses__() if ours(f)} == checked


@pytest.mark.parametrize(
    ("declaration", "heading"),
    [(Term, "Fields of a term"), (LossConfig, "Fields of the config")],
)
def test_every_field_is_documented(declaration: type[BaseModel], heading: str) -> None:
    text = section("config.md", heading)
    assert not [name for name in declaration.model_fields if f"| `{name}` |" not in text]


def mapped_files() -> set[str]:
    """The files in the map of the code, as paths within the package."""
    found, folders = set(), [""]
    text = (DOCS / "code_map.md").read_text(encoding="utf-8")
    for line in text.split("```")[1].splitlines()[2:]:
        depth, name = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        folders[depth:] = [f"{folders[depth - 1]}{name}"]
        if not name.endswith("/"):
            found.add(folders[depth])
    return found


def test_the_map_of_the_code_is_complete() -> None:
    package = ROOT / "lossweights"
    tree = {path.relative_to(package).as_posix() for path in package.rglob("*.py")}
    kinds = {
        kind.__module__.partition(".")[2].replace(".", "/") + ".py"
        for family in Component.__subclasses__()
        for kind in ours(family)
        if kind.__module__.endswith(f".{kind.kind.replace('-', '_')}")
    }
    assert mapped_files() | kinds == {path for path in tree if not path.endswith("__.py")}
    assert not mapped_files() & kinds
