"""The ranks of a distributed training: sums over them, and gradients averaged over them."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Self

import torch
from torch import Tensor, distributed, nn

from lossweights.criterion.torch_internals import after_backward, store_of

_PATIENCE = timedelta(seconds=30)
_LOST = "lost"  # instead of a group, which belongs to its process, after pickling


class ProcessGroup:
    """The processes that train together, or this process alone.

    Args:
        sync: `auto`, or `off` to keep each process to itself.
        group: A process group of `torch.distributed`; None for all processes.
    """

    def __init__(self, sync: str, group: Any = None) -> None:
        self._is_on, self._group = sync == "auto", group

    @property
    def count(self) -> int:
        """Number of processes; a RuntimeError if the process group stayed in another process."""
        if not self._is_on or not distributed.is_available() or not distributed.is_initialized():
            return 1
        if self._group == _LOST:
            raise RuntimeError(
                "a process group cannot be pickled: build the criterion again with "
                "WeightedLoss(..., process_group=...), then load_state_dict()"
            )
        return distributed.get_world_size(self._group)  # -1 in a process outside the group

    def sum(self, tensor: Tensor) -> None:
        """Replaces a tensor by its sum over the processes, without waiting for the device."""
        if self.count > 1:
            distributed.all_reduce(tensor, group=self._group)

    def max(self, tensor: Tensor) -> None:
        """Replaces a tensor by its maximum over the processes, without waiting for the device."""
        if self.count > 1:
            distributed.all_reduce(tensor, distributed.ReduceOp.MAX, group=self._group)

    def all_arrive(self, place: str) -> bool:
        """Whether all processes call this, in the same order; waits for them up to 30 seconds.

        A collective would wait for a process that never comes, until training fails.
        """
        if (count := self.count) == 1:
            return True
        store, place = store_of(self._group), f"lossweights/{place}"
        times = store.add(f"{place}/{distributed.get_rank(self._group)}", 1)
        arrived, verdict = f"{place}/arrived/{times}", f"{place}/verdict/{times}"
        if store.add(arrived, 1) == count:
            store.compare_set(verdict, "", "yes")
        try:
            store.wait([verdict], _PATIENCE)
        except RuntimeError:  # DistStoreError
            store.compare_set(verdict, "", "no")  # one answer for all, whoever comes later
        return bool(store.get(verdict) == b"yes")

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Makes each backward pass leave the mean over the processes in the parameters' gradients.

        Averaging is linear and idempotent, so it agrees with gradient accumulation, and with a
        DistributedDataParallel that averages the same gradients itself.
        """
        waiting: list[bool] = []

        @torch.no_grad()
        def average() -> None:
            if not waiting:  # one backward pass may have touched several of the parameters
                return
            waiting.clear()
            gradients: list[Tensor] = []
            for parameter in parameters:
                if parameter.requires_grad:
                    if parameter.grad is None:  # it may have one on another rank
                        parameter.grad = torch.zeros_like(parameter)
                    gradients.append(parameter.grad)
            mean = torch.cat([gradient.reshape(-1) for gradient in gradients])
            self.sum(mean)
            mean /= self.count
            pieces = torch.split(mean, [gradient.numel() for gradient in gradients])
            for gradient, piece in zip(gradients, pieces, strict=True):
                gradient.copy_(piece.view_as(gradient))  # it may be a view into a bucket of DDP

        def accumulated(_: Tensor) -> None:
            # Queued twice: the second callback runs after all that were queued during the backward
            # pass, so after DistributedDataParallel wrote its own means, and all ranks start the
            # same collectives in the same order.
            if self.count > 1:
                waiting.append(True)
                after_backward(lambda: after_backward(average))

        for parameter in parameters:
            wanted = parameter.requires_grad
            # A frozen parameter takes no hook, and would lack it once it is unfrozen.
            parameter.requires_grad_().register_post_accumulate_grad_hook(accumulated)  # type: ignore[no-untyped-call]
            parameter.requires_grad_(wanted)

    def __deepcopy__(self, _: dict[int, Any]) -> Self:
        copy = type(self).__new__(type(self))
        copy.__dict__.update(self.__dict__)  # the group too: it has the same processes
        return copy

    def __getstate__(self) -> dict[str, Any]:
        return {"_is_on": self._is_on, "_group": None if self._group is None else _LOST}
