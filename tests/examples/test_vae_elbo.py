"""The VAE of pronunciations runs, and resumes after an interruption."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

from tests.examples.conftest import Call
from tests.examples.programs import EXAMPLES, run_program

CONFIGS = sorted((EXAMPLES / "vae_elbo").glob("*.yaml"))
WITH_TARGET = {"pid", "lagrangian", "free-bits"}


@pytest.fixture
def vae_elbo(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    evaluate = importlib.import_module("pronunciation_vae.evaluate")
    monkeypatch.setattr(evaluate, "LABELED", 100)  # the probes take longer than the training
    monkeypatch.setattr(evaluate, "PROBE_DRAWS", 1)
    return importlib.import_module("vae_elbo")


@pytest.mark.slow
def test_the_program_runs_and_leaves_figures_and_pictures(tmp_path: Path) -> None:
    arguments = ("--words", "1000", "--epochs", "1", "--configs", "cyclical-cosine", "free-bits")
    done = run_program("vae_elbo.py", *arguments, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    check(done.stdout, tmp_path / "runs" / "vae_elbo")


def test_two_short_runs_leave_figures_and_pictures(
    vae_elbo: ModuleType, call: Call, tmp_path: Path
) -> None:
    arguments = ("--words", "1000", "--epochs", "1", "--configs", "cyclical-cosine", "free-bits")
    done = call(vae_elbo, *arguments)
    assert done.status == 0, done.err
    check(done.out, tmp_path / "runs" / "vae_elbo")


def check(printed: str, out: Path) -> None:
    """What a program has printed and left."""
    of_all, of_targets = printed.split("Does the KL stay at its target?")
    assert "cyclical-cosine" in of_all
    assert "cyclical-cosine" not in of_targets
    assert "free-bits 3.00" in " ".join(of_targets.split())
    assert json.loads((out / "figures.json").read_text())
    for picture in ("curves.png", "weights.png"):
        assert (out / picture).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--configs", "cyclic"], "'cyclic' is neither a file nor one of constant"),
        (["--epochs", "0"], "a whole number from 1"),
        (["--configs", "wrong.yaml"], "did you mean 'cyclical'"),
        (["--configs", "other.yaml"], "'KL' is not a term of this program: write 'kl' instead at"),
        (["--configs", "scalar.yaml"], "write reduction: mean, sum or batch_mean at terms.kl"),
    ],
)
def test_a_wrong_option_gives_one_line(
    arguments: list[str], words: str, vae_elbo: ModuleType, call: Call, tmp_path: Path
) -> None:
    (tmp_path / "wrong.yaml").write_text("loss: {terms: {kl: {kind: cylical}, reconstruction: 1}}")
    (tmp_path / "other.yaml").write_text("loss: {terms: {KL: 1, reconstruction: 1}}")
    (tmp_path / "scalar.yaml").write_text("loss: {terms: {kl: 1, reconstruction: 1}}")
    done = call(vae_elbo, *arguments)
    assert done.status == 2
    assert words in done.err
    assert len(done.err.splitlines()) == 1


def test_a_second_run_in_the_same_folder_is_refused(
    vae_elbo: ModuleType, call: Call, tmp_path: Path
) -> None:
    from harness.folder import reserved

    out = tmp_path / "runs" / "vae_elbo"
    out.mkdir(parents=True)
    with reserved(out):
        done = call(vae_elbo, "--words", "1000", "--epochs", "1", "--configs", "constant")
    assert "vae_elbo is in use by another run: wait" in str(done.status)
    assert [file.name for file in out.iterdir()] == [".lock"]


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
