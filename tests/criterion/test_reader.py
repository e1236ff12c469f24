"""What terms may be: tensors, numbers and None, beside terms that are skipped."""

from __future__ import annotations

from collections import ChainMap, OrderedDict, UserDict, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.utils.generic import ModelOutput

from lossweights import LossConfig, Term, WeightedLoss
from lossweights.criterion.reader import Reader, ignoring
from tests.small_components import Counting, Offset, leaf


@pytest.fixture
def _double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("other", [0.5, torch.tensor(0.5, dtype=torch.float64)])
def test_a_converted_value_beside_a_skipped_term(other: Any) -> None:
    criterion = WeightedLoss({"a": 2.0, "b": 1.0, "gan": Term(weight=0.0, when_zero="skip")})
    gan = leaf(7.0)
    criterion({"a": leaf(3.0), "b": other, "gan": gan}).backward()
    breakdown = criterion.report()
    assert breakdown is not None
    assert {name: value.item() for name, value in breakdown.raw.items()} == {
        "a": 3.0,
        "b": 0.5,
        "gan": 7.0,
    }
    assert breakdown.total.item() == 6.5
    assert gan.grad is None


def test_an_absent_term_beside_a_skipped_one_and_a_transform() -> None:
    terms = {
        "a": Term(transform=Offset()),
        "b": Term(optional=True),
        "gan": Term(weight=0.0, when_zero="skip"),
    }
    criterion = WeightedLoss(terms)
    assert criterion({"a": leaf(3.0), "b": None, "gan": leaf(7.0)}).item() == 2.0
    metrics = criterion.metrics()
    assert (metrics["raw/a"], metrics["value/a"], metrics["raw/gan"]) == (3.0, 2.0, 7.0)
    assert "raw/b" not in metrics


@pytest.mark.parametrize("reduction", [None, "mean"])
def test_a_number_joins_the_device_of_the_first_tensor(reduction: str | None) -> None:
    config = LossConfig.read({"terms": {"a": {"reduction": reduction}, "b": 1.0}})
    mode = WeightedLoss(config).eval()._modes.get(training=False)
    reader = Reader(config.terms, ignoring(config.ignore))
    elsewhere = torch.empty((), device="meta")
    assert reader.read({"a": 0.0, "b": elsewhere}, mode).vector.device.type == "meta"
    assert reader.read({"a": 0.0, "b": 1.0}, mode).vector.device.type == "cpu"


@pytest.mark.usefixtures("_double")
def test_numbers_do_not_depend_on_the_default_precision() -> None:
    criterion = WeightedLoss({"a": 1.0, "b": Term(optional=True)})
    assert criterion({"a": 1.5}).dtype is torch.float32
    assert WeightedLoss({"b": Term(optional=True)})({}).dtype is torch.float32


@pytest.mark.parametrize("patterns", [["acc*", "size"], ["[as]*"]])
def test_patterns_of_ignored_names(patterns: list[str]) -> None:
    criterion = WeightedLoss(["b"], ignore=patterns)
    assert criterion({"b": leaf(2.0), "acc_top5": 0.9, "size": 3}).item() == 2.0
    with pytest.raises(ValueError, match="'Acc'"):
        criterion({"b": leaf(2.0), "Acc": 0.9})


@pytest.mark.parametrize("given", [0.5, None], ids=["number", "none"])
def test_one_graph_with_values_that_are_no_tensors(given: float | None) -> None:
    torch._dynamo.reset()
    criterion = WeightedLoss({"a": 2.0, "b": Term(optional=True)}, ignore=["acc*"])

    def total(x: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = criterion({"a": x.sum(), "b": given, "accuracy": 0.9})
        return loss

    x = torch.ones(3, requires_grad=True)
    compiled = torch.compile(total, backend="aot_eager", fullgraph=True)
    assert compiled(x).item() == total(x).item() == 6.0 + (given or 0.0)


def test_a_number_is_observed() -> None:
    criterion = WeightedLoss({"a": Counting(), "gan": Term(after="5 steps")})
    criterion({"a": 2.0, "gan": leaf(1.0)})
    criterion.step()
    assert criterion.metrics()["controller/a/observed"] == 2.0


class Growing(dict[str, Any]):
    def __missing__(self, name: str) -> Tensor:
        return leaf(0.0)


@dataclass
class Output(ModelOutput):
    rec: Tensor | None = None
    kl: Tensor | None = None
    kll: Tensor | None = None


def mappings(**values: Tensor) -> list[Any]:
    """The values in all kinds of mappings, some of which invent what they lack."""
    filled: defaultdict[str, Tensor] = defaultdict(lambda: leaf(0.0), values)
    first, *rest = ({name: value} for name, value in values.items())
    return [
        values,
        OrderedDict(values),
        filled,
        Growing(values),
        UserDict(values),
        UserDict(filled),
        ChainMap(first, *rest),
        ChainMap(first, *rest, defaultdict(lambda: leaf(0.0))),
        MappingProxyType(filled),
        Output(**values),
        nn.ParameterDict({name: nn.Parameter(value.detach()) for name, value in values.items()}),
    ]


KINDS_OF_MAPPINGS = range(len(mappings(rec=leaf(1.0))))


@pytest.mark.parametrize("kind", KINDS_OF_MAPPINGS)
@pytest.mark.parametrize("optional", [False, True])
def test_no_mapping_invents_a_term(kind: int, *, optional: bool) -> None:
    """A misspelt term is an error with the nearest name, and a missing one is not filled in."""
    criterion = WeightedLoss({"rec": 1.0, "kl": Term(weight=10.0, optional=optional)})
    assert criterion(mappings(rec=leaf(2.0), kl=leaf(3.0))[kind]).item() == 32.0
    with pytest.raises(ValueError, match="'kll' is not a term of this loss; did you mean 'kl'"):
        criterion(mappings(rec=leaf(2.0), kll=leaf(3.0))[kind])
    with pytest.raises(ValueError, match="term 'rec' is missing"):
        criterion(mappings(kl=leaf(3.0))[kind])
    if optional:
        assert criterion(mappings(rec=leaf(2.0))[kind]).item() == 2.0
    else:
        with pytest.raises(ValueError, match="term 'kl' is missing"):
            criterion(mappings(rec=leaf(2.0))[kind])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("balancer", [None, "geometric", "dwa"])
def test_numbers_alone_do_not_depend_on_the_default_dtype(
    dtype: torch.dtype, balancer: str | None
) -> None:
    terms: dict[str, Term | float] = {"a": 1.0, "b": 0.3, "c": Term(transform="log")}
    torch.set_default_dtype(dtype)
    try:
        criterion = WeightedLoss(terms, balancer=balancer, steps_per_epoch=2)
        total = criterion({"a": 0.1, "b": 0.7, "c": 3.0})
    finally:
        torch.set_default_dtype(torch.float32)
    expected = WeightedLoss(terms, balancer=balancer, steps_per_epoch=2)
    assert total.dtype is torch.float32
    assert torch.equal(total, expected({"a": 0.1, "b": 0.7, "c": 3.0}))
