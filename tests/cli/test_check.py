"""`check` accepts what a training accepts, refuses the rest, and says where."""

from __future__ import annotations

from pathlib import Path

import pytest

from lossweights import WeightedLoss
from tests.cli.conftest import SPIKE, Call, write

FINE = "total_steps: 100\nterms:\n  nll: 1.0\n  kl: {kind: warmup, over: 10%}\n"
WRONG = "total_steps: 100\nterms:\n  nll: true\n  kl: {kind: wramup, over: 10%}\n"
TWO = "a: {loss: {terms: [x]}}\nb: {loss: {terms: [y]}}\nother: {terms: 3}\n"


def test_a_config_that_is_fine_is_described(call: Call, tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", FINE)
    done = call("check", "a.yaml")
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("a.yaml: fine\n")
    for line in WeightedLoss.from_config(path).describe().splitlines():
        assert f"  {line}\n" in done.out


def test_everything_that_is_wrong_is_told_with_its_line(call: Call, tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", WRONG)
    done = call("check", "a.yaml")
    assert (done.status, done.out) == (1, "")
    first, *problems = done.err.splitlines()
    assert first == "a.yaml: refused"
    assert problems[0] == "  line 3, terms.nll.weight: a number is needed, found True"
    assert problems[1].startswith("  line 4, terms.kl.schedule: 'wramup' is not a kind")
    assert "did you mean 'warmup'" in problems[1]


@pytest.mark.parametrize("order", [["fine.yaml", "wrong.yaml"], ["wrong.yaml", "fine.yaml"]])
def test_all_files_are_checked(order: list[str], call: Call, tmp_path: Path) -> None:
    write(tmp_path, "fine.yaml", FINE)
    write(tmp_path, "wrong.yaml", WRONG)
    done = call("check", *order, "none.toml")
    assert done.status == 1
    assert "fine.yaml: fine" in done.out
    assert "wrong.yaml: refused" in done.err
    assert "none.toml: refused\n  cannot be read: No such file" in done.err
    assert done.err.endswith("2 of 3 refused\n")


def test_quiet_says_only_what_is_wrong(call: Call, tmp_path: Path) -> None:
    write(tmp_path, "fine.yaml", FINE)
    write(tmp_path, "wrong.yaml", WRONG)
    done = call("check", "--quiet", "fine.yaml")
    assert (done.status, done.out, done.err) == (0, "", "")
    done = call("check", "-q", "fine.yaml", "wrong.yaml")
    assert (done.status, done.out) == (1, "")
    assert "line 3" in done.err


def test_what_does_not_arrive_is_a_warning(call: Call, tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "terms: {nll: 1.0, kl: {kind: warmup, over: 200 steps}}")
    assert call("check", "a.yaml", "--total-steps", 200).err == ""
    for arguments in (["--total-steps", "199"], ["--total-steps=1 epochs", "--steps-per-epoch=9"]):
        done = call("check", "--quiet", "a.yaml", *arguments)
        assert (done.status, done.out) == (0, "")
        assert "a.yaml: warning: term 'kl' ends too late: its schedule ends at step 200" in done.err


def test_what_is_said_takes_the_place_of_what_the_config_says(call: Call, tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "total_steps: 10\nterms: {kl: {kind: warmup, over: 20 steps}}")
    assert "training at 10" in call("check", "a.yaml").err
    done = call("check", "a.yaml", "--total-steps", "30")
    assert done.err == ""
    assert "training: 30 steps" in done.out


def test_a_term_that_never_counts_is_a_warning(call: Call, tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "terms: {nll: 1.0, kl: 0.0}")
    assert "warning: term 'kl' has a weight of 0" in call("check", "a.yaml").err


def test_a_length_of_training_that_is_not_known_yet_is_fine(call: Call, tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "terms: {kl: {kind: warmup, over: 10%}}")
    done = call("check", "a.yaml")
    assert (done.status, done.err) == (0, "")
    assert "not known yet" in done.out


def test_what_only_the_criterion_refuses_is_refused(call: Call, tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "balancer: uncertainty\nterms: {a: -1.0, b: 1.0}")
    done = call("check", "a.yaml")
    assert done.status == 1
    assert "term 'a' has a negative weight" in done.err


# Where in a file


def test_the_only_section_is_found_and_named(call: Call, tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "model: {depth: 3}\ntraining: {loss: {terms: [x]}}")
    assert call("check", "a.yaml").out.startswith("a.yaml:training.loss: fine")
    assert call("check", "a.yaml", "--at", "training").out.startswith("a.yaml:training.loss: fine")


def test_several_sections_are_listed(call: Call, tmp_path: Path) -> None:
    write(tmp_path, "two.yaml", TWO)
    done = call("check", "two.yaml")
    assert done.status == 1
    assert "there are several configs, 'a.loss', 'b.loss': write --at a.loss" in done.err
    assert "or two.yaml:a.loss" in done.err


@pytest.mark.parametrize("arguments", [["two.yaml:b.loss"], ["two.yaml", "--at", "b.loss"]])
def test_a_section_is_named_in_two_ways(arguments: list[str], call: Call, tmp_path: Path) -> None:
    write(tmp_path, "two.yaml", TWO)
    done = call("check", *arguments)
    assert done.status == 0
    assert done.out.startswith("two.yaml:b.loss: fine")
    assert "  y  1: constant" in done.out


def test_a_name_with_a_colon_may_be_a_file(call: Call, tmp_path: Path) -> None:
    write(tmp_path, "a", "")
    write(tmp_path, "a:b.yaml", "terms: [x]")
    assert call("check", "a:b.yaml").out.startswith("a:b.yaml: fine")


def test_a_section_that_is_not_there_is_told_with_those_that_are(
    call: Call, tmp_path: Path
) -> None:
    write(tmp_path, "two.yaml", TWO)
    done = call("check", "two.yaml", "--at", "c")
    assert done.status == 1
    assert "no key 'c' (found 'a', 'b', 'other')" in done.err


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("a.yaml", "terms: [", "not well-formed"),
        ("a.yaml", "- 1", "a table with `terms` is needed"),
        ("a.yaml", "model: 3", "no key 'terms' (found 'model')"),
        ("a.yaml", "terms: {a: }", "line 1, terms.a"),
        ("a.json", "{", "not well-formed JSON"),
        ("a.txt", "terms: [a]", "ends in .json, .toml, .yaml or .yml"),
    ],
)
def test_files_that_say_nothing(
    name: str, text: str, problem: str, call: Call, tmp_path: Path
) -> None:
    write(tmp_path, name, text)
    done = call("check", name)
    assert done.status == 1
    assert problem in done.err


