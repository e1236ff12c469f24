"""Families of configs at the same KL, seed by seed."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.table import Table

from harness.tables import empty_table
from kl_front.families import families_of
from lossweights import Front
from lossweights.search import Outcome

LEVELS = (0.5, 1.0, 2.0, 3.0, 4.0)  # nats
MEASURES = {
    "negative_elbo": "-ELBO (nats)",
    "first_phoneme": "first phoneme (%)",
    "syllables": "syllables (%)",
    "mutual_information": "MI (nats)",
}
DIGITS = {"negative_elbo": 2, "first_phoneme": 1, "syllables": 1, "mutual_information": 2}
REFERENCE = "constant"


class Spread(NamedTuple):
    """Mean and standard deviation over seeds; nan if there is none."""

    mean: float
    deviation: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """The spread of one value per seed; nan if one of them is nan."""
        deviation = np.std(values, ddof=1) if len(values) > 1 else np.nan
        return cls(float(np.mean(values)), float(deviation))


def at(outcomes: Iterable[Outcome], seed: int, measure: str, level: float) -> float:
    """A measure at a KL with one seed, interpolated linearly between the configs of a family.

    nan if the KLs of all configs are above the level, or all below.
    """
    results = [outcome.results[seed] for outcome in outcomes]
    points = sorted((result["kl"], result[measure]) for result in results)
    kls, values = zip(*points, strict=True)
    return float(np.interp(level, kls, values, left=np.nan, right=np.nan))


def compare(front: Front, measure: str) -> dict[str, list[Spread]]:
    """For each family, the difference of its measure to that of constant weights at each level.

    The differences are taken seed by seed. For constant weights it is the measure itself.
    """
    families = families_of(front)
    found = {
        family: [[at(each, seed, measure, level) for seed in front.seeds] for level in LEVELS]
        for family, each in families.items()
    }
    reference = found[REFERENCE]
    return {REFERENCE: [Spread.of(values) for values in reference]} | {
        family: [
            Spread.of([value - other for value, other in zip(*each, strict=True)])
            for each in zip(levels, reference, strict=True)
        ]
        for family, levels in found.items()
        if family != REFERENCE
    }


def cells(front: Front, measure: str) -> Mapping[str, list[str]]:
    """The result of `compare` as text, by family."""
    digits = DIGITS[measure]

    def cell(spread: Spread, form: str) -> str:
        if np.isnan(spread.mean):
            return "-"
        deviation = "" if np.isnan(spread.deviation) else f" ± {spread.deviation:.{digits}f}"
        return f"{spread.mean:{form}z.{digits}f}{deviation}"

    return {
        family: [cell(spread, "" if family == REFERENCE else "+") for spread in spreads]
        for family, spreads in compare(front, measure).items()
    }


def tables(front: Front) -> list[Table]:
    """A table for each measure, with a row for each family and a column for each KL."""
    found = []
    for measure, name in MEASURES.items():
        caption = (
            f"Interpolated linearly between the configs of a family. {REFERENCE}: the measure. "
            "The others: the difference to it, seed by seed. ± is the standard deviation over "
            "seeds. A dash: the family has no configs on both sides."
        )
        table = empty_table(f"{name} at the same KL", caption, "family")
        for level in LEVELS:
            table.add_column(f"{level:g} nats", justify="right", no_wrap=True)
        for family, row in cells(front, measure).items():
            table.add_row(family, *row)
        found.append(table)
    return found


def save_markdown(front: Front, path: Path) -> Path:
    """Write the tables in Markdown."""
    lines = []
    for measure, name in MEASURES.items():
        lines += [f"| {name} | {' | '.join(f'{level:g} nats' for level in LEVELS)} |"]
        lines += ["|---|" + "---:|" * len(LEVELS)]
        rows = cells(front, measure).items()
        lines += [f"| {family} | {' | '.join(row)} |" for family, row in rows]
        lines += [""]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path
