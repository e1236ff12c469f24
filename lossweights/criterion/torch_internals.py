"""Private interfaces of torch that this library uses, in one place for a new release of torch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def is_transformed() -> bool:
    """Whether a transform of `torch.func` is active."""
    return torch._C._functorch.peek_interpreter_stack() is not None  # noqa: SLF001


def version(tensor: Tensor) -> int:
    """How often a tensor was changed in place."""
    return tensor._version  # noqa: SLF001


def after_backward(call: Callable[[], None]) -> None:
    """Queues a call for the end of the backward pass that is running."""
    torch.autograd.Variable._execution_engine.queue_callback(call)  # noqa: SLF001
