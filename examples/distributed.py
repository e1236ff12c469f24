"""Weights that adapt, on several processes: the same on all of them, whatever data each one sees.

A small network reads handwritten digits, and says where their centre of ink lies. The weights of
the two losses are learned (uncertainty weighting); the size of the features is held under a bound
by a Lagrange multiplier. DistributedDataParallel averages the model's gradients; the criterion
stays outside of it and averages what concerns the weights by itself.

    torchrun --standalone --nproc-per-node 2 examples/distributed.py
    torchrun --standalone --nproc-per-node 2 examples/distributed.py --quick
    python examples/distributed.py                      # one process

It needs scikit-learn, for the digits. It runs on CPUs (gloo), and on GPUs (nccl) where each process
has one of its own.
"""

import argparse
import os
import sys
from contextlib import nullcontext

import torch
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
        "centre": 1.0,
        "size": {"kind": "lagrangian", "at_most": 0.1, "learning_rate": 0.5},
    },
}
ACCUMULATE = 2  # micro-batches to an optimizer step


class Reader(nn.Module):
    """A trunk with two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(64, 64), nn.Tanh())
        self.digit = nn.Linear(64, 10)
        self.centre = nn.Linear(64, 2)

    def forward(self, images: Tensor, digits: Tensor, centres: Tensor) -> dict[str, Tensor]:
        """The terms of the loss."""
        features = self.trunk(images)
        return {
            "digit": functional.cross_entropy(self.digit(features), digits),
            "centre": functional.mse_loss(self.centre(features), centres),
            "size": features.square().mean(),
        }


def train(epochs: int, device: torch.device) -> WeightedLoss:
    """A loop as ever: of the criterion it says nothing that one process would not need."""
    torch.manual_seed(0)
    data = digits_with_centres()
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
                optimizer.step()  # here the values of all ranks and micro-batches are averaged
                optimizer.zero_grad()
        found = criterion.metrics(include=["raw", "weight"])  # raw: of this rank's last batch
        keys = [f"{what}/{name}" for name in criterion.config.terms for what in ("raw", "weight")]
        show(str(epoch), [f"{found[key]:.4f}" for key in keys])
    return criterion


def digits_with_centres() -> TensorDataset:
    """Images of 8 x 8, the digit on each, and where the centre of its ink lies."""
    pixels, digits = load_digits(return_X_y=True)
    images = torch.tensor(pixels, dtype=torch.float32) / 16
    square = images.view(-1, 8, 8)
    places = torch.arange(8.0)
    ink = square.sum(dim=(1, 2))
    centres = [(square.sum(dim=axis) * places).sum(dim=1) / ink for axis in (1, 2)]
    return TensorDataset(images, torch.tensor(digits), torch.stack(centres, dim=1))


def show(head: str, cells: list[str]) -> None:
    """A line of the table, from the first rank."""
    if distributed.get_rank() == 0:
        print(f"{head:>5}", *(f"{cell:>9}" for cell in cells), flush=True)


def check(criterion: WeightedLoss) -> None:
    """Ends the program where two ranks do not have the same weights, to the last bit."""
    everywhere: list[dict[str, float]] = [{}] * distributed.get_world_size()
    distributed.all_gather_object(everywhere, criterion.weights)
    if any(weights != everywhere[0] for weights in everywhere):
        sys.exit(f"the weights differ: {everywhere}")
    show("", [f"the weights agree on {len(everywhere)} rank(s)"])


def start() -> torch.device:
    """Joins the process group that torchrun has laid out, or makes one of this process alone."""
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
    backend = "nccl" if device.type == "cuda" else "gloo"
    if distributed.is_torchelastic_launched():
        distributed.init_process_group(backend)
    else:
        alone = distributed.HashStore()  # type: ignore[attr-defined]  # it is exported in fact
        distributed.init_process_group(backend, store=alone, rank=0, world_size=1)
    return device


def main() -> None:
    """Trains, and checks what the ranks have."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="two epochs in place of twenty")
    options = parser.parse_args()
    device = start()
    try:
        check(train(2 if options.quick else 20, device))
        distributed.barrier()  # none leaves while another still speaks
    finally:
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
