"""Tries the installed package, as `make dist` does with the wheel in a new environment.

    python -I tests/smoke.py core      without extras
    python -I tests/smoke.py extras    with the extras cli, plot and sweep

`-I` keeps the checkout and PYTHONPATH out of the import path. Files go to a temporary folder.
"""

import argparse
import contextlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch

import lossweights
from lossweights import ConfigError, History, LossConfig, WeightedLoss

EXTRAS = ("yaml", "docstring_parser", "plotext", "rich", "typer", "matplotlib", "moocore", "optuna")
PNG = b"\x89PNG"
CONFIG = LossConfig.read(
    {
        "total_steps": 60,
        "balancer": {"kind": "dwa", "every": "5 steps"},
        "terms": {
            "nll": 1.0,
            "kl": {"kind": "cyclical", "cycles": 3},
            "size": {"kind": "pid", "target": 0.5, "response": "10%"},
        },
    }
)


def main(which: str) -> None:
    """Runs the checks in a temporary folder."""
    installed, checkout = Path(lossweights.__file__), Path(__file__).parents[1]
    assert not installed.is_relative_to(checkout), f"this is the checkout: {installed}"
    assert version("lossweights") == lossweights.__version__
    assert (installed.parent / "py.typed").exists()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        core()
        if which == "core":
            without_extras()
        else:
            command_line()
            pictures()
            sweeps()
    print(f"lossweights {lossweights.__version__} works: {which}")  # noqa: T201


class Training:
    """A code that is trained by three terms."""

    def __init__(self, config: LossConfig) -> None:
        torch.manual_seed(0)
        self.code = torch.nn.Parameter(torch.randn(8))
        self.optimizer = torch.optim.Adam([self.code], lr=0.05)
        self.criterion = WeightedLoss(config)
        self.criterion.follow(self.optimizer)

    def run(self, steps: int) -> dict[str, float]:
        """Trains for some steps; returns the terms of the last."""
        target = torch.linspace(-2, 2, 8)
        for _ in range(steps):
            terms = {
                "nll": (self.code - target).square().mean(),
                "kl": self.code.square().mean() / 2,
                "size": self.code.abs().mean(),
            }
            self.criterion(terms).backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        return {name: value.item() for name, value in terms.items()}


def core() -> None:
    """Trains, saves, and continues in another criterion."""
    first = Training(CONFIG)
    start = first.run(1)["nll"]
    first.run(29)
    torch.save([x.state_dict() for x in (first.criterion, first.optimizer)], "state.pt")
    code = first.code.detach().clone()
    end = first.run(30)
    assert end["nll"] < start, (start, end)
    assert first.criterion.current_step == 60
    assert first.criterion.audit() == []

    second = Training(CONFIG)
    of_criterion, of_optimizer = torch.load("state.pt", weights_only=True)
    second.criterion.load_state_dict(of_criterion)
    second.optimizer.load_state_dict(of_optimizer)
    second.code.data.copy_(code)
    assert second.criterion.current_step == 30
    assert second.run(30) == end
    assert second.criterion.weights == first.criterion.weights


def without_extras() -> None:
    """What needs an extra says which."""
    present = [name for name in EXTRAS if importlib.util.find_spec(name)]
    assert not present, f"this environment has extras: {present}"
    Path("loss.yaml").write_text("terms: {nll: 1.0}\n", "utf-8")
    assert "lossweights[yaml]" in message_of(lambda: LossConfig.read("loss.yaml"))
    from lossweights.analysis import plot

    assert "lossweights[plot]" in message_of(lambda: plot.config(CONFIG))
    assert "lossweights[cli]" in lossweights_command("kinds", fails=True)


def message_of(call: Callable[[], object]) -> str:
    """The message of the error that a call raises."""
    try:
        call()
    except (ImportError, ConfigError) as error:
        return str(error)
    raise AssertionError("no error")


def command_line() -> None:
    """Writes, checks and previews a config, and lists the kinds."""
    assert lossweights.__version__ in lossweights_command("--version")
    assert "elbo.yaml" in lossweights_command("init", "elbo")
    assert "reconstruction" in lossweights_command("check", "elbo.yaml")
    assert "kl" in lossweights_command("preview", "elbo.yaml")
    lossweights_command("preview", "elbo.yaml", "--out", "weights.png")
    assert Path("weights.png").read_bytes().startswith(PNG)
    assert "cyclical" in lossweights_command("kinds")
    assert "cycles" in lossweights_command("kinds", "cyclical")


def lossweights_command(*arguments: str, fails: bool = False) -> str:
    """What the command of this environment prints."""
    command = Path(sys.executable).with_name("lossweights")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(  # noqa: S603
        [command, *arguments], capture_output=True, text=True, check=False, env=environment
    )
    assert (done.returncode != 0) is fails, done.stderr
    return done.stderr if fails else done.stdout


def pictures() -> None:
    """Draws a training."""
    from lossweights.analysis import plot  # an extra

    training = Training(CONFIG)
    history = History(training.criterion, every="5 steps")
    training.run(60)
    plot.overview(history).savefig("overview.png")
    assert Path("overview.png").read_bytes().startswith(PNG)


def sweeps() -> None:
    """Trains a few configs and draws their front."""
    from lossweights import Front, sweep  # an extra

    front = sweep(
        CONFIG,
        lambda config, seed, report: Training(config).run(60),
        vary={"kl.weight": [0.1, 1.0], "size.controller.target": (0.2, 1.0)},
        minimize=["nll", "kl"],
        trials=3,
        seeds=2,
        storage="sweep.db",
        progress=False,
    )
    assert len(front.done) == 4  # the unchanged config too
    front.plot("front.png")
    assert Path("front.png").read_bytes().startswith(PNG)
    assert len(Front.load("sweep.db").done) == 4
    assert "kl.weight" in lossweights_command("front", "sweep.db")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("which", choices=["core", "extras"])
    main(parser.parse_args().which)
