"""The ranks of a distributed training: sums over them, and gradients averaged over them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn


class Ranks:
    """The processes over which observations are added up; one alone where nothing is distributed.

    Args:
        sync: `auto` or `off`, which makes each process stand alone.
        group: A process group of `torch.distributed`; all processes where there is none.
    """

    def __init__(self, sync: str, group: Any = None) -> None:
        self._is_on = sync == "auto"
        self._group = group

    @property
    def count(self) -> int:
        """How many processes there are."""
        if not self._is_on or not distributed.is_available() or not distributed.is_initialized():
            return 1
        return distributed.get_world_size(self._group)

    def add_up(self, tensor: Tensor) -> None:
        """Replaces a tensor by its sum over the processes, without waiting for the device."""
        if self.count > 1:
            distributed.all_reduce(tensor, group=self._group)

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """From now on each backward pass leaves in `parameters` the mean of their gradients.

        Averaging is linear and idempotent, so it agrees with gradient accumulation, and with a
        DistributedDataParallel that averages the same gradients itself.
        """
        waiting: list[bool] = []

        def average() -> None:
            if waiting:
                waiting.clear()
                parts = [
                    torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                    for parameter in parameters
                ]
                mean = torch.cat([part.reshape(-1) for part in parts])
                self.add_up(mean)
                mean /= self.count
                pieces = torch.split(mean, [part.numel() for part in parts])
                for parameter, piece in zip(parameters, pieces, strict=True):
                    if parameter.grad is not None:
                        parameter.grad.copy_(piece.view_as(parameter))

        def after_backward(_: Tensor) -> None:
            # Twice: the second is called after all that were queued during the backward pass, so
            # after a DistributedDataParallel has written its own means, and all ranks have started
            # the same collectives in the same order.
            if self.count > 1:
                waiting.append(True)
                queue = torch.autograd.Variable._execution_engine.queue_callback  # noqa: SLF001
                queue(lambda: queue(average))

        for parameter in parameters:
            parameter.register_post_accumulate_grad_hook(after_backward)  # type: ignore[no-untyped-call]

    def __getstate__(self) -> dict[str, Any]:
        return {"_is_on": self._is_on, "_group": None}  # a group belongs to its process
