"""Compare weights for the KL term of a variational autoencoder under equal conditions.

An LSTM decoder can spell out pronunciations without a code, so the KL term of an LSTM VAE that is
trained on the plain ELBO vanishes. Annealing the weight of that term is the usual remedy. Other
methods hold the KL at a target. Each config is a file in `vae_elbo/`, next to this program. All
configs have the same words, model, optimizer and number of steps and, for each seed, the same
initialization.

    python examples/vae_elbo.py                     # six of them, one seed: about three minutes
    python examples/vae_elbo.py --full              # all of them, five seeds
    python examples/vae_elbo.py --configs constant my_own.yaml

`train` is the part to read: a plain training loop that uses the library. The same command resumes
an interrupted run from its last whole epoch, with figures that are identical bit for bit.
"""

from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from harness.checkpoint import Checkpoint, Stateful
from harness.folder import reserved
from harness.workers import Show, run_in_parallel, run_program
from lossweights import History, WeightedLoss
from pronunciation_vae import pictures, report
from pronunciation_vae.data import Words, load_words
from pronunciation_vae.evaluate import evaluate
from pronunciation_vae.model import PronunciationVAE
from pronunciation_vae.options import Run, read_options


def train(folder: Path, run: Run, show: Show) -> report.Result:
    """Train one model and measure it; an interrupted training is resumed."""
    train_words, test_words = load_words(run.words)
    torch.manual_seed(run.seed)
    model = PronunciationVAE()
    optimizer = torch.optim.Adam(model.parameters(), lr=run.learning_rate, fused=True)

    criterion = WeightedLoss.from_config(run.config, at="loss")
    criterion.bind(total_steps=run.total_steps, steps_per_epoch=run.steps_per_epoch)
    criterion.follow(optimizer)

    generator = torch.Generator().manual_seed(run.seed)  # of the order and the noise
    parts: dict[str, Stateful] = {"model": model, "optimizer": optimizer, "criterion": criterion}
    checkpoint = Checkpoint(run.checkpoint(folder), generator, parts)
    history = History(
        criterion,
        every="1 steps",  # each row waits for the device; on a GPU, choose a longer interval
        path=checkpoint.path.with_suffix(".jsonl"),
        include=["raw", "weight"],
    )
    held_out: list[float] = checkpoint.load() or []  # a loss for each epoch that is done
    while len(held_out) < run.epochs:
        for words in train_words.batches(run.batch_size, generator):
            nll, kl = model(words, generator)
            loss = criterion({"reconstruction": nll, "kl": kl})
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

            last = history.rows[-1]
            note = f"KL {last['raw/kl']:5.2f} at weight {last['weight/kl']:.2f}"
            show(criterion.current_step, run.total_steps, note)
        held_out.append(held_out_loss(model, criterion, test_words))
        checkpoint.save(held_out)

    figures = evaluate(model, train_words, test_words, run.seed)
    metrics = {name: history[name].tolist() for name in history}
    return report.Result(run.config_name, run.seed, run.target, figures, metrics, held_out)


def held_out_loss(model: PronunciationVAE, criterion: WeightedLoss, words: Words) -> float:
    """The loss on held-out words.

    Without gradients a criterion uses its `eval_weights`. With `final`, schedules count as at the
    end of training and controllers as 1. So this is the negative ELBO for all epochs and configs,
    whatever the current weight, except that transforms still apply: free bits give their bound.
    """
    with torch.no_grad():
        nll, kl = model(words, torch.Generator().manual_seed(0))
        return float(criterion({"reconstruction": nll, "kl": kl}))


def main() -> None:
    """Train the runs that are not complete, then show all results."""
    options = read_options(__doc__ or "")
    jobs = {run.name: run for run in options.runs}
    with reserved(options.out):
        results = run_in_parallel(partial(train, options.out), jobs, options.workers)

    console = Console()
    console.print(report.table(results, options.runs[0]))
    if any(result.target for result in results):
        console.print("", report.target_table(results))
    files = [
        report.save(results, options.out / "figures.json"),
        pictures.save_curves(results, options.out / "curves.png"),
        pictures.save_weights(results, options.out / "weights.png"),
    ]
    for file in files:
        console.print(file, soft_wrap=True)


if __name__ == "__main__":
    run_program(main, "Interrupted. The same command resumes from the last whole epochs.")
