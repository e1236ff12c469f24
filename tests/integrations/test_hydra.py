"""Hydra: criterion, model and optimizer from composed files, with changes on the command line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from tests.integrations.models import Terms, batches, steps_of

FILES = {
    "train.yaml": """
defaults: [loss: scheduled, _self_]
steps: 20
model: {_target_: tests.integrations.models.Terms}
optimizer: {_target_: torch.optim.Adam, _partial_: true, lr: 1e-2}
""",
    "loss/scheduled.yaml": """
_target_: lossweights.WeightedLoss
total_steps: ${steps}
terms:
  mse: 1.0
  l1: {weight: 0.5, schedule: {kind: warmup, over: 50%}}
  size: 0.1
""",
    "loss/learned.yaml": """
_target_: lossweights.WeightedLoss
terms: [mse, l1, size]
balancer: {_target_: lossweights.components.balancers.UncertaintyWeighting}
""",
}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    with initialize_config_dir(version_base=None, config_dir=str(tmp_path)):
        yield tmp_path


def trained(*overrides: str) -> tuple[Any, Any]:
    """What a program does under `hydra.main`."""
    config = compose("train", overrides=list(overrides))
    model, criterion = instantiate(config.model), instantiate(config.loss)
    assert isinstance(model, Terms)
    optimizer = instantiate(config.optimizer)(
        [{"params": model.parameters()}, *criterion.param_groups()]
    )
    criterion.follow(optimizer)
    for x in [*batches(), *batches()]:
        criterion(model(x)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return criterion, optimizer


def test_files_say_it_all(folder: Path) -> None:
    criterion, optimizer = trained()
    assert criterion.current_step == criterion.horizon.total_steps == steps_of(optimizer) == 20
    assert criterion.weights == {"mse": 1.0, "l1": 0.5, "size": 0.1}


def test_the_command_line_changes_a_field_or_the_whole(folder: Path) -> None:
    criterion, _ = trained("steps=40", "loss.terms.l1.weight=0.25", "+loss.terms.l1.after=2 steps")
    assert criterion.horizon.total_steps == 40
    term = criterion.config.terms["l1"]
    assert (term.weight, str(term.after)) == (0.25, "2 steps")
    assert term.schedule.kind == "warmup"
    criterion, _ = trained("loss=learned")
    assert criterion.config.balancer.kind == "uncertainty"
    assert criterion.audit() == []


def test_a_wrong_file_is_explained(folder: Path) -> None:
    with pytest.raises(InstantiationException, match="did you mean 'warmup'"):
        trained("loss.terms.l1.schedule.kind=warmpu")
