"""The physics-informed network."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml
from torch import Tensor

from tests.examples.conftest import Call
from tests.examples.programs import EXAMPLES, run_program

CONFIGS: dict[str, dict[str, object]] = yaml.safe_load((EXAMPLES / "pinn.yaml").read_text("utf-8"))
TERMS = ["residual", "boundary", "initial", "velocity"]


@pytest.fixture
def pinn(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("pinn")


@pytest.mark.slow
def test_every_config_is_trained_and_leaves_its_figures(tmp_path: Path) -> None:
    done = run_program("pinn.py", "--quick", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    check(list(CONFIGS), done.stdout, tmp_path / "runs" / "pinn")


def test_two_configs_leave_their_figures(pinn: ModuleType, call: Call, tmp_path: Path) -> None:
    configs = ("equal", "lr-annealing")
    done = call(pinn, "--steps", "2", "--seeds", "1", "--configs", *configs)
    assert done.status == 0, done.err
    check(configs, done.out, tmp_path / "runs" / "pinn")


def check(configs: Sequence[str], printed: str, out: Path) -> None:
    """What a program has printed and left."""
    assert max(map(len, printed.splitlines())) <= 80
    table = (out / "table.md").read_text("utf-8").splitlines()
    assert [row.split("|")[1].strip() for row in table[2:]] == list(configs)
    runs = json.loads((out / "figures.json").read_text("utf-8"))["runs"]
    assert [run["run"]["config"] for run in runs] == list(configs)
    for run in runs:
        assert {*TERMS, "error", "seconds"} == set(run["figures"])
        last, error = list(run["errors"].items())[-1]
        assert (last, error) == (str(run["run"]["steps"]), run["figures"]["error"])
    for picture in ("errors.png", "weights.png", "solutions.png"):
        assert (out / picture).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--configs", "equl"], "invalid choice: 'equl'"),
        (["--steps", "0"], "a whole number from 1"),
        (["--out", "taken/pinn"], "taken"),
    ],
)
def test_a_wrong_option_gives_one_line(
    arguments: list[str], words: str, pinn: ModuleType, call: Call, tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("no folder")
    done = call(pinn, *arguments)
    assert done.status == 2
    assert words in done.err
    assert len(done.err.splitlines()) == 1


def test_a_section_that_cannot_be_used_is_refused(
    pinn: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for section, words in (
        ("{terms: [residual, boundary, initial]}", "velocity"),
        ("{terms: [residual, boundary, initial, velocity], balancer: relobrallo}", "relobralo"),
    ):
        monkeypatch.setattr(pinn, "CONFIGS", tmp_path / "own.yaml")
        pinn.CONFIGS.write_text(f"own: {section}")
        with pytest.raises(ValueError, match=words):
            pinn.try_out("own", 100)


def test_the_forcing_is_that_of_the_solution(pinn: ModuleType) -> None:
    """By differences of the solution, which is written down once more here."""
    from klein_gordon.problem import exact, forcing

    def u(t: float, x: float) -> float:
        return x * math.cos(5 * math.pi * t) + t**3 * x**3

    h = 1e-3
    for t, x in ((0.1, 0.2), (0.5, 0.9), (0.77, 0.33), (0.0, 1.0)):
        u_tt = (u(t + h, x) - 2 * u(t, x) + u(t - h, x)) / h**2
        u_xx = (u(t, x + h) - 2 * u(t, x) + u(t, x - h)) / h**2
        point = torch.tensor([t, x], dtype=torch.float64)
        assert exact(point).item() == pytest.approx(u(t, x))
        assert forcing(point).item() == pytest.approx(u_tt - u_xx + u(t, x) ** 3, abs=0.01)


def test_the_points_lie_where_their_terms_are_looked_at(pinn: ModuleType) -> None:
    from klein_gordon.problem import draw

    points = draw(1000, torch.Generator().manual_seed(0))
    for where in (points.inside, points.sides, points.start):
        assert where.shape == (1000, 2)
        assert where.min() >= 0
        assert where.max() <= 1
    assert points.inside.mean(dim=0).tolist() == pytest.approx([0.5, 0.5], abs=0.05)
    assert points.sides[:, 0].mean().item() == pytest.approx(0.5, abs=0.05)
    assert set(points.sides[:, 1].tolist()) == {0.0, 1.0}
    assert points.sides[:, 1].mean().item() == pytest.approx(0.5, abs=0.05)
    assert set(points.start[:, 0].tolist()) == {0.0}
    assert points.start[:, 1].mean().item() == pytest.approx(0.5, abs=0.05)


def test_no_network_is_trained_on_the_test_points(
    pinn: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    from klein_gordon import measure
    from klein_gordon.network import Network, losses
    from klein_gordon.problem import Points, draw
    from klein_gordon.run import Run

    drawn: list[Points] = []

    def record(network: torch.nn.Module, points: Points) -> dict[str, Tensor]:
        drawn.append(points)
        return losses(network, points)

    monkeypatch.setattr(measure, "losses", record)
    measure.terms(Network())
    test = set(map(tuple, drawn[0].inside.tolist()))
    assert len(test) > 0.99 * measure.TEST_POINTS
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        for _ in range(100):
            points = draw(Run("equal", seed, 100).points, generator)
            assert test.isdisjoint(map(tuple, points.inside.tolist()))


def test_the_losses_say_what_is_wrong(pinn: ModuleType) -> None:
    """0 for the solution; for one that is off by something simple, what follows on paper."""
    from klein_gordon.network import losses
    from klein_gordon.problem import Points, draw, exact

    drawn = draw(2000, torch.Generator().manual_seed(0))
    points = Points(drawn.inside.double(), drawn.sides.double(), drawn.start.double())
    t, x = points.inside.unbind(1)
    u, on_sides = exact(points.inside), points.sides[:, 0]
    at_start = points.start[:, 1]

    def expect(
        off: object, *, residual: Tensor, boundary: Tensor, initial: Tensor, velocity: float
    ) -> None:
        found = losses(lambda where: exact(where) + off(where[:, 0], where[:, 1]), points)  # type: ignore[operator]
        assert list(found) == TERMS
        assert found["residual"].item() == pytest.approx(residual.square().mean().item(), abs=1e-9)
        assert found["boundary"].item() == pytest.approx(boundary.square().mean().item(), abs=1e-12)
        assert found["initial"].item() == pytest.approx(initial.square().mean().item(), abs=1e-12)
        assert found["velocity"].item() == pytest.approx(velocity, abs=1e-9)

    def cubes(off: Tensor) -> Tensor:
        return (u + off) ** 3 - u**3

    zero = torch.zeros(1)
    expect(lambda t, x: 0 * t, residual=zero, boundary=zero, initial=zero, velocity=0)
    expect(
        lambda t, x: 3 * t + 2,
        residual=cubes(3 * t + 2),
        boundary=3 * on_sides + 2,
        initial=2 + zero,
        velocity=9,
    )
    expect(
        lambda t, x: t**2 * (1 - x) * x,
        residual=2 * (1 - x) * x + 2 * t**2 + cubes(t**2 * (1 - x) * x),
        boundary=zero,
        initial=zero,
        velocity=0,
    )
    expect(
        lambda t, x: x**2,
        residual=-2 + cubes(x**2),
        boundary=points.sides[:, 1],
        initial=at_start**2,
        velocity=0,
    )


def test_the_error_is_relative_and_on_the_whole_square(pinn: ModuleType) -> None:
    from klein_gordon import measure
    from klein_gordon.problem import exact, grid

    assert grid().shape == (101 * 101, 2)
    assert grid()[[0, 1, 101, -1]].flatten().tolist() == pytest.approx(
        [0, 0, 0, 0.01, 0.01, 0, 1, 1]
    )
    for factor in (0.0, 0.5, 1.0, 3.0):

        class Scaled(torch.nn.Module):
            def forward(self, points: Tensor, factor: float = factor) -> Tensor:
                return factor * exact(points)

        assert measure.error(Scaled()) == pytest.approx(abs(factor - 1))
        assert measure.solution(Scaled()) == pytest.approx((factor * exact(grid())).tolist())


def test_every_config_has_the_same_network_and_points(
    pinn: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is given to the loss while the network stays as it is at the start."""
    from klein_gordon.run import Run

    steps = 3
    found: dict[tuple[str, int], list[tuple[float, ...]]] = {}
    given = pinn.losses

    def record(network: torch.nn.Module, points: object) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = given(network, points)
        found.setdefault(run_of, []).append(tuple(value.item() for value in terms.values()))
        return terms

    monkeypatch.setattr(pinn, "losses", record)
    for config in CONFIGS:
        for seed in (0, 1):
            run_of = (config, seed)
            pinn.train(Run(config, seed, steps, learning_rate=0.0), lambda *_: None)
    for seed in (0, 1):
        assert len(set(found["equal", seed])) == steps
        for config in CONFIGS:
            assert found[config, seed] == found["equal", seed]
    assert set(found["equal", 0]).isdisjoint(found["equal", 1])


