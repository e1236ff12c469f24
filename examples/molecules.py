"""Search among molecules by moving through the code of a variational autoencoder.

By some estimates there are 10^60 drug-like molecules. A VAE maps each to a point of a space in
which you can move: encode a molecule, take a step in the direction in which a property grows,
decode. That only works if the code holds something, and with an LSTM decoder the KL term of the
ELBO tends to vanish. So it matters how much the KL counts, and when. Each way to weigh it is a
config file in `molecules/`, next to this program. All share the molecules of MOSES, the model, the
optimizer, the number of steps and, for each seed, the initialization.

    python examples/molecules.py                    # four configs, one picture: five minutes
    python examples/molecules.py --full             # ten configs, with and without labels, 3 seeds
    python examples/molecules.py --configs pid-10 my_own.yaml

`train` is the part to read: a plain training loop that uses the library. To continue an
interrupted run from its last whole epoch, repeat the command: the figures are the same bit for bit.
"""

from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from harness.checkpoint import Checkpoint, Stateful
from harness.folder import reserved
from harness.gaussian import draw, kl_to_prior
from harness.workers import Show, run_in_parallel, run_program
from lossweights import History, WeightedLoss
from molecule_vae import pictures, report
from molecule_vae.data import PREDICTED, Corpus, Molecules, load
from molecule_vae.evaluate import evaluate
from molecule_vae.model import MoleculeVAE
from molecule_vae.navigate import navigate
from molecule_vae.options import BATCH_SIZE, Run, read_options
from molecule_vae.result import Result, thinned


def train(folder: Path, run: Run, show: Show) -> Result:
    """Train one model and measure it; continue an earlier attempt if there was one."""
    file = run.file(folder)
    if (result := Result.load(file)) is not None:
        return result
    corpus = load(run.molecules, folder)
    torch.manual_seed(run.seed)
    model = MoleculeVAE(properties=PREDICTED if run.with_labels else 0)

    criterion = WeightedLoss(run.read_config())
    criterion.bind(total_steps=run.total_steps, steps_per_epoch=run.steps_per_epoch)
    optimizer = torch.optim.Adam(model.parameters(), lr=run.learning_rate, fused=True)
    criterion.follow(optimizer)

    generator = torch.Generator().manual_seed(run.seed)
    parts: dict[str, Stateful] = {"model": model, "optimizer": optimizer, "criterion": criterion}
    checkpoint = Checkpoint(file, generator, parts)
    history = History(
        criterion,
        every="1 steps",  # a row waits for the device: on a GPU, record fewer
        path=file.with_suffix(".jsonl"),
        include=["raw", "weight"],
    )
    for epoch in range(checkpoint.load() or 0, run.epochs):
        for molecules in corpus.train.batches(BATCH_SIZE, generator):
            loss = criterion(terms(model, corpus, molecules, generator))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

            last = history.rows[-1]
            note = f"KL {last['raw/kl']:5.2f} at weight {last['weight/kl']:.2f}"
            show(criterion.current_step, run.total_steps, note)
        checkpoint.save(epoch + 1)

    result = Result(
        config=run.config_name,
        with_labels=run.with_labels,
        seed=run.seed,
        figures=evaluate(model, corpus, run.seed),
        navigation=navigate(model, corpus, run.seed),
        history=thinned({name: history[name] for name in history}),
    )
    result.save(file)
    return result


def terms(
    model: MoleculeVAE, corpus: Corpus, molecules: Molecules, generator: torch.Generator
) -> dict[str, Tensor]:
    """The terms of the negative ELBO in nats per molecule, and the error of the head."""
    mean, log_variance = model.encode(molecules)
    code = draw(mean, log_variance, generator)
    found = {
        "reconstruction": model.negative_log_likelihood(molecules, code),
        "kl": kl_to_prior(mean, log_variance).sum(dim=1).mean(),
    }
    if model.head is not None:
        wanted = corpus.scaled(molecules.properties)[:, :PREDICTED]
        found["property"] = (model.head(code) - wanted).square().mean()
    return found


def main() -> None:
    """Train what is not trained yet, then show all results."""
    options = read_options(__doc__ or "")
    console = Console()
    jobs = {run.name: run for run in options.runs}
    with reserved(options.out):
        load(options.runs[0].molecules, options.out)  # before the workers, which find the file
        results = run_in_parallel(partial(train, options.out), jobs, options.workers)

    for group in report.by_setup(results):
        for table in report.tables(group, options.runs[0]):
            console.print(table, "")
    files = [
        report.save_all(results, options.out / "figures.json"),
        *report.save_markdown_tables(results, options.out),
        *pictures.save_all(results, options.out, curves=options.full),
    ]
    for file in files:
        console.print(file, soft_wrap=True)


if __name__ == "__main__":
    run_program(main, "Interrupted. The same command continues from the last whole epochs.")
