"""Private functions of torch that the package uses, all in one place.

Torch may change them in any release, and has no public function for what they do. A release that
breaks one of them is to be dealt with here and nowhere else. Nothing here imports from the package.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node


def inside_func_transform() -> bool:
    """Whether a transform of `torch.func` (`grad`, `vmap`, `functional_call` in them) is running.

    >>> inside_func_transform()
    False
    >>> torch.func.vmap(lambda x: x + inside_func_transform())(torch.zeros(2))
    tensor([1., 1.])
    """
    return torch._C._functorch.peek_interpreter_stack() is not None  # noqa: SLF001


def version(tensor: Tensor) -> int:
    """How often a tensor was changed in place.

    >>> version(torch.zeros(2).add_(1))
    1
    """
    return tensor._version  # noqa: SLF001


def after_backward(call: Callable[[], None]) -> None:
    """Runs `call` at the end of the backward pass that is running, after all that is queued.

    Raises:
        RuntimeError: Outside a backward pass.
    """
    torch.autograd.Variable._execution_engine.queue_callback(call)  # noqa: SLF001


def output_dtypes(node: Node) -> list[torch.dtype]:
    """The dtypes of the results that a node of the graph belongs to.

    >>> x = torch.ones(2, requires_grad=True)
    >>> output_dtypes(x.half().grad_fn)
    [torch.float16]
    """
    return [part.dtype for part in node._input_metadata]  # noqa: SLF001


def is_compiled(node: Node) -> bool:
    """Whether a node of the graph stands for a whole function that `torch.compile` compiled."""
    return node.name() == "CompiledFunctionBackward"


def saved_dtypes(node: Node) -> list[torch.dtype]:
    """The dtypes of the tensors that a compiled function keeps for its backward pass.

    Args:
        node: For which `is_compiled` is true.

    Raises:
        RuntimeError: If they were freed by a backward pass, or changed in place.
    """
    saved = node.saved_tensors  # type: ignore[attr-defined]
    return [tensor.dtype for tensor in saved if tensor is not None]


def donates_buffers() -> bool:
    """Whether compiled functions may free their buffers in their first backward pass.

    A second backward pass through the same graph then fails. Torch loads this setting with its
    compiler, so it can be read only after something was compiled.
    """
    return bool(torch._functorch.config.donated_buffer)  # noqa: SLF001


def is_reentrant_checkpoint(node: Node) -> bool:
    """Whether a node of the graph stands for a part under reentrant checkpointing."""
    return node.name() == "CheckpointFunctionBackward"


def data_parallel_module(node: Node) -> Any:
    """The `DistributedDataParallel` whose outputs pass through a node of the graph, or None.

    It has such a node with `static_graph=True` or `find_unused_parameters=True`.
    """
    return node.ddp_weakref() if node.name() == "_DDPSinkBackward" else None  # type: ignore[attr-defined]
