"""The training on several processes, if `torchrun` started them."""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed.nn  # before the process group, which its defaults would keep alive
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel


@contextmanager
def process_group() -> Iterator[None]:
    """Join the process group of `torchrun`."""
    # A false alarm about the stride of a dimension of length 1.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    distributed.init_process_group("gloo")
    try:
        yield
        distributed.barrier()  # no rank leaves while another still communicates
    finally:
        distributed.destroy_process_group()


def rank() -> int:
    """The rank of this process."""
    return int(os.environ.get("RANK", "0"))


def on_all_ranks(module: nn.Module) -> nn.Module:
    """The module with gradients averaged over the processes; unchanged with one process."""
    return DistributedDataParallel(module) if distributed.is_initialized() else module


def share(batch: Tensor) -> Tensor:
    """This process's part of a batch."""
    return batch[rank() :: distributed.get_world_size()] if distributed.is_initialized() else batch


def check_that_ranks_agree(*modules: nn.Module) -> None:
    """End the program if two processes do not have the same parameters, to the last bit."""
    if not distributed.is_initialized():
        return
    here = torch.cat([p.detach().flatten() for module in modules for p in module.parameters()])
    first = here.clone()
    distributed.broadcast(first, src=0)
    if not torch.equal(here, first):
        sys.exit(f"the parameters of rank {rank()} differ from those of rank 0")
