"""At the same KL, does it matter how the KL is weighted?

Schedules, controllers and transforms of the KL of a variational autoencoder end at different KLs,
so two configs mostly differ in how many nats their code holds. This program sweeps over six
families of configs, with several settings of each, which reach overlapping KLs: constant weights,
ramps, cycles, PID targets, free bits and capacities. Then it compares the families at the same
KLs. The model and the words are those of `vae_elbo.py`.

    python examples/front.py             # all configs, three seeds: about an hour on two busy cores
    python examples/front.py --quick     # a few steps of some configs: about a minute

The results are kept in a file. The same command resumes an interrupted sweep.

`training` is the part to read: a plain training loop that uses the library. `main` runs the sweep.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, islice, repeat
from pathlib import Path

import torch
from rich.console import Console

from harness.options import Parser, count
from kl_front import matched, pictures
from kl_front.families import CONFIG, FAMILIES, choices
from lossweights import LossConfig, WeightedLoss, sweep
from pronunciation_vae.data import Words, load_words
from pronunciation_vae.evaluate import evaluate
from pronunciation_vae.model import PronunciationVAE

WORDS, EPOCHS, SEEDS = 40_000, 3, 3
QUICK_WORDS = 1_000
BATCH_SIZE = 128
LEARNING_RATE = 2e-3


def training(
    model: PronunciationVAE, criterion: WeightedLoss, *, words: Words, steps: int, seed: int
) -> Iterator[None]:
    """Train a model; yield after each step."""
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
    criterion.follow(optimizer)

    generator = torch.Generator().manual_seed(seed)  # for the order of words and the noise of codes
    batches = chain.from_iterable(words.batches(BATCH_SIZE, generator) for _ in repeat(None))
    for batch in islice(batches, steps):
        posterior = model.encode(batch)
        nll, kl = model.terms(batch, posterior, generator)
        # Both terms depend on the encoder through the posterior only. `shared` is for methods that
        # use gradients.
        loss = criterion({"reconstruction": nll, "kl": kl}, shared=posterior)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        yield


def train(
    config: LossConfig, seed: int, _report: Callable[[int, float], None], words: int, epochs: int
) -> dict[str, float]:
    """Train a model with a config and measure it on held-out words. `sweep` calls this."""
    train_words, test_words = load_words(words)
    torch.manual_seed(seed)
    model = PronunciationVAE()
    steps_per_epoch = len(train_words) // BATCH_SIZE
    steps = epochs * steps_per_epoch
    criterion = WeightedLoss(config).bind(total_steps=steps, steps_per_epoch=steps_per_epoch)
    for _ in training(model, criterion, words=train_words, steps=steps, seed=seed):
        pass
    return evaluate(model, train_words, test_words, seed)


def main() -> None:
    """Sweep over all families, then compare them at the same KL."""
    parser = Parser(__doc__ or "")
    parser.add_argument("--quick", action="store_true", help="a few steps of some configs")
    parser.add_argument("--workers", type=count, default=2, help="parallel processes (2)")
    out = Path("runs/front")
    parser.add_argument("--out", type=Path, default=out, help=f"output folder ({out})")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    vary = choices(each[:2] if options.quick else each for each in FAMILIES.values())
    words, epochs = (QUICK_WORDS, 1) if options.quick else (WORDS, EPOCHS)
    front = sweep(
        CONFIG,
        partial(train, words=words, epochs=epochs),
        vary={"kl": vary},
        minimize=["negative_elbo"],
        maximize=["first_phoneme"],
        trials=len(vary),  # each choice once
        seeds=1 if options.quick else SEEDS,
        storage=options.out / "sweep.db",
        name="quick" if options.quick else "full",
        workers=options.workers,
    )

    console = Console()
    console.print(front.table(), soft_wrap=True)
    for table in matched.tables(front):
        console.print("", table)
    front.plot(options.out / "front.png")
    for file in (
        options.out / "front.png",
        matched.save_markdown(front, options.out / "matched.md"),
        pictures.save_families(front, options.out / "families.png"),
    ):
        console.print(file, soft_wrap=True)


if __name__ == "__main__":
    main()
