"""The examples run, and go on from where they were interrupted."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml

EXAMPLES = Path(__file__).parents[1] / "examples"
CONFIGS = sorted((EXAMPLES / "vae_elbo").glob("*.yaml"))
WITH_TARGET = {"pid", "lagrangian", "free-bits"}


@pytest.fixture
def vae_elbo(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("vae_elbo")


@pytest.fixture
def conflicting_objectives(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("conflicting_objectives")


def run_program(
    *arguments: str, folder: Path, program: str = "vae_elbo.py"
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603
        [sys.executable, "-W", "error", str(EXAMPLES / program), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_program_runs_and_leaves_figures_and_pictures(tmp_path: Path) -> None:
    arguments = ("--words", "1000", "--epochs", "1", "--configs", "cyclical-cosine", "free-bits")
    done = run_program(*arguments, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    of_all, of_targets = done.stdout.split("Does it hold the KL that it was told to hold?")
    assert "cyclical-cosine" in of_all
    assert "cyclical-cosine" not in of_targets
    assert "free-bits 3.00" in " ".join(of_targets.split())
    out = tmp_path / "runs" / "vae_elbo"
    assert json.loads((out / "figures.json").read_text())
    for picture in ("curves.png", "weights.png"):
        assert (out / picture).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--configs", "cyclic"], "'cyclic' is neither a file nor one of constant"),
        (["--epochs", "0"], "a whole number from 1"),
        (["--configs", "wrong.yaml"], "did you mean 'cyclical'"),
        (["--configs", "scalar.yaml"], "write reduction: mean, sum or batch_mean at terms.kl"),
    ],
)
def test_a_wrong_option_gives_one_line(arguments: list[str], words: str, tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text("loss: {terms: {kl: {kind: cylical}, reconstruction: 1}}")
    (tmp_path / "scalar.yaml").write_text("loss: {terms: {kl: 1, reconstruction: 1}}")
    done = run_program(*arguments, folder=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("config", "stop_at"),
    [("cyclical-linear", 3), ("cyclical-linear", 10), ("pid", 10), ("lagrangian", 10)],
)
def test_an_interrupted_run_goes_on_to_the_same_figures(
    vae_elbo: ModuleType, tmp_path: Path, config: str, stop_at: int
) -> None:
    from pronunciation_vae.options import Run

    run = Run(EXAMPLES / "vae_elbo" / f"{config}.yaml", seed=0, epochs=2, words=1000)
    shown = []

    def show(done: int, total: int, note: str) -> None:
        shown.append(done)

    def stop(done: int, total: int, note: str) -> None:
        if done == stop_at:
            raise KeyboardInterrupt

    (tmp_path / "straight").mkdir()
    (tmp_path / "broken").mkdir()
    straight = vae_elbo.train(tmp_path / "straight", run, show)
    assert shown[-1] == run.total_steps
    with pytest.raises(KeyboardInterrupt):
        vae_elbo.train(tmp_path / "broken", run, stop)
    assert vae_elbo.train(tmp_path / "broken", run, show) == straight


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_a_config_ends_with_a_weight_of_one_or_asks_for_three_nats(
    vae_elbo: ModuleType, config: Path
) -> None:
    from lossweights import WeightedLoss
    from pronunciation_vae.options import Run

    target = Run(config, seed=0, epochs=6, words=40_000).target
    if config.stem in WITH_TARGET:
        assert target == 3.0
        return
    assert target is None
    criterion = WeightedLoss.from_config(config, at="loss").bind(total_steps=1686)
    criterion.set_step(1685)
    assert criterion.weights == {"reconstruction": 1.0, "kl": 1.0}


def test_every_config_is_run_by_its_name(vae_elbo: ModuleType) -> None:
    from pronunciation_vae.options import CONFIGS as NAMES
    from pronunciation_vae.options import DEMO

    assert sorted(NAMES) == [path.stem for path in CONFIGS]
    assert set(DEMO) < set(NAMES)


def test_the_controls_hold_as_long_as_the_cycles() -> None:
    """The long ramp and the last cycle both reach 1 after 7/8 of training."""
    from lossweights import WeightedLoss

    for name in ("cyclical-linear", "long-ramp"):
        config = EXAMPLES / "vae_elbo" / f"{name}.yaml"
        criterion = WeightedLoss.from_config(config, at="loss").bind(total_steps=1600)
        criterion.set_step(1399)
        assert criterion.weights["kl"] < 1.0
        criterion.set_step(1400)
        assert criterion.weights["kl"] == 1.0


@pytest.mark.parametrize("ranks", [1, 2])
def test_ranks_end_with_the_same_weights(ranks: int, tmp_path: Path) -> None:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    done = subprocess.run(  # noqa: S603
        [
            *(sys.executable, "-W", "error"),
            *(torchrun if ranks > 1 else ()),
            *(str(EXAMPLES / "distributed.py"), "--quick"),
        ],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    head, *epochs, last = done.stdout.strip().splitlines()
    assert head.split() == [
        "epoch",
        "digit",
        "w",
        "digit",
        "centre",
        "w",
        "centre",
        "size",
        "w",
        "size",
    ]
    assert [line.split()[0] for line in epochs] == ["0", "1"]
    assert last.strip() == f"the weights agree on {ranks} rank(s)"


def test_every_method_goes_from_every_start(tmp_path: Path) -> None:
    program = "conflicting_objectives.py"
    done = run_program("--quick", folder=tmp_path, program=program)
    assert done.returncode == 0, done.stderr
    methods = yaml.safe_load((EXAMPLES / "conflicting_objectives.yaml").read_text("utf-8"))
    rows = [line.split() for line in done.stdout.splitlines()]
    assert {row[0] for row in rows if row[1:4] == ["0", "of", "5"]} == set(methods)
    out = tmp_path / "runs" / "conflicting_objectives"
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
