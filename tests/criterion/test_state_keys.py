"""The keys of the state, as `torch.distributed.checkpoint` follows them through a model."""

from __future__ import annotations

import tempfile
import warnings
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint import state_dict as of_model

from lossweights import Clock, ConfigError, Term, WeightedLoss
from lossweights.testing.training import Training
from tests.small_components import Counting
from tests.test_adaptive_properties import EXAMPLES

NAMES = [
    *("weights", "training", "device", "forward", "_parameters", "module", "_orig_mod", "0"),
    *("a.b", "größe", "x/y", "two words", "_fqn_modifiers", "__dict__", "__init__", "terms"),
    *("balancer", "log_variance", "clock.step", "adaptive", "state_dict", "observed.totals"),
]


def same(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def around(criterion: WeightedLoss) -> list[nn.Module]:
    """The criterion alone, in a model, as an attribute, and with a function."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loss = criterion

    return [criterion, nn.Sequential(nn.Linear(1, 1), criterion), Model(), criterion.wrap(dict)]


@pytest.mark.parametrize("name", NAMES)
def test_a_term_may_be_called_like_an_attribute(name: str) -> None:
    terms: dict[str, Any] = {name: Term(controller=Counting(), balanced=True), "other": 1.0}
    for model in around(WeightedLoss(terms, balancer="uncertainty")):
        saved: dict[str, Any] = of_model.get_model_state_dict(model)
        assert same(saved, model.state_dict())
        of_model.set_model_state_dict(model, saved)


@pytest.mark.parametrize(
    "name", ["__class__", "_extra_state", "a_flat_param", "_checkpoint_wrapped_module.a"]
)
def test_a_name_that_torch_cuts_out_of_keys_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot contain '_.* torch cuts out of .*: rename it"):
        WeightedLoss({name: Counting()})
    WeightedLoss({name: 1.0})  # it is in no key


@pytest.mark.parametrize("example", EXAMPLES, ids=repr)
def test_every_component_goes_through_get_state_dict(example: Any) -> None:
    source, target = Training(example).run(range(2)), Training(example)
    source.forward(3)  # in the middle of a step
    models = [around(training.criterion)[-1] for training in (source, target)]
    saved: dict[str, Any]
    if source.optimizer is None:
        saved = of_model.get_model_state_dict(models[0])
    else:
        saved, _ = of_model.get_state_dict(models[0], source.optimizer)
    assert same(saved, models[0].state_dict())
    of_model.set_model_state_dict(models[1], saved)
    assert same(target.criterion.state_dict(), source.criterion.state_dict())


def test_a_distributed_checkpoint_has_all_of_many_criteria() -> None:
    """In one file: saving and reading files takes longer than the rest."""
    trainings = {str(index): Training(example) for index, example in enumerate(EXAMPLES)}
    fresh = {index: Training(example).criterion for index, example in enumerate(EXAMPLES)}
    for training in trainings.values():
        training.run(range(3)).forward(3)
    source = nn.ModuleDict({key: training.criterion for key, training in trainings.items()})
    target = nn.ModuleDict({str(key): criterion for key, criterion in fresh.items()})
    loaded: dict[str, Any] = of_model.get_model_state_dict(target)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about a single process
        checkpoint.save(of_model.get_model_state_dict(source), checkpoint_id=folder)  # type: ignore[attr-defined]
        checkpoint.load(loaded, checkpoint_id=folder)  # type: ignore[attr-defined]
    of_model.set_model_state_dict(target, loaded)
    assert same(target.state_dict(), source.state_dict())


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=0.1)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1)


@pytest.mark.parametrize("make", [adam, sgd])
def test_a_step_that_only_makes_the_state_of_an_optimizer_is_none(make: Any) -> None:
    """`torch.distributed.checkpoint` makes the state of a new optimizer by a step of it."""
    model = nn.ModuleDict(
        {"layer": nn.Linear(1, 1), "loss": WeightedLoss(["a", "b"], balancer="uncertainty")}
    )
    criterion: Any = model["loss"]
    optimizer = make(model)
    criterion.follow(optimizer)
    criterion.set_step(5)
    state, of_optimizer = of_model.get_state_dict(model, optimizer)
    assert criterion.current_step == 5
    of_model.set_state_dict(model, optimizer, model_state_dict=state, optim_state_dict=of_optimizer)
    assert criterion.current_step == 5
    optimizer.step()
    assert criterion.current_step == 6


def test_two_criteria_on_one_clock_are_saved_in_one_model() -> None:
    clock = Clock()
    model = nn.ModuleDict({name: WeightedLoss(["a"], clock=clock) for name in ("one", "two")})
    clock.advance(3)
    saved: dict[str, Any] = of_model.get_model_state_dict(model)
    clock.set(0)
    of_model.set_model_state_dict(model, saved)
    assert clock.step == 3
