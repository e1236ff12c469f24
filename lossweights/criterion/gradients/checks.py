"""Checks of the graph between terms and the tensors that they share."""

from collections.abc import Collection, Mapping
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.autograd.graph import Node, get_gradient_edge

from lossweights.criterion import torch_internals
from lossweights.criterion.gradients.shared import NOT_DONATED, NOT_REENTRANT, Shared
from lossweights.errors import warn

_CHECK_EVERY = 512  # forward passes

Edge: TypeAlias = tuple[Node, int]
Refused: TypeAlias = Literal["any", "all"]


class GraphChecks:
    """Calls `check_graph` for each new term, and for all terms every 512 forward passes.

    A check takes longer than the gradients.

    Attributes:
        is_half: Whether any check so far has found float16, in which small gradients become 0.
    """

    def __init__(self) -> None:
        self.is_half = False
        self._known: set[str] = set()
        self._calls = 0

    def check(self, losses: Mapping[str, Tensor], shared: Shared, refuses: Refused = "any") -> None:
        """Checks the graph of the terms if a check is due, with the errors of `check_graph`."""
        self._calls += 1
        if self._known.issuperset(losses) and self._calls % _CHECK_EVERY:
            return
        self.is_half = check_graph(losses, shared, refuses) or self.is_half
        self._known.update(name for name, loss in losses.items() if loss.requires_grad)


def check_graph(losses: Mapping[str, Tensor], shared: Shared, refuses: Refused = "any") -> bool:
    """Whether there is float16 in the graph between terms that need a gradient and `shared`.

    Args:
        losses: The terms.
        shared: What they are to depend on.
        refuses: Whether `any` term that does not depend on it is refused, or only if `all` do not.

    Raises:
        ValueError: For terms that do not depend on any of the tensors, as `refuses` says.
        RuntimeError: For a part of the model whose gradients would be wrong without an error.
    """
    targets = {_edge(tensor) for tensor in shared.tensors}
    paths = {n: _path(loss, targets) for n, loss in losses.items() if loss.requires_grad}
    apart = [name for name, (_, reached) in paths.items() if not reached]
    if refuses == "any" or len(apart) == len(paths):
        shared.refuse_apart(apart, paths)
    nodes = {node for found, _ in paths.values() for node in found}
    kinds = {node.name() for node in nodes}
    if any(map(torch_internals.is_static_graph, nodes)):
        raise RuntimeError(
            "DistributedDataParallel(static_graph=True) takes the gradients of single terms for "
            "its first backward pass, and would not average those of the real one: call the "
            "criterion inside the wrapped module, as in DistributedDataParallel("
            "criterion.wrap(model), static_graph=True), or leave static_graph out"
        )
    reached_by_any = {edge for _, reached in paths.values() for edge in reached}
    if torch_internals.REENTRANT in kinds and reached_by_any != targets:
        raise RuntimeError(
            f"reentrant checkpointing hides parameters that are given as shared=: {NOT_REENTRANT}"
        )
    if torch_internals.COMPILED in kinds and torch_internals.donates_buffers():
        warn(
            "a compiled part of the model may free its buffers in its first backward pass, and "
            f"fail in the second (as it does with a batch of another size): {NOT_DONATED}"
        )
    # If autocast is over when the criterion is called, nothing else shows it.
    return any(torch.float16 in torch_internals.dtypes(node) for node in nodes)


def _path(loss: Tensor, targets: Collection[Edge]) -> tuple[set[Node], set[Edge]]:
    """The nodes of the graph from a term to the shared tensors, and which tensors it reaches."""
    nodes: set[Node] = set()
    reached: set[Edge] = set()
    ahead = [_edge(loss)]
    while ahead:
        edge = ahead.pop()
        if edge in targets:
            reached.add(edge)
        elif edge[0] not in nodes:
            nodes.add(edge[0])
            ahead += [(node, index) for node, index in edge[0].next_functions if node is not None]
    return nodes, reached


def _edge(tensor: Tensor) -> Edge:
    edge = get_gradient_edge(tensor)
    return edge.node, edge.output_nr
