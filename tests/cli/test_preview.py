"""`preview` draws what a training will do, in the terminal and as a picture."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import SPIKE, Call, write

RAMP = (
    "total_steps: 100\nterms:\n  nll: 1.0\n  kl: {weight: 2, schedule: {kind: warmup, over: 50%}}\n"
)
FLAT = "total_steps: 50\nterms: {nll: 1.0, kl: 1.0, l2: -0.5}\n"


def panels(text: str) -> dict[str, list[str]]:
    """What stands under the name of each term."""
    blocks = [block.splitlines() for block in text.split("\n\n")[1:]]
    return {block[0].split()[0]: block for block in blocks}


def test_each_term_has_its_panel(call: Call, tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", RAMP)
    done = call("preview", "a.yaml")
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("a.yaml\n")
    found = panels(done.out)
    assert found["nll"] == ["nll  1 throughout"], "there is nothing to draw"
    assert found["kl"][1].startswith("2┤")
    assert found["kl"][-1].split() == ["0", "step", "99"]


def test_configs_lie_on_top_of_each_other_with_a_legend(call: Call, tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", RAMP)
    write(tmp_path, "b.yaml", FLAT)
    done = call("preview", "a.yaml", "b.yaml")
    assert done.out.startswith("o a.yaml\nx b.yaml\n")
    found = panels(done.out)
    assert found["nll"] == ["nll  1 throughout"]
    assert "o" in "".join(found["kl"][1:9])
    row = next(row for row in found["kl"] if "x" in row)
    assert row.rindex("x") < 0.6 * 80, "its training is half as long"
    assert found["l2"] == ["l2  -0.5 throughout", "  a.yaml: has no such term"]


def test_files_of_one_name_are_told_apart(call: Call, tmp_path: Path) -> None:
    write(tmp_path, "x/a.yaml", RAMP)
    write(tmp_path, "y/a.yaml", FLAT)
    out = call("preview", "x/a.yaml", "y/a.yaml").out
    assert out.startswith("o x/a.yaml\nx y/a.yaml\n")


def test_sections_of_one_file_are_told_apart(call: Call, tmp_path: Path) -> None:
    write(tmp_path, "two.yaml", "a: {terms: [x]}\nb: {terms: {x: 2}}")
    out = call("preview", "two.yaml:a", "two.yaml:b").out
    assert out.startswith("o two.yaml:a\nx two.yaml:b\n")


def test_a_change_is_what_the_file_could_say(call: Call, tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", FLAT)
    changed = call(
        *("preview", "a.yaml", "--set", "kl.weight=2", "--set", "total_steps=100"),
        *("--set", "kl.schedule={kind: warmup, over: 50%}"),
    )
    write(tmp_path, "a.yaml", RAMP)
    assert panels(changed.out)["kl"] == panels(call("preview", "a.yaml").out)["kl"]


def test_a_change_of_several_terms(call: Call, tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", 'terms: {"aux_{0..2}": 1.0}\ntotal_steps: 100\n')
    changes = ("--set", "aux_{0..1}.weight=3", "--set", "terms.new=2")
    changed = panels(call("preview", "a.yaml", *changes).out)
    write(tmp_path, "b.yaml", "terms: {aux_0: 3, aux_1: 3, aux_2: 1, new: 2}\ntotal_steps: 100\n")
    assert changed == panels(call("preview", "b.yaml").out)
    assert list(changed) == ["aux_0", "aux_1", "aux_2", "new"]


@pytest.mark.parametrize(
    ("change", "problem", "status"),
    [
        ("kl.wieght=1", "did you mean 'weight'", 1),
        ("k{l.weight=1", "after the changes: k{l.weight: a single '{' is not a pattern", 1),
        ("lk.weight=1", "to add one, write all of it at terms.lk", 1),
        ("kl.weight=often", "a.yaml: refused after the changes: terms.kl.weight", 1),
        ("kl.weight", "write PATH=VALUE", 2),
        ("=3", "write PATH=VALUE", 2),
        (" =3", "write PATH=VALUE", 2),
        ("kl={", "not well-formed YAML", 2),
        ("kl.weight=2020-13-45", "not well-formed YAML", 2),
    ],
)
def test_a_change_that_cannot_be(
    change: str, problem: str, status: int, call: Call, tmp_path: Path
) -> None:
    write(tmp_path, "a.yaml", FLAT)
    done = call("preview", "a.yaml", "--set", change)
    assert done.status == status
    assert problem in " ".join(done.err.split())


def test_what_a_training_multiplies_says_so(call: Call, tmp_path: Path) -> None:
    text = "balancer: {kind: dwa, every: 1 steps}\nterms: {a: 1, b: {kind: pid, target: 3}}"
    write(tmp_path, "a.yaml", text)
    found = panels(call("preview", "a.yaml", "--total-steps", 9).out)
    assert found["a"][1] == "  multiplied in training by the balancer dwa"
    assert found["b"][1] == "  multiplied in training by the controller pid"
    write(tmp_path, "b.yaml", "terms: {a: 1, b: 1}")
    found = panels(call("preview", "a.yaml", "b.yaml", "--total-steps", 9).out)
    assert found["a"][1] == "  a.yaml: multiplied in training by the balancer dwa"


GROUPS = """
total_steps: 100
terms:
  task: 1
  "g{0..5}":
    schedule: {kind: warmup, over: 50%}
    terms: {"d{0..11}": 0.5, last: 2}
  late: {weight: 3, terms: {"x{0..3}": {after: 10%}, y: 1}}
