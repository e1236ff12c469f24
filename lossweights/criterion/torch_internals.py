"""Private functions of torch that the package uses, all in one place.

Torch may change them in any release, and has no public function for what they do. Nothing here
imports from the package.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.autograd.graph import Node

# Names of nodes of a graph: a whole function that `torch.compile` compiled, and a part under
# reentrant checkpointing.
COMPILED, REENTRANT = "CompiledFunctionBackward", "CheckpointFunctionBackward"


def inside_func_transform() -> bool:
    """Whether a transform of `torch.func` (`grad`, `vmap`, `functional_call` in them) is running.

    >>> torch.func.vmap(lambda x: x + inside_func_transform())(torch.zeros(2))
    tensor([1., 1.])
    """
    return torch._C._functorch.peek_interpreter_stack() is not None  # noqa: SLF001


def version(tensor: Tensor) -> int:
    """How often a tensor was changed in place."""
    return tensor._version  # noqa: SLF001


def keeps_address(tensor: Tensor) -> Tensor:
    """The tensor, whose address compiled graphs may rely on although they change it in place.

    Otherwise `torch.compile(mode="reduce-overhead")` would not capture a CUDA graph. Torch's own
    `mark_static_address` does the same, but loads the compiler, which takes seconds.
    """
    tensor._dynamo_static_input_type = "unguarded"  # type: ignore[attr-defined]  # noqa: SLF001
    return tensor


def after_backward(call: Callable[[], None]) -> None:
    """Runs `call` at the end of the backward pass that is running, after everything queued."""
    torch.autograd.Variable._execution_engine.queue_callback(call)  # noqa: SLF001


def store_of(group: Any) -> Any:
    """The store that the processes of a group share; None for all processes."""
    found = distributed.distributed_c10d
    return found._get_process_group_store(  # noqa: SLF001
        found._get_default_group() if group is None else group  # noqa: SLF001
    )


def dtypes(node: Node) -> list[torch.dtype]:
    """The dtypes of the results of a node of the graph.

    Of those inside a compiled function, only the dtypes of the tensors that it saved are known.

    >>> x = torch.ones(2, requires_grad=True)
    >>> dtypes(x.half().grad_fn)
    [torch.float16]
    """
    found = [part.dtype for part in node._input_metadata]  # noqa: SLF001
    if node.name() == COMPILED:
        with suppress(RuntimeError):  # freed, or changed in place: taking the gradients raises it
            saved = node.saved_tensors  # type: ignore[attr-defined]
            found += [tensor.dtype for tensor in saved if tensor is not None]
    return found


def donates_buffers() -> bool:
    """Whether compiled functions may free their buffers in their first backward pass.

    Torch loads this setting with its compiler, so it can be read only after something was compiled.
    """
    return bool(torch._functorch.config.donated_buffer)  # noqa: SLF001


def is_static_graph(node: Node) -> bool:
    """Whether outputs of a `DistributedDataParallel(static_graph=True)` pass through a node."""
    is_sink = node.name() == "_DDPSinkBackward"
    return is_sink and bool(getattr(node.ddp_weakref(), "static_graph", False))  # type: ignore[attr-defined]


def loads_strictly(*, default: bool) -> bool:
    """Whether the `load_state_dict` that is running is strict, which torch does not pass on.

    Args:
        default: If none is running.
    """
    for frame in _callers():
        if frame.f_code is nn.Module.load_state_dict.__code__:
            return bool(frame.f_locals["strict"])
    return default


def makes_optimizer_state() -> bool:
    """Whether an optimizer is stepped to make its state, and not to train.

    `torch.distributed.checkpoint` does that with a learning rate of 0 before it saves or loads.
    """
    module = sys.modules.get("torch.distributed.checkpoint.state_dict")
    function = getattr(module, "_init_optim_state", None)
    code: CodeType | None = getattr(function, "__code__", None)
    return code is not None and any(frame.f_code is code for frame in _callers())


def _callers() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001
    while frame is not None:
        yield frame
        frame = frame.f_back
