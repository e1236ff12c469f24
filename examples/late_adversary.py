"""A term that starts late: an adversary for an autoencoder, as VQGAN is trained.

An autoencoder that minimizes the squared error produces blurred images. A discriminator that tells
images from reconstructions makes them sharper. But it is of little use before there is something to
sharpen, and it costs time in every step. So VQGAN starts it late (P. Esser, R. Rombach, B. Ommer,
*Taming transformers for high-resolution image synthesis*, CVPR 2021, arXiv 2012.09841; `disc_start`
in its code). Each config is a section of `late_adversary.yaml`, next to this program. All configs
have the same images, models, optimizers and number of steps and, for each seed, the same
initialization.

    python examples/late_adversary.py               # five configs, five seeds: about two minutes
    python examples/late_adversary.py --quick       # a few steps of each, in seconds
    torchrun --standalone --nproc-per-node 2 examples/late_adversary.py --configs late-ramp

`train` is the part to read: a plain training loop with two optimizers that uses the library.
"""

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
import yaml
from rich.console import Console
from torch import distributed
from torch.nn import functional

from adversary import measures, pictures, ranks
from adversary.images import load_images
from adversary.model import Autoencoder, Discriminator, discriminator_terms
from adversary.report import COLUMNS, caption
from adversary.run import BATCH, SHOWN, Result, Run, by_config, save_figures, times
from harness.options import experiment_parser, read_experiment
from harness.tables import save_markdown, screen_table
from harness.workers import Show, run_in_parallel, run_program
from lossweights import WeightedLoss

CONFIGS = Path(__file__).with_suffix(".yaml")
SEEDS, STEPS, QUICK_STEPS = 5, 2000, 60


def train(run: Run, show: Show) -> Result:
    """Train an autoencoder, and its adversary while that is active; then measure it."""
    images = load_images()
    torch.manual_seed(run.seed)
    autoencoder, discriminator = Autoencoder(), Discriminator()
    # Under torchrun each is wrapped in its own DistributedDataParallel.
    reconstruct, judge = ranks.on_all_ranks(autoencoder), ranks.on_all_ranks(discriminator)
    adam = partial(torch.optim.Adam, lr=2e-3, betas=(0.5, 0.9), fused=True)  # VQGAN's betas
    optimizer = adam(autoencoder.parameters())
    discriminator_optimizer = adam(discriminator.parameters())

    criterion, judgement = losses(run)
    criterion.follow(optimizer)  # the clock of both losses counts the steps of this optimizer

    history, seconds = [], []
    for step, batch in enumerate(images.batches(run.steps, BATCH, run.seed)):
        if step % run.every == 0:
            history.append(measures.progress(criterion, judgement, autoencoder, images.held_out))
            note = "MSE {error:.1f}e-3, adversary at {weight:.3f}".format(**history[-1])
            show(step, run.steps, note)
        began = time.process_time()

        real = ranks.share(batch)
        fake = reconstruct(real)
        if judgement.is_active("fake"):  # otherwise no forward and no step
            with_penalty = judgement.is_active("r1")
            terms = discriminator_terms(judge, real, fake.detach(), with_penalty=with_penalty)
            judgement(terms).backward()
            discriminator_optimizer.step()
            discriminator_optimizer.zero_grad()

        terms = {"reconstruction": functional.mse_loss(fake, real)}
        if criterion.is_active("adversarial"):
            # Not `judge`: DistributedDataParallel would average gradients that are not used.
            terms["adversarial"] = -discriminator(fake).mean()
        criterion(terms).backward()
        optimizer.step()
        optimizer.zero_grad()
        discriminator_optimizer.zero_grad()  # left by the adversarial term
        seconds.append(time.process_time() - began)

    ranks.check_that_ranks_agree(autoencoder, discriminator)
    reconstructions = measures.reconstruct(autoencoder, images.held_out)
    figures = {
        **measures.figures(images.held_out, reconstructions),
        "calls": discriminator.calls,
        **times(seconds),
    }
    return Result(run, figures, history, reconstructions[:SHOWN].tolist())


def losses(run: Run) -> tuple[WeightedLoss, WeightedLoss]:
    """The loss of the autoencoder, and that of the discriminator on the same clock."""
    criterion = WeightedLoss.from_config(CONFIGS, at=f"{run.config}.autoencoder")
    criterion.bind(total_steps=run.steps)
    at = f"{run.config}.discriminator"
    judgement = WeightedLoss.from_config(CONFIGS, at=at, clock=criterion.clock)
    return criterion, judgement


def try_out(config: str, steps: int) -> None:
    """Weight made-up terms, so that a section with wrong terms fails before training."""
    criterion, judgement = losses(Run(config, 0, steps))
    criterion.breakdown(dict.fromkeys(("reconstruction", "adversarial"), torch.ones(())))
    judgement.breakdown(dict.fromkeys(("real", "fake", "r1"), torch.ones(())))


def train_all(runs: Sequence[Run], workers: int) -> list[Result]:
    """All runs. Under torchrun they run one after the other, each on all processes."""
    if distributed.is_torchelastic_launched():
        with ranks.process_group():
            return [train(run, lambda *_: None) for run in runs]
    return run_in_parallel(train, {run.name: run for run in runs}, workers)


def main() -> None:
    """Train with every config and seed, then show the results."""
    names = list(yaml.safe_load(CONFIGS.read_text("utf-8")))
    parser = experiment_parser(__doc__ or "", "late_adversary", names)
    options = read_experiment(
        parser, try_out, seeds=SEEDS, steps=STEPS, quick_steps=QUICK_STEPS, least_steps=20
    )
    runs = [
        Run(config, seed, options.steps)
        for seed in range(options.seeds)
        for config in options.configs
    ]
    results = train_all(runs, options.workers)
    if ranks.rank() > 0:
        return

    console = Console()
    rows = {name: [r.figures for r in group] for name, group in by_config(results).items()}
    console.print(screen_table("When the adversary starts", caption(runs[0]), COLUMNS, rows))
    for file in (
        save_markdown(COLUMNS, rows, options.out / "table.md"),
        save_figures(results, options.out / "figures.json"),
        pictures.save_curves(results, options.out / "curves.png"),
        pictures.save_images(results, load_images().held_out, options.out / "images.png"),
    ):
        console.print(file, soft_wrap=True)


if __name__ == "__main__":
    run_program(main)
