"""Adaptive weights on several processes: the same on all of them, although their data differ.

A small network reads handwritten digits and predicts the center of their ink. The weights of the
two losses are learned (uncertainty weighting). A Lagrange multiplier keeps the size of the features
below a bound. DistributedDataParallel averages the model's gradients. The criterion stays outside
of it and averages the gradients and values that its weights depend on.

    torchrun --standalone --nproc-per-node 2 examples/distributed.py
    torchrun --standalone --nproc-per-node 2 examples/distributed.py --quick
    python examples/distributed.py                      # one process

The program needs scikit-learn for the digits. It runs on CPUs (gloo), and on GPUs (nccl) if each
process has its own.
"""

import argparse
import os
import sys
from contextlib import nullcontext

import torch
import torch.distributed.nn  # before the process group, which its defaults would keep alive
from sklearn.datasets import load_digits
from torch import Tensor, distributed, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from lossweights import WeightedLoss

LOSS = {
    "balancer": "uncertainty",
    "terms": {
        "digit": 1.0,
        "center": 1.0,
        "size": {"kind": "lagrangian", "at_most": 0.1, "learning_rate": 0.5},
    },
}
ACCUMULATE = 2  # micro-batches per optimizer step


class Reader(nn.Module):
    """A trunk with two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(64, 64), nn.Tanh())
        self.digit = nn.Linear(64, 10)
        self.center = nn.Linear(64, 2)

    def forward(self, images: Tensor, digits: Tensor, centers: Tensor) -> dict[str, Tensor]:
        """The terms of the loss."""
        features = self.trunk(images)
        return {
            "digit": functional.cross_entropy(self.digit(features), digits),
            "center": functional.mse_loss(self.center(features), centers),
            "size": features.square().mean(),
        }


def train(epochs: int, device: torch.device) -> WeightedLoss:
    """A plain loop. The criterion needs no more code than in a single process."""
    torch.manual_seed(0)
    data = digits_with_centers()
    sampler = DistributedSampler[tuple[Tensor, ...]](data, drop_last=True)
    loader = DataLoader(data, batch_size=16, sampler=sampler, drop_last=True)
    model = DistributedDataParallel(Reader().to(device))
    criterion = WeightedLoss.from_config(LOSS).to(device)
    optimizer = torch.optim.Adam(
        [{"params": model.parameters()}, *criterion.param_groups(lr=2e-2)], lr=2e-3
    )
    criterion.follow(optimizer)

    show("epoch", [f"{what} {name}" for name in criterion.config.terms for what in ("", "w")])
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        for index, batch in enumerate(loader, start=1):
            is_last = index % ACCUMULATE == 0
            with nullcontext() if is_last else model.no_sync():
                terms = model(*(part.to(device) for part in batch))
                loss = criterion(terms) / ACCUMULATE
                loss.backward()
            if is_last:
                optimizer.step()  # averages the values of all ranks and micro-batches
                optimizer.zero_grad()
        found = criterion.metrics(include=["raw", "weight"])  # raw: this rank's last batch
        keys = [f"{what}/{name}" for name in criterion.config.terms for what in ("raw", "weight")]
        show(str(epoch), [f"{found[key]:.4f}" for key in keys])
    return criterion


def digits_with_centers() -> TensorDataset:
    """Images of 8 x 8 pixels, the digit on each, and the center of its ink."""
    pixels, digits = load_digits(return_X_y=True)
    images = torch.tensor(pixels, dtype=torch.float32) / 16
    square = images.view(-1, 8, 8)
    places = torch.arange(8.0)
    ink = square.sum(dim=(1, 2))
    centers = [(square.sum(dim=axis) * places).sum(dim=1) / ink for axis in (1, 2)]
    return TensorDataset(images, torch.tensor(digits), torch.stack(centers, dim=1))


def show(head: str, cells: list[str]) -> None:
    """Print a line of the table, on the first rank."""
    if distributed.get_rank() == 0:
        print(f"{head:>5}", *(f"{cell:>9}" for cell in cells), flush=True)


def check(criterion: WeightedLoss) -> None:
    """End the program if two ranks do not have the same weights, to the last bit."""
    everywhere: list[dict[str, float]] = [{}] * distributed.get_world_size()
    distributed.all_gather_object(everywhere, criterion.weights)
    if any(weights != everywhere[0] for weights in everywhere):
        sys.exit(f"the weights differ: {everywhere}")
    show("", [f"the weights agree on {len(everywhere)} rank(s)"])


def start() -> torch.device:
    """Join the process group of torchrun, or make one of this process alone."""
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
    backend = "nccl" if device.type == "cuda" else "gloo"
    if distributed.is_torchelastic_launched():
        distributed.init_process_group(backend)
    else:
        alone = distributed.HashStore()  # type: ignore[attr-defined]  # it is exported
        distributed.init_process_group(backend, store=alone, rank=0, world_size=1)
    return device


def main() -> None:
    """Train, then check that the ranks agree."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="two epochs instead of twenty")
    options = parser.parse_args()
    device = start()
    try:
        check(train(2 if options.quick else 20, device))
        distributed.barrier()  # no rank leaves while another still communicates
    finally:
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
