"""What the runs gave, as a table and as a file."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev

from rich import box
from rich.table import Table

from pronunciation_vae.data import train_count
from pronunciation_vae.evaluate import ACTIVE, LABELLED, PROBE_DRAWS
from pronunciation_vae.options import Run

History = dict[str, list[float]]  # a metric's value at each training step

HEADINGS = {
    "nll": "NLL",
    "kl": "KL",
    "negative_elbo": "-ELBO",
    "nll_prior": "NLL,\nz~p(z)",
    "active_units": "active\nunits",
    "mutual_information": "MI",
    "first_phoneme": "first\nphon.",
    "syllables": "sylla-\nbles",
}
DIGITS = {"active_units": 1, "first_phoneme": 1, "syllables": 1}  # 2 for the others


@dataclass(frozen=True)
class Result:
    """What a run gave.

    Args:
        schedule: Name of the schedule.
        seed: Seed of the run.
        figures: What was measured at the end.
        history: Metrics of the loss at each step.
        held_out: The loss on held-out words after each epoch.
    """

    schedule: str
    seed: int
    figures: dict[str, float]
    history: History
    held_out: list[float]


def by_schedule(results: Sequence[Result]) -> dict[str, list[Result]]:
    """The results of each schedule, in the order in which they come."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.schedule, []).append(result)
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
    """A row for each schedule; with several seeds, the standard deviation under each mean."""
    rows = Table(
        title="Schedules for the weight of the KL term",
        caption=caption(run),
        caption_justify="left",
        box=box.SIMPLE,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    rows.add_column("schedule", no_wrap=True)
    for heading in HEADINGS.values():
        rows.add_column(heading, justify="right", no_wrap=True)
    for schedule, group in by_schedule(results).items():
        cells = []
        for name in HEADINGS:
            values = [result.figures[name] for result in group]
            digits = DIGITS.get(name, 2)
            spread = f"\n±{stdev(values):.{digits}f}" if len(values) > 1 else ""
            cells.append(f"{fmean(values):z.{digits}f}{spread}")
        rows.add_row(schedule, *cells)
    return rows


def save(results: Sequence[Result], path: Path) -> Path:
    """Write every run's figures and history."""
    document = {"runs": [asdict(result) for result in results]}
    path.write_text(json.dumps(document) + "\n", encoding="utf-8")
    return path
