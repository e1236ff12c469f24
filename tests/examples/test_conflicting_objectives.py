"""Two objectives that conflict."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml

from tests.examples.conftest import Call
from tests.examples.programs import EXAMPLES, run_program


@pytest.fixture
def conflicting_objectives(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("conflicting_objectives")


@pytest.mark.slow
def test_every_method_goes_from_every_start(tmp_path: Path) -> None:
    done = run_program("conflicting_objectives.py", "--quick", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    methods = yaml.safe_load((EXAMPLES / "conflicting_objectives.yaml").read_text("utf-8"))
    check(set(methods), done.stdout, tmp_path / "runs" / "conflicting_objectives")


def test_one_method_goes_from_every_start(
    conflicting_objectives: ModuleType, call: Call, tmp_path: Path
) -> None:
    done = call(conflicting_objectives, "--steps", "10", "--methods", "mgda")
    assert done.status == 0, done.err
    check({"mgda"}, done.out, tmp_path / "runs" / "conflicting_objectives")


def check(methods: set[str], printed: str, out: Path) -> None:
    """What a program has printed and left."""
    rows = [line.split() for line in printed.splitlines()]
    assert {row[0] for row in rows if row[1:4] == ["0", "of", "5"]} == methods
    for picture in ("plane.png", "objectives.png"):
        assert (out / picture).read_bytes().startswith(b"\x89PNG")


def test_the_objectives_are_those_of_the_code_of_the_paper(
    conflicting_objectives: ModuleType,
) -> None:
    """Values and gradients from `Toy.forward` of Cranial-XIX/CAGrad, toy.py, ef7274c, float64."""
    recorded = {
        (-8.5, 7.5): (
            (6.552363407771327, 7.900798143172848),
            (
                (-0.28539851198351834, 0.007248720226029931),
                (-0.07399217423619772, 0.00873943792752188),
            ),
        ),
        (-8.5, -5.0): (
            (4.0599178368931375, -19.421502459110904),
            (
                (-3.058504324269434, 0.004483351488482924),
                (-0.2959842894454291, 0.32093084901809377),
            ),
        ),
        (-5.0, 1000.0): (
            (-6.206072645530174, 7.6094379124341005),
            ((0.0, 0.0), (-0.1, 0.0)),
        ),
    }
    for start, (values, gradients) in recorded.items():
        point = torch.tensor(start, dtype=torch.float64, requires_grad=True)
        found = conflicting_objectives.objectives(point)
        assert [found["f1"].item(), found["f2"].item()] == pytest.approx(values)
        for name, gradient in zip(("f1", "f2"), gradients, strict=True):
            (taken,) = torch.autograd.grad(found[name], point, retain_graph=True)
            assert taken.tolist() == pytest.approx(gradient)


def test_nothing_is_better_than_the_front(conflicting_objectives: ModuleType) -> None:
    from two_objectives.problem import EXTENT, values

    front = conflicting_objectives.pareto_front()
    draws = torch.rand(4_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = values((2 * draws - 1) * EXTENT)[:, None]
    coarse = 0.02  # what the grid may miss
    assert not (found < front.values - coarse).all(dim=-1).any()
    assert (front.values < found + coarse).all(dim=-1).any(dim=-1).all()
    assert front.points[0].tolist() == pytest.approx([7, -8.434459], abs=0.05)
    assert front.values[-1].tolist() == pytest.approx([-0.4, -19.989425], abs=0.01)


@pytest.mark.parametrize(
    ("where", "step"),
    [("ooooo", 0), (".o.oo", 30), ("....o", 40), ("oooo.", None), (".....", None)],
)
def test_the_front_is_reached_where_the_path_stays(
    conflicting_objectives: ModuleType, where: str, step: int | None
) -> None:
    from two_objectives.run import EVERY, Result, Run

    on, off = [0.0, -8.355], [10.0, -8.0]
    run = Run("sum", (10.0, -8.0), 4 * EVERY, 0.1)
    result = Result(run, [on if letter == "o" else off for letter in where])
    assert result.reached(conflicting_objectives.pareto_front(301), 0.1) == step


def test_mgda_stays_where_it_meets_the_front_and_the_sum_goes_on_to_the_middle(
    conflicting_objectives: ModuleType,
) -> None:
    from two_objectives.run import Run

    ends = {}
    for method in ("sum", "mgda"):
        run = Run(method, (10.0, -8.0), 1000, 0.02)
        ends[method] = conflicting_objectives.descend(run, lambda *_: None).values()[-1]
    assert ends["sum"].tolist() == pytest.approx([-15.09, -15.09], abs=0.5)
    assert conflicting_objectives.pareto_front().distances(ends["mgda"][None]).item() < 0.1
    assert ends["mgda"][0] < -19.9