"""


def test_a_group_is_drawn_with_members_that_change_by_themselves(
    call: Call, tmp_path: Path
) -> None:
    write(tmp_path, "a.yaml", GROUPS)
    found = panels(call("preview", "a.yaml").out)
    assert [*found] == ["task", *(f"g{i}" for i in range(6)), "late", "late/x0"]
    assert found["g0"][1] == "  its members: d0, d1, d2 and 9 others x 0.5, last x 2"
    assert found["late"] == ["late  3 throughout", "  its members: y x 1"]
    assert found["late/x0"][0] == "late/x0 and 3 alike"
    write(tmp_path, "b.yaml", "balancer: dwa\nterms: {late: {terms: [y, z]}, a: 1}")
    out = call("preview", "a.yaml", "b.yaml", "--total-steps", 100, "--steps-per-epoch", 10).out
    assert panels(out)["late"][1:4] == [
        "  a.yaml: its members: y x 1",
        "  b.yaml: multiplied in training by the balancer dwa",
        "  b.yaml: its members: y, z x 1",
    ]
    assert panels(out)["late/x0"][1] == "  b.yaml: has no such term"
    more = "late.terms.y={kind: warmup, over: 50%}"
    found = panels(
        call("preview", "b.yaml", "--total-steps", 9, "--steps-per-epoch", 3, "--set", more).out
    )
    assert found["late/y"][1] == "  multiplied in training by the balancer dwa"


def test_the_time_axis_has_the_unit_of_the_clock(call: Call, tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "total: 5000 tokens\nterms: {a: 1, b: {kind: warmup, over: 50%}}")
    assert "4999 tokens" in call("preview", "a.yaml").out
    write(tmp_path, "b.yaml", "terms: {b: {kind: warmup, over: 50%, delay: 5 tokens}}")
    needed = " ".join(call("preview", "b.yaml").err.split())
    assert needed.endswith("before total is known: pass --total")
    assert "99 tokens" in call("preview", "b.yaml", "--total", "100 tokens").out
    write(tmp_path, "c.yaml", "terms: {b: {kind: warmup, over: 50 tokens}}")
    assert "give it with --total" in call("preview", "c.yaml").out
    write(tmp_path, "d.yaml", "total_steps: 5000\nterms: {a: 1, b: {kind: warmup, over: 50%}}")
    both = call("preview", "a.yaml", "d.yaml")
    assert both.status == 2
    assert "a drawing has one time axis" in both.err


BROKEN = """
from lossweights import Schedule

class Broken(Schedule, kind="test-broken"):
    def values(self, steps, horizon):
        raise RuntimeError("boom")
