"""Compare weights for the terms of a physics-informed network under equal conditions.

A network is trained to solve a differential equation (Raissi, Perdikaris, Karniadakis, Journal of
Computational Physics 2019). One term of its loss is the residual of the equation. The others are
the errors on the sides and at the start. They differ by orders of magnitude, and their weights
decide whether the equation is solved. Each config is a section of `pinn.yaml`, next to this
program. All configs have the same network, optimizer and number of steps and, for each seed, the
same initialization and points.

    python examples/pinn.py                                  # all, five seeds: twenty minutes
    python examples/pinn.py --quick                          # a few steps of each, in seconds
    python examples/pinn.py --configs equal by-hand --seeds 1

`training` is the part to read: a plain training loop that uses the library.
"""

from collections.abc import Iterator
from pathlib import Path
from time import process_time

import torch
import yaml
from rich.console import Console

from harness.options import experiment_parser, read_experiment
from harness.tables import save_markdown
from harness.workers import Show, run_in_parallel, run_program
from klein_gordon import measure, pictures, report
from klein_gordon.network import TERMS, Network, losses
from klein_gordon.problem import draw
from klein_gordon.run import Result, Run
from lossweights import History, WeightedLoss

CONFIGS = Path(__file__).with_suffix(".yaml")
SEEDS = 5
STEPS, QUICK_STEPS = 4000, 20


def training(run: Run, network: Network, criterion: WeightedLoss) -> Iterator[None]:
    """Train a network; yield after each step."""
    optimizer = torch.optim.Adam(network.parameters(), lr=run.learning_rate, fused=True)
    decay = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.01 ** (1 / run.steps))
    criterion.follow(optimizer)

    generator = torch.Generator().manual_seed(run.seed)
    for _ in range(run.steps):
        terms = losses(network, draw(run.points, generator))
        loss = criterion(terms, shared=network.parameters())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        decay.step()
        yield


def train(run: Run, show: Show) -> Result:
    """Train one network and measure it."""
    torch.manual_seed(run.seed)
    network = Network()
    criterion = WeightedLoss.from_config(CONFIGS, at=run.config).bind(total_steps=run.steps)
    history = History(criterion, every=f"{run.interval} steps", include=["weight"])
    steps = training(run, network, criterion)
    errors: dict[int, float] = {}
    seconds = 0.0
    for step in range(run.steps):
        began = process_time()  # other work of the machine does not count
        next(steps)
        seconds += process_time() - began

        if step % run.interval == 0 or step == run.steps - 1:
            errors[step + 1] = error = measure.error(network)
            show(step + 1, run.steps, f"relative error {error:.3f}")

    figures = {"error": error, **measure.terms(network), "seconds": seconds / run.steps}
    weights = {term: history[f"weight/{term}"].tolist() for term in TERMS}
    return Result(run, figures, errors, weights, measure.solution(network))


def try_out(config: str, steps: int) -> None:
    """Weight made-up terms, so that a section with wrong terms fails before training."""
    criterion = WeightedLoss.from_config(CONFIGS, at=config).bind(total_steps=steps)
    criterion.breakdown(dict.fromkeys(TERMS, torch.ones(())))


def main() -> None:
    """Train with every config, then show all results."""
    names = list(yaml.safe_load(CONFIGS.read_text("utf-8")))
    parser = experiment_parser(__doc__ or "", "pinn", names)
    options = read_experiment(parser, try_out, seeds=SEEDS, steps=STEPS, quick_steps=QUICK_STEPS)
    runs = [
        Run(config, seed, options.steps)
        for seed in range(options.seeds)
        for config in options.configs
    ]
    results = run_in_parallel(train, {run.name: run for run in runs}, options.workers)

    console = Console()
    console.print(report.table(results))
    files = [
        save_markdown(report.COLUMNS, report.rows(results), options.out / "table.md"),
        report.save(results, options.out / "figures.json"),
        pictures.save_errors(results, options.out / "errors.png"),
        pictures.save_weights(results, options.out / "weights.png"),
        pictures.save_solutions(results, options.out / "solutions.png"),
    ]
    for file in files:
        console.print(file, soft_wrap=True)


if __name__ == "__main__":
    run_program(main)