def test_fixed_and_scheduled_weights_are_those_of_the_file(pinn: ModuleType) -> None:
    from lossweights import WeightedLoss

    def weights(config: str, step: int) -> list[float]:
        criterion = WeightedLoss.from_config(pinn.CONFIGS, at=config).bind(total_steps=80)
        criterion.set_step(step)
        return [criterion.weights[term] for term in TERMS]

    for step in (0, 79):
        assert weights("equal", step) == [1, 1, 1, 1]
        assert weights("by-hand", step) == [1, 100, 100, 100]
    for step, weight in ((0, 0), (10, 0.25), (39, 0.975), (40, 1), (79, 1)):
        assert weights("warm-up", step) == [pytest.approx(weight), 1, 1, 1]


def weights_after(
    pinn: ModuleType, config: str, steps: int, monkeypatch: pytest.MonkeyPatch
) -> dict[str, list[float]]:
    """The weights of each step; of a long run, those of every tenth."""
    from klein_gordon.run import Run

    monkeypatch.setattr(Run, "interval", 1 if steps < 100 else 10)
    weights: dict[str, list[float]] = pinn.train(Run(config, 0, steps), lambda *_: None).weights
    return weights


@pytest.mark.parametrize(
    "config",
    [
        "relobralo",
        "softadapt",
        "lr-annealing",
        "lr-annealing-plain",
        "lr-annealing-mean",
        "ntk",
        "norm-balance",
        "conflict-free",
    ],
)
def test_what_adapts_leaves_equal_weights(
    pinn: ModuleType, config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = weights_after(pinn, config, 201 if config == "softadapt" else 12, monkeypatch)
    last = [weights[term][-1] for term in TERMS]
    assert all(math.isfinite(weight) for weight in last)
    assert max(last) > 1.001 * min(last)
    if config.startswith("lr-annealing"):
        assert set(weights["residual"]) == {1}
        first, *_, eleventh, twelfth = weights["boundary"]
        assert first != eleventh == twelfth


def test_the_conditions_count_more_under_the_largest_entry(
    pinn: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    largest = weights_after(pinn, "lr-annealing-plain", 1, monkeypatch)
    mean = weights_after(pinn, "lr-annealing-mean", 1, monkeypatch)
    for term in TERMS[1:]:
        assert largest[term][0] > 5 * mean[term][0]


def test_annealing_settles_where_the_comments_say(pinn: ModuleType) -> None:
    """Of gradients that do not change: entries of 3 and 4, and of 0.1."""
    from lossweights import WeightedLoss

    found = {}
    for config in ("lr-annealing", "lr-annealing-plain", "lr-annealing-mean"):
        criterion = WeightedLoss.from_config(pinn.CONFIGS, at=config)
        shared = torch.tensor([3.0, 4.0], requires_grad=True)
        for _ in range(1000):
            terms = dict.fromkeys(TERMS, shared.sum() / 10)
            criterion(terms | {"residual": shared.square().sum() / 2}, shared=shared)
            criterion.step()
        found[config] = criterion.metrics(include=["weight"])["weight/boundary"]
    assert found["lr-annealing-plain"] == pytest.approx(4 / 0.1, rel=1e-3)
    assert found["lr-annealing-mean"] == pytest.approx(3.5 / 0.1, rel=1e-3)
    assert found["lr-annealing"] == pytest.approx(math.sqrt(4 / 0.1), rel=1e-3)


def test_norms_come_to_their_mean_as_the_comments_say(pinn: ModuleType) -> None:
    """Of gradients that do not change: norms of 5 and, three times, 0.2."""
    from lossweights import WeightedLoss

    criterion = WeightedLoss.from_config(pinn.CONFIGS, at="norm-balance")
    shared = torch.tensor([3.0, 4.0], requires_grad=True)
    terms = dict.fromkeys(TERMS, 0.2 * shared[0])
    criterion(terms | {"residual": shared.square().sum() / 2}, shared=shared)
    weights = criterion.metrics(include=["weight"])
    mean = (5 + 3 * 0.2) / 4
    assert weights["weight/residual"] == pytest.approx(mean / 5)
    assert weights["weight/boundary"] == pytest.approx(mean / 0.2)


def test_kernels_weigh_as_the_comments_say(pinn: ModuleType) -> None:
    """Squares of 5 and of 0.2 times a parameter: kernels of 25 and 0.04."""
    from lossweights import WeightedLoss

    criterion = WeightedLoss.from_config(pinn.CONFIGS, at="ntk")
    shared = torch.tensor(3.0, requires_grad=True)
    terms = dict.fromkeys(TERMS, (0.2 * shared).square())
    criterion(terms | {"residual": (5 * shared).square()}, shared=shared)
    weights = criterion.metrics(include=["weight"])
    assert weights["weight/residual"] == pytest.approx((25 + 3 * 0.04) / 25)
    assert weights["weight/boundary"] == pytest.approx((25 + 3 * 0.04) / 0.04)


def test_training_brings_every_term_down(pinn: ModuleType) -> None:
    from klein_gordon.run import Run

    figures = {
        steps: pinn.train(Run("by-hand", 0, steps), lambda *_: None).figures for steps in (1, 300)
    }
    for term in TERMS:
        assert figures[300][term] < 0.5 * figures[1][term]
