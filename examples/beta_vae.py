"""Does a larger weight of the KL disentangle the code of a variational autoencoder?

Every picture shows one sprite whose shape, size, rotation and position are drawn independently. The
autoencoder does not see these factors. The question is whether each factor gets its own dimension
of the code. A larger weight of the KL is known to help, at a cost. Other methods set how many nats
the code holds. Each config is a section of `beta_vae.yaml`, next to this program. All configs have
the same pictures, model, optimizer and number of steps and, for each seed, the same initialization
and batches.

    python examples/beta_vae.py             # all of them, five seeds: 18 minutes on two cores
    python examples/beta_vae.py --quick     # a few steps of each, in seconds
    python examples/beta_vae.py --configs beta-1 beta-4 pid --seeds 1

`training` is the part to read: a plain training loop that uses the library.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
import yaml
from rich.console import Console

from harness.options import experiment_parser, read_experiment
from harness.tables import Rows, save_markdown, screen_table
from harness.workers import Show, run_in_parallel, run_program
from lossweights import History, WeightedLoss
from sprites import pictures
from sprites.data import load_sprites
from sprites.measures import measure
from sprites.model import SpriteVAE
from sprites.report import COLUMNS, caption
from sprites.run import EVERY, TRAVERSED, Result, Run, by_config, save, traverse

CONFIGS = Path(__file__).with_suffix(".yaml")
SEEDS = 5
STEPS, QUICK_STEPS = 8_000, 40


def training(run: Run, model: SpriteVAE, criterion: WeightedLoss) -> Iterator[None]:
    """Train a model; yield after each step."""
    sprites, _ = load_sprites()
    optimizer = torch.optim.Adam(model.parameters(), lr=run.learning_rate, fused=True)
    criterion.follow(optimizer)

    generator = torch.Generator().manual_seed(run.seed)  # for the batches and the noise of codes
    for _ in range(run.steps):
        images = sprites.batch(run.batch_size, generator)
        posterior = model.encode(images)
        reconstruction, kl = model.terms(images, posterior, generator)
        terms = {"reconstruction": reconstruction.mean(), "kl": kl.mean()}
        # Both terms depend on the encoder through the posterior only. `shared` is for methods that
        # use gradients.
        loss = criterion(terms, shared=posterior)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        yield


def train(run: Run, show: Show) -> Result:
    """Train one model and measure it."""
    torch.manual_seed(run.seed)
    model = SpriteVAE()
    criterion = WeightedLoss.from_config(CONFIGS, at=run.config).bind(total_steps=run.steps)
    history = History(criterion, every=f"{EVERY} steps", include=["raw", "weight"])
    for _ in training(run, model, criterion):
        if history.is_complete:
            last = history.rows[-1]
            note = f"KL {last['raw/kl']:5.2f} at weight {last['weight/kl']:.2f}"
            show(criterion.current_step, run.steps, note)

    _, held_out = load_sprites()
    figures, code = measure(model, held_out, run.seed)
    traversals = traverse(model, held_out.images[TRAVERSED], code.dimensions)
    metrics = {name: history[name].tolist() for name in history}
    return Result(run, figures, code, metrics, traversals)


def try_out(config: str, steps: int) -> None:
    """Weight made-up terms, so that a section with wrong terms fails before training."""
    criterion = WeightedLoss.from_config(CONFIGS, at=config).bind(total_steps=steps)
    criterion.breakdown({"reconstruction": torch.ones(()), "kl": torch.ones(())})


def main() -> None:
    """Train with every config, then show what the codes hold."""
    names = list(yaml.safe_load(CONFIGS.read_text("utf-8")))
    parser = experiment_parser(__doc__ or "", "beta_vae", names)
    options = read_experiment(parser, try_out, seeds=SEEDS, steps=STEPS, quick_steps=QUICK_STEPS)
    runs = [
        Run(config, seed, options.steps)
        for seed in range(options.seeds)
        for config in options.configs
    ]
    results = run_in_parallel(train, {run.name: run for run in runs}, options.workers)
    rows: Rows = {
        config: [result.figures for result in group] for config, group in by_config(results).items()
    }
    console = Console()
    console.print(screen_table("Which factors have a dimension?", caption(runs[0]), COLUMNS, rows))
    for file in (
        save_markdown(COLUMNS, rows, options.out / "table.md"),
        save(results, options.out / "figures.json"),
        pictures.save_traversals(results, options.out / "traversals.png"),
        pictures.save_curves(results, options.out / "curves.png"),
    ):
        console.print(file, soft_wrap=True)


if __name__ == "__main__":
    run_program(main)
