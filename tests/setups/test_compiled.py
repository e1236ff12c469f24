"""`torch.compile` around what the criterion takes gradients of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from lossweights import WeightedLoss
from tests.setups.models import Model, Of, assert_right, criterion, model, right, rows

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    # torch's own, about features, which are no leaves
    pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning"),
]
OF = pytest.mark.parametrize("of", ["features", "parameters"])


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    with torch._functorch.config.patch(donated_buffer=False):
        yield
    torch._dynamo.reset()


def train_once(trained: Model, found: WeightedLoss, of: Of, batch: Tensor) -> None:
    terms, features = trained(batch)
    found(terms, shared=trained.shared(features, of)).backward()


@OF
def test_trunk_and_heads_compiled_apart(of: Of) -> None:
    trained, found = model(), criterion()
    trained.trunk.compile(backend="aot_eager")
    trained.heads.compile(backend="aot_eager")
    for step in range(3):
        trained.zero_grad()
        train_once(trained, found, of, rows(step))
        assert_right(found, trained, right(trained, rows(step), of))
        found.step()


def test_batches_of_another_size() -> None:
    trained, found = model(), criterion()
    trained.trunk.compile(backend="aot_eager")
    trained.heads.compile(backend="aot_eager")
    for count in (16, 9, 12):
        trained.zero_grad()
        train_once(trained, found, "features", rows(0, count))
        assert_right(found, trained, right(trained, rows(0, count), "features"))
        found.step()


@pytest.mark.slow
@OF
def test_inductor_takes_gradients_one_by_one(of: Of) -> None:
    trained, found = model(), criterion()
    for part in (trained.trunk, trained.heads.a, trained.heads.b):
        part.compile()
    train_once(trained, found, of, rows())
    assert_right(found, trained, right(trained, rows(), of))


def test_one_compiled_model_cuts_the_way_to_its_features() -> None:
    compiled, found = torch.compile(model(), backend="aot_eager"), criterion()
    terms, features = compiled(rows())
    with pytest.raises(ValueError, match="compile trunk and heads apart"):
        found(terms, shared=features)


def test_one_compiled_model_with_parameters() -> None:
    trained, found = model(), criterion()
    trained.compile(backend="aot_eager", fullgraph=True)
    train_once(trained, found, "parameters", rows())
    assert_right(found, trained, right(trained, rows(), "parameters"))


class Inside(nn.Module):
    """A model that calls the criterion itself."""

    def __init__(self, found: WeightedLoss, of: Of) -> None:
        super().__init__()
        self.model, self.criterion, self.of = model(), found, of

    def forward(self, batch: Tensor) -> Any:
        features = self.model.trunk(batch)
        terms = self.model.heads(features, batch)
        return self.criterion(terms, shared=self.model.shared(features, self.of))


@pytest.mark.skipif(torch.__version__ < "2.9", reason="torch did not repeat what was raised")
@OF
def test_inside_a_compiled_graph_it_is_refused(of: Of) -> None:
    compiled = torch.compile(Inside(criterion(), of), backend="aot_eager", fullgraph=True)
    with pytest.raises(torch._dynamo.exc.Unsupported) as caught:
        compiled(rows())
    assert "'test-setups' computes gradients, which a compiled graph cannot" in str(caught.value)
    assert "call the criterion outside" in str(caught.value)


@OF
def test_where_graphs_may_break_only_what_it_is_not_called_from_is_compiled(of: Of) -> None:
    counter = CompileCounterWithBackend("aot_eager")
    inside = Inside(criterion(), of)
    compiled = torch.compile(inside, backend=counter)
    for step in range(12):  # more than torch compiles anew for
        inside.zero_grad()
        compiled(rows(step)).backward()
        assert_right(inside.criterion, inside.model, right(inside.model, rows(step), of))
        inside.criterion.step()
    assert counter.frame_count == 2  # the trunk and the heads


def test_evaluation_compiles_to_one_graph() -> None:
    found = criterion().eval()
    compiled = torch.compile(lambda x: found({"a": x, "b": x}), backend="eager", fullgraph=True)
    assert compiled(torch.tensor(2.0)).item() == 6.0


def test_buffers_that_a_compiled_part_frees() -> None:
    trained, found = model(), criterion()
    trained.heads.compile(backend="aot_eager")
    with torch._functorch.config.patch(donated_buffer=True):
        with pytest.warns(UserWarning, match="donated_buffer = False before it is compiled"):
            train_once(trained, found, "features", rows(0, 16))
        with pytest.raises(RuntimeError, match="donated_buffer = False before it is compiled"):
            train_once(trained, found, "features", rows(0, 9))
    torch._dynamo.reset()
    trained.zero_grad()
    for count in (16, 9):
        found.step()
        trained.zero_grad()
        train_once(trained, found, "features", rows(0, count))
        assert_right(found, trained, right(trained, rows(0, count), "features"))
