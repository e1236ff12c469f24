"""What the runs gave, as a table and as a file."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

from rich.table import Table

from harness.tables import Column, screen_table
from pronunciation_vae.data import train_count
from pronunciation_vae.evaluate import ACTIVE, LABELLED, PROBE_DRAWS
from pronunciation_vae.options import Run

COLUMNS = {
    "nll": Column("NLL"),
    "kl": Column("KL"),
    "negative_elbo": Column("-ELBO"),
    "nll_prior": Column("NLL,\nz~p(z)"),
    "active_units": Column("active\nunits", 1),
    "mutual_information": Column("MI"),
    "first_phoneme": Column("first\nphon.", 1),
    "syllables": Column("sylla-\nbles", 1),
}
TARGET_COLUMNS = {
    name: Column(name) for name in ("target", "reached", "off by", "held out", "weight")
}
WINDOW = 20  # steps that one point of a curve is the mean of
LAST = 100  # steps at the end of training that `reached` is the mean of


@dataclass(frozen=True)
class Result:
    """What a run gave.

    Args:
        config: Name of the config.
        seed: Seed of the run.
        target: The KL in nats that the config asks for, if it does.
        figures: What was measured at the end.
        history: Metrics of the loss at each step.
        held_out: The loss on held-out words after each epoch.
    """

    config: str
    seed: int
    target: float | None
    figures: dict[str, float]
    history: dict[str, list[float]]
    held_out: list[float]


def by_config(results: Sequence[Result]) -> dict[str, list[Result]]:
    """The results of each config, in the order in which they come."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.config, []).append(result)
    return groups


def caption(run: Run) -> str:
    """How the figures came about and how to read them."""
    return (
        f"Measured on {run.words - train_count(run.words):,} words not trained on, in nats per "
        "word: NLL summed over phonemes, KL over the dimensions of the code, -ELBO = NLL + KL "
        "whatever the weight was. Each row has the same words, optimizer, constant learning rate, "
        f"{run.total_steps:,} steps (epochs: {run.epochs}) and, seed by seed, initialisation; "
        "± is the standard deviation over seeds.\n"
        "NLL, z~p(z): the same words decoded from codes of the prior instead of their own. "
        "Equal to NLL, it says that the decoder ignores the code; the further above NLL, the "
        "more it heeds it.\n"
        f"Active units: dimensions whose posterior mean has a variance over {ACTIVE}. "
        "MI: I(x; z) under q, KL less the KL from aggregate posterior to prior, estimated on "
        "these words. Last two: percent right of a logistic regression on one unscaled sample of "
        f"each code, learnt from {LABELLED} labelled words (mean of {PROBE_DRAWS} draws)."
    )


def table(results: Sequence[Result], run: Run) -> Table:
    """A row for each config: what was measured at the end."""
    rows = {
        config: [result.figures for result in group] for config, group in by_config(results).items()
    }
    return screen_table("Ways to weigh the KL term", caption(run), COLUMNS, rows)


def target_table(results: Sequence[Result]) -> Table:
    """A row for each config that asks for a KL: was it held there?"""
    caption = (
        f"KL in nats per word. Reached: mean over the last {LAST} steps of training. Off by: the "
        "furthest that it was from its target in the second half of training, in means of "
        f"{WINDOW} steps. Held out: as in the table above. Weight: mean over the last {LAST} steps."
    )
    rows = {
        config: [against_target(result, result.target) for result in group if result.target]
        for config, group in by_config(results).items()
        if group[0].target
    }
    title = "Does it hold the KL that it was told to hold?"
    return screen_table(title, caption, TARGET_COLUMNS, rows)


def against_target(result: Result, target: float) -> dict[str, float]:
    """Target, reached, furthest off, held out, and the weight at the end."""
    kl, weight = result.history["raw/kl"], result.history["weight/kl"]
    ends = range(len(kl), len(kl) // 2, -WINDOW)
    return {
        "target": target,
        "reached": fmean(kl[-LAST:]),
        "off by": max(abs(fmean(kl[max(end - WINDOW, 0) : end]) - target) for end in ends),
        "held out": result.figures["kl"],
        "weight": fmean(weight[-LAST:]),
    }


def save(results: Sequence[Result], path: Path) -> Path:
    """Write every run's figures and history."""
    document = {"runs": [asdict(result) for result in results]}
    path.write_text(json.dumps(document) + "\n", encoding="utf-8")
    return path
