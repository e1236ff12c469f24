"""The results of the runs, as a table and as a file."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

from rich.table import Table

from harness.json_file import write_json
from harness.tables import Column, screen_table
from pronunciation_vae.data import train_count
from pronunciation_vae.evaluate import ACTIVE, LABELED, PROBE_DRAWS
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
WINDOW = 20  # steps per point of a curve, averaged
LAST = 100  # steps at the end of training over which `reached` is the mean


@dataclass(frozen=True)
class Result:
    """The result of a run.

    Args:
        config: Name of the config.
        seed: Seed of the run.
        target: The target of the KL in nats, if the config has one.
        figures: The measures after training.
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
    """The results of each config, in the given order."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.config, []).append(result)
    return groups


def caption(run: Run) -> str:
    """How the figures were measured and how to read them."""
    return (
        f"Measured on {run.words - train_count(run.words):,} held-out words, in nats per word: NLL "
        "summed over phonemes, KL summed over the dimensions of the code, -ELBO = NLL + KL at any "
        "weight. Each row has the same words, optimizer, constant learning rate, "
        f"{run.total_steps:,} steps (epochs: {run.epochs}) and, for each seed, initialization. "
        "± is the standard deviation over seeds.\n"
        "NLL, z~p(z): the same words decoded from codes of the prior instead of their own. "
        "If it equals NLL, the decoder ignores the code. The further above NLL, the more the "
        "decoder uses it.\n"
        f"Active units: dimensions whose posterior mean has a variance above {ACTIVE}. "
        "MI: I(x; z) under q, the KL minus the KL from aggregate posterior to prior, estimated on "
        "these words. Last two: accuracy in percent of a logistic regression on one unscaled "
        f"sample of each code, trained on {LABELED} labeled words (mean of {PROBE_DRAWS} draws)."
    )


def table(results: Sequence[Result], run: Run) -> Table:
    """A row for each config, with the measures after training."""
    rows = {
        config: [result.figures for result in group] for config, group in by_config(results).items()
    }
    return screen_table("Weights for the KL term", caption(run), COLUMNS, rows)


def target_table(results: Sequence[Result]) -> Table:
    """A row for each config with a target: does the KL stay there?"""
    caption = (
        f"KL in nats per word. Reached: mean over the last {LAST} steps of training. Off by: the "
        f"largest distance of a {WINDOW}-step mean from the target in the second half of training. "
        f"Held out: as in the table above. Weight: mean over the last {LAST} steps."
    )
    rows = {
        config: [against_target(result, result.target) for result in group if result.target]
        for config, group in by_config(results).items()
        if group[0].target
    }
    title = "Does the KL stay at its target?"
    return screen_table(title, caption, TARGET_COLUMNS, rows)


def against_target(result: Result, target: float) -> dict[str, float]:
    """Target, KL reached, largest distance, held-out KL, and final weight."""
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
    """Write the figures and history of every run."""
    return write_json({"runs": [asdict(result) for result in results]}, path)