"""


@pytest.mark.parametrize(
    "text",
    [
        "terms: {kl: {kind: test-broken}}",
        "balancer: uncertainty\nterms: {a: -1.0, b: 1.0}",
        "terms: &again {kl: *again}",
        "terms: {kl: 1" + 5000 * "0" + "}",  # Python reads no number so long
    ],
)
def test_what_check_refuses_is_not_drawn(text: str, call: Call, tmp_path: Path) -> None:
    write(tmp_path, "broken.py", BROKEN)
    write(tmp_path, "a.yaml", text)
    checked = call("check", "a.yaml", "--import", "broken")
    done = call("preview", "a.yaml")
    assert (done.status, done.out) == (1, "")
    assert checked.err.startswith("a.yaml: refused\n  ")
    assert done.err.split() == f"error: {checked.err}".split()  # lines end elsewhere


def test_a_length_that_is_needed_is_asked_for(call: Call, tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "terms: {kl: {kind: warmup, over: 10%}}")
    done = call("preview", "a.yaml")
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith("error: a.yaml: term 'kl': 10% of training")
    assert done.err.endswith("--total-steps\n")
    write(tmp_path, "known.yaml", FLAT)
    done = call("preview", "known.yaml", "a.yaml")
    assert (done.status, done.out) == (1, ""), "nothing is drawn before the error"
    write(tmp_path, "a.yaml", "total_steps: 3 epochs\nterms: {kl: {kind: warmup, over: 1 epochs}}")
    done = call("preview", "a.yaml")
    assert done.err.endswith("--steps-per-epoch\n")
    assert "step 29" in call("preview", "a.yaml", "--steps-per-epoch", 10).out


def test_a_training_without_end_says_so(call: Call, tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "terms: {kl: {kind: warmup, over: 3000 steps}}")
    assert "a.yaml: the length of training is not known" in call("preview", "a.yaml").out
    assert "not known" not in call("preview", "a.yaml", "--total-steps", 9).out


def test_as_many_as_can_be_told_apart(call: Call, tmp_path: Path) -> None:
    names = [write(tmp_path, f"{index}.yaml", FLAT).name for index in range(9)]
    assert call("preview", *names[:8]).status == 0
    assert "at most 8" in call("preview", *names).err
    assert "given twice" in call("preview", "1.yaml", "1.yaml").err


@pytest.mark.parametrize("columns", [40, 60, 200])
def test_it_fits_the_terminal(columns: int, call: Call, tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", RAMP)
    out = call("preview", "a.yaml", columns=columns).out
    assert max(map(len, out.splitlines())) == min(columns, 120)


def test_kinds_of_ones_own(call: Call, tmp_path: Path) -> None:
    write(tmp_path, "spike.py", SPIKE)
    write(tmp_path, "a.yaml", "terms: {kl: {kind: cli-spike, height: 2}}")
    assert "2 throughout" in call("preview", "a.yaml", "--import", "spike").out


# Pictures


@pytest.mark.parametrize(("suffix", "begins"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_a_picture_is_written_in_its_format(
    suffix: str, begins: bytes, call: Call, tmp_path: Path
) -> None:
    write(tmp_path, "a.yaml", RAMP)
    done = call("preview", "a.yaml", "--out", f"a.{suffix}")
    assert (done.status, done.out, done.err) == (0, "", f"wrote a.{suffix}\n")
    assert (tmp_path / f"a.{suffix}").read_bytes().startswith(begins)


@pytest.mark.parametrize("out", ["a.jpg", "a.html", "a", "a.yaml"])
def test_another_format_is_refused_before_anything_is_written(
    out: str, call: Call, tmp_path: Path
) -> None:
    write(tmp_path, "a.yaml", RAMP)
    done = call("preview", "a.yaml", "--out", out)
    assert done.status == 2
    assert "a name that ends in .png or .svg" in done.err
    assert (tmp_path / "a.yaml").read_text() == RAMP


def test_a_folder_that_is_not_there_is_one_line(call: Call, tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", RAMP)
    done = call("preview", "a.yaml", "--out", "none/a.svg")
    assert done.status == 1
    assert done.err == "error: none/a.svg cannot be written: No such file or directory\n"


def test_each_scheduled_number_has_its_panel(call: Call, tmp_path: Path) -> None:
    numbers = "scheduled: {kl: {kind: ramp, start: 4, stop: 1, over: 50%}, ratio: 0.3}\n"
    write(tmp_path, "a.yaml", RAMP + numbers)
    write(tmp_path, "b.yaml", FLAT)
    found = panels(call("preview", "a.yaml").out)
    assert list(found) == ["nll", "kl", "scheduled.kl", "scheduled.ratio"]
    assert found["scheduled.kl"][1].startswith("4┤")
    assert found["scheduled.ratio"] == ["scheduled.ratio  0.3 throughout"]
    both = panels(call("preview", "a.yaml", "b.yaml").out)
    assert both["scheduled.ratio"][1] == "  b.yaml: has no such number"
    changed = panels(call("preview", "a.yaml", "--set", "scheduled.kl=2").out)
    assert changed["scheduled.kl"] == ["scheduled.kl  2 throughout"]