# How it is called


def test_the_length_has_any_unit(call: Call, tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", FINE)  # which has total_steps
    done = call("check", "a.yaml", "--total", "2e9 tokens")
    assert (done.status, done.err) == (0, "")
    assert "training: 2e9 tokens" in done.out
    write(tmp_path, "b.yaml", "total: 2e9 tokens\nterms: {kl: {kind: warmup, over: 1e8 tokens}}")
    assert "first peaks at 1 after 1e8 tokens" in call("check", "b.yaml").out
    assert "training at 1000, with a weight" in call("check", "b.yaml", "--total=1000 tokens").err
    refused = call("check", "b.yaml", "--total-steps", "30")
    assert refused.status == 1
    assert "terms.kl.schedule.over: 1e8 tokens, but the clock counts steps" in refused.err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["a.yaml", "--total-steps", "10%"],
        ["a.yaml", "--total-steps", "many"],
        ["a.yaml", "--total-steps", "2e9 tokens"],
        ["a.yaml", "--total", "10%"],
        ["a.yaml", "--total", "2e9 tokens", "--total-steps", "40"],
        ["a.yaml", "--steps-per-epoch", "0"],
        ["a.yaml", "--import", "no_such_module"],
        ["a.yaml", "--nope"],
    ],
)
def test_a_wrong_call_is_status_2(arguments: list[str], call: Call, tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", FINE)
    assert call("check", *arguments).status == 2


@pytest.mark.parametrize(
    "arguments",
    [["--import", "spike", "check", "a.yaml"], ["check", "a.yaml", "--import", "spike"]],
)
def test_kinds_of_ones_own_are_imported_from_the_folder(
    arguments: list[str], call: Call, tmp_path: Path
) -> None:
    write(tmp_path, "spike.py", SPIKE)
    write(tmp_path, "a.yaml", "terms: {kl: {kind: cli-spike, height: 2}}")
    assert call("check", "a.yaml").status == 1
    done = call(*arguments)
    assert done.status == 0, done.err
    assert "{kind: cli-spike, height: 2}" in done.out


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("import math\n\n1 / 0\n", "ZeroDivisionError: division by zero (broken.py, line 3)"),
        ("import no_such\n", "No module named 'no_such' (broken.py, line 1)"),
        ("raise SystemExit(3)\n", "SystemExit: 3 (broken.py, line 1)"),
        ("def f(:\n", "SyntaxError: invalid syntax (broken.py, line 1)"),
        (
            SPIKE.replace("cli-spike", "warmup"),
            "give broken.Spike another kind (broken.py, line 4)",
        ),
    ],
)
def test_an_import_that_fails_is_one_line(
    text: str, problem: str, call: Call, tmp_path: Path
) -> None:
    write(tmp_path, "broken.py", text)
    done = call("check", "a.yaml", "--import", "broken")
    assert done.status == 2
    assert "'broken' cannot be imported: " in done.err
    assert problem in done.err
    assert len(done.err.split("Error:", 1)[1].strip().splitlines()) == 1


def test_what_a_module_prints_is_not_the_answer(call: Call, tmp_path: Path) -> None:
    write(tmp_path, "loud.py", "print('training begins')\n")
    done = call("schema", "--import", "loud")
    assert (done.out[0], done.err) == ("{", "training begins\n")


def test_a_file_in_place_of_a_module_is_told_its_name(call: Call) -> None:
    assert "write the name of the module: my.spike" in call("kinds", "--import", "my/spike.py").err
