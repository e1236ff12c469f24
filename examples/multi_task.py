"""Several heads on one trunk, with every balancer of the library and with fixed weights.

Images are digits on patches of photographs. One network predicts the digit, its position, its
amount of ink, the pixels behind it, and which photograph that is; the labels of the last task are
mostly random. The losses have the units of their tasks and differ by factors of up to 65. The trunk
is narrow. Each config is a section of `multi_task.yaml`, next to this program.

    python examples/multi_task.py                     # all, five seeds: twenty minutes
    python examples/multi_task.py --quick             # a few steps of each, in seconds
    python examples/multi_task.py --configs equal relative imtl-g --seeds 2

The five single tasks and `equal` are always trained, because the other configs are compared with
them.

`training` is the part to read: a plain training loop that uses the library.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Console

from digit_tasks import pictures, report
from digit_tasks.data import STEPS_PER_EPOCH, load
from digit_tasks.model import Network, measure
from digit_tasks.options import read_options
from digit_tasks.report import SINGLE
from digit_tasks.run import EVERY, Result, Run
from digit_tasks.tasks import losses
from digit_tasks.timing import step_times
from harness.workers import Show, run_in_parallel, run_program
from lossweights import History, WeightedLoss

CONFIGS = Path(__file__).with_suffix(".yaml")
LEARNING_RATE_OF_WEIGHTS = 1e-2  # of learned weights
TIMED_STEPS = 40


def criterion_of(run: Run) -> WeightedLoss:
    """The loss of a run."""
    criterion = WeightedLoss.from_config(CONFIGS, at=run.config)
    return criterion.bind(total_steps=run.steps, steps_per_epoch=STEPS_PER_EPOCH)


def training(run: Run, model: Network, criterion: WeightedLoss) -> Iterator[None]:
    """Train a model; yield after each step."""
    learned = criterion.param_groups(lr=LEARNING_RATE_OF_WEIGHTS)  # empty for most balancers
    optimizer = torch.optim.Adam(
        [{"params": list(model.parameters())}, *learned], lr=run.learning_rate, fused=True
    )
    criterion.follow(optimizer)

    for batch in load("training").batches(run.steps, run.seed):
        features, outputs = model(batch.images)
        # Balancers by gradients use `shared`; the others ignore it.
        loss = criterion(losses(outputs, batch.targets), shared=features)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if run.config == "famo":  # it learns from the losses after the step
            with torch.no_grad():
                _, outputs = model(batch.images)
                criterion.observe_after(losses(outputs, batch.targets))
        yield


def train(run: Run, show: Show) -> Result:
    """Train a model and measure it after the last step."""
    model = network(run.seed)
    criterion = criterion_of(run)
    history = History(criterion, every=f"{EVERY} steps", include=["share"])
    for step, _ in enumerate(training(run, model, criterion), start=1):
        if step % EVERY == 0:
            show(step, run.steps, "")
    shares = {task: history[f"share/{task}"].tolist() for task in history.terms}
    return Result(run, measure(model, load(run.split)), shares)


def network(seed: int) -> Network:
    """A network before training."""
    torch.manual_seed(seed)
    return Network()


def every_run(options: argparse.Namespace, seed: int) -> list[Run]:
    """Runs of each task alone, and of all tasks together with each config."""
    return [
        Run(config, seed, options.steps, options.learning_rate, options.split)
        for config in dict.fromkeys((*SINGLE.values(), "equal", *options.configs))
    ]


def time_steps(options: argparse.Namespace) -> list[dict[str, float]]:
    """Seconds that a step of each config takes, in one round per seed."""
    count = min(TIMED_STEPS, options.steps // 2)
    return [
        step_times(
            {
                run.config: training(run, network(seed), criterion_of(run))
                for run in every_run(options, seed)
            },
            count,
        )
        for seed in range(options.seeds)
    ]


def main() -> None:
    """Train each task alone and all tasks together with each config, then compare."""
    options = read_options(__doc__ or "", CONFIGS)
    jobs = {
        f"{run.config}, seed {seed}": run
        for seed in range(options.seeds)
        for run in every_run(options, seed)
    }
    console = Console()
    torch.set_num_threads(1)  # as in the workers
    results = run_in_parallel(train, jobs, options.workers)
    with console.status("timing steps"):
        rounds = time_steps(options)

    rows = report.rows(results, rounds)
    console.print(report.table(rows, results[0].run))
    files = [
        report.save_markdown(rows, options.out / "table.md"),
        report.save_figures(results, rows, options.out / "figures.json"),
        pictures.save_delta_m(rows, options.out / "delta-m.png"),
        pictures.save_shares(results, options.out / "shares.png"),
    ]
    for file in files:
        console.print(file, soft_wrap=True)


if __name__ == "__main__":
    run_program(main)
