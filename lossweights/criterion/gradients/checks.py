"""What lies in the graph between terms and what they share."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.autograd.graph import Node, get_gradient_edge

from lossweights.criterion.gradients import torch_internals
from lossweights.criterion.gradients.shared import Shared
from lossweights.errors import warn

_LOOK_EVERY = 512  # forward passes

Edge: TypeAlias = tuple[Node, int]


class Lookout:
    """Looks through the graph of terms for what would make their gradients wrong in silence.

    A graph is gone through when a term is given for the first time, and then now and then: it takes
    longer than the gradients do.

    Attributes:
        is_half: Whether there was float16 in it, in which small gradients become 0.
    """

    def __init__(self) -> None:
        self.is_half = False
        self._known: set[str] = set()
        self._looks = 0

    def look(self, losses: Mapping[str, Tensor], shared: Shared) -> None:
        """Goes through the graph of terms some of which are new.

        Raises:
            ValueError: For a term that does not depend on what is shared.
            RuntimeError: For a part of the model whose gradients cannot be taken rightly, with
                what to write instead.
        """
        self._looks += 1
        if self._known.issuperset(losses) and self._looks % _LOOK_EVERY:
            return
        wanted = {_edge(tensor) for tensor in shared.tensors}
        ways = {n: _way(loss, wanted) for n, loss in losses.items() if loss.requires_grad}
        shared.refuse_apart([name for name, way in ways.items() if not way.reached], list(losses))
        nodes = {node for way in ways.values() for node in way.nodes}
        reached = {edge for way in ways.values() for edge in way.reached}
        for node in nodes:
            _refuse_static_graph(node)
            if torch_internals.is_reentrant_checkpoint(node) and reached != wanted:
                raise RuntimeError(
                    "reentrant checkpointing hides parameters that are given as shared=: write "
                    "torch.utils.checkpoint.checkpoint(..., use_reentrant=False)"
                )
        if any(map(torch_internals.is_compiled, nodes)) and torch_internals.donates_buffers():
            warn(
                "a compiled part of the model may free its buffers in its first backward pass, "
                "and fail in the second (as it does with a batch of another size): write import "
                "torch._functorch.config and torch._functorch.config.donated_buffer = False before "
                "it is compiled"
            )
        self.is_half = self.is_half or any(_is_half(node) for node in nodes)
        self._known.update(ways)


class _Way(NamedTuple):
    """The nodes of the graph from a term up to what is shared, and what of that it reaches."""

    nodes: set[Node]
    reached: set[Edge]


def _way(loss: Tensor, wanted: Collection[Edge]) -> _Way:
    way = _Way(set(), set())
    ahead = [_edge(loss)]
    while ahead:
        edge = ahead.pop()
        if edge in wanted:
            way.reached.add(edge)
        elif edge[0] not in way.nodes:
            way.nodes.add(edge[0])
            ahead += [(node, index) for node, index in edge[0].next_functions if node is not None]
    return way


def _edge(tensor: Tensor) -> Edge:
    edge = get_gradient_edge(tensor)
    return edge.node, edge.output_nr


def _is_half(node: Node) -> bool:
    # If autocast is over when the criterion is called, nothing else shows it.
    if torch.float16 in torch_internals.output_dtypes(node):
        return True
    if not torch_internals.is_compiled(node):
        return False
    try:  # the dtypes inside it show only in what it has kept
        return torch.float16 in torch_internals.saved_dtypes(node)
    except RuntimeError:  # freed, or changed in place: taking the gradients raises the error
        return False


def _refuse_static_graph(node: Node) -> None:
    model = torch_internals.data_parallel_module(node)
    if model is not None and model.static_graph:
        raise RuntimeError(
            "DistributedDataParallel(static_graph=True) takes the gradients of single terms for "
            "its first backward pass, and would not average those of the real one: call the "
            "criterion inside the wrapped module, as in DistributedDataParallel("
            "criterion.wrap(model), static_graph=True), or leave static_graph out"
        )
