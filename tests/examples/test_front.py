"""Families of configs at the same KL: the sweep runs, and the comparison is right."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lossweights import Front
from lossweights.search import Outcome
from tests.examples.conftest import Call
from tests.examples.programs import EXAMPLES, run_program

FAMILIES = ["constant", "ramp", "cyclical", "pid", "free-bits", "capacity"]


@pytest.fixture
def front(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    evaluate = importlib.import_module("pronunciation_vae.evaluate")
    monkeypatch.setattr(evaluate, "LABELED", 100)  # the probes take longer than the training
    monkeypatch.setattr(evaluate, "PROBE_DRAWS", 1)
    return importlib.import_module("front")


@pytest.mark.slow
def test_the_program_sweeps_and_compares_and_draws(tmp_path: Path) -> None:
    done = run_program("front.py", "--quick", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    check(done.stdout, tmp_path / "runs" / "front")


def test_a_quick_sweep_is_compared_and_drawn_and_is_there_the_next_time(
    front: ModuleType, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = call(front, "--quick", "--workers", "1")
    assert done.status == 0, done.err
    check(done.out, tmp_path / "runs" / "front")

    def fail(*_: object) -> None:
        raise AssertionError("it trains again")

    monkeypatch.setattr(front, "training", fail)
    assert call(front, "--quick", "--workers", "1").out == done.out


def check(printed: str, out: Path) -> None:
    """What a program has printed and left."""
    assert "unchanged" in printed
    table = (out / "matched.md").read_text("utf-8")
    assert [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines() if line] == [
        name
        for measure in ("-ELBO (nats)", "first phoneme (%)", "syllables (%)", "MI (nats)")
        for name in (measure, "|---|---:|---:|---:|---:|---:|", *FAMILIES)
    ]
    for picture in ("front.png", "families.png"):
        assert (out / picture).read_bytes().startswith(b"\x89PNG")


def test_a_training_is_that_of_the_example_of_the_elbo(front: ModuleType, tmp_path: Path) -> None:
    from pronunciation_vae.options import Run

    vae_elbo = importlib.import_module("vae_elbo")
    run = Run(EXAMPLES / "vae_elbo" / "constant.yaml", seed=3, epochs=2, words=1000)
    expected = vae_elbo.train(tmp_path, run, lambda *_: None).figures
    assert front.train(front.CONFIG, 3, lambda *_: None, words=1000, epochs=2) == expected


def test_every_choice_is_a_config_of_its_own_and_of_one_family(front: ModuleType) -> None:
    from kl_front.families import family_of

    configs = [
        (family, front.CONFIG.override({"kl": choice}))
        for family, choices in front.FAMILIES.items()
        for choice in choices
    ]
    assert [family_of(config) for _, config in configs] == [family for family, _ in configs]
    assert len({config.model_dump_json() for _, config in configs}) == len(configs)
    assert family_of(front.CONFIG) == "constant"


# At the same KL


def outcome(number: int, results: dict[int, tuple[float, float]]) -> Outcome:
    """With a KL and a negative ELBO for each seed."""
    by_seed = {seed: {"kl": kl, "negative_elbo": y} for seed, (kl, y) in results.items()}
    return Outcome(number, "done", results=by_seed)


@pytest.mark.parametrize(
    ("level", "expected"),
    [(1.0, 10.0), (1.5, 11.0), (2.0, 12.0), (3.0, 10.0), (4.0, 8.0), (0.9, None), (4.1, None)],
)
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_a_measure_lies_on_straight_lines_between_neighbors(
    front: ModuleType, level: float, expected: float | None, order: Sequence[int]
) -> None:
    from kl_front.matched import at

    points = [(1.0, 10.0), (2.0, 12.0), (4.0, 8.0)]
    outcomes = [outcome(index, {7: points[index]}) for index in order]
    found = at(outcomes, 7, "negative_elbo", level)
    assert found == pytest.approx(float("nan") if expected is None else expected, nan_ok=True)


def test_differences_are_taken_seed_by_seed(
    front: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seeds differ by 100, families by 1 and 3 at 2 nats."""
    matched: Any = importlib.import_module("kl_front.matched")
    families = {
        "constant": [
            outcome(0, {0: (1.0, 9.0), 1: (1.0, 109.0)}),
            outcome(1, {0: (3.0, 11.0), 1: (3.0, 111.0)}),
        ],
        "ramp": [
            outcome(2, {0: (0.9, 11.0), 1: (1.5, 113.0)}),
            outcome(3, {0: (3.1, 11.0), 1: (2.5, 113.0)}),
        ],
    }
    monkeypatch.setattr(matched, "families_of", lambda _: families)
    sweep = Front([], minimize=["negative_elbo"], seeds=[0, 1])
    found = matched.compare(sweep, "negative_elbo")
    level = matched.LEVELS.index(2.0)
    assert found["constant"][level].mean == pytest.approx(60.0)
    assert found["ramp"][level] == pytest.approx((2.0, 2.0**0.5))
    text = matched.cells(sweep, "negative_elbo")
    assert text["ramp"][level] == "+2.00 ± 1.41"
    # At 1 nat one seed has no ramp on both sides; at 4 nats nothing has.
    assert text["ramp"][matched.LEVELS.index(1.0)] == "-"
    assert text["constant"][matched.LEVELS.index(4.0)] == "-"
