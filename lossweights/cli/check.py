"""`lossweights check`: is a config right, and what will it do?"""

from __future__ import annotations

import textwrap
import warnings
from contextlib import suppress
from typing import Annotated, NamedTuple

import typer

from lossweights.cli.options import (
    At,
    Configs,
    Imports,
    StepsPerEpoch,
    TotalSteps,
    horizon_changes,
)
from lossweights.cli.reading import Place, place_of, read
from lossweights.errors import HorizonError
from lossweights.weighted_loss import WeightedLoss


class Verdict(NamedTuple):
    """What is to be said of a config that is accepted.

    Args:
        place: Where it was found.
        description: What it will do, a line a term.
        remarks: What looks wrong all the same.
    """

    place: Place
    description: str
    remarks: list[str]


def check(
    configs: Configs,
    at: At = None,
    total_steps: TotalSteps = None,
    steps_per_epoch: StepsPerEpoch = None,
    _imports: Imports = None,
    *,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Say only what is wrong, on standard error.")
    ] = False,
) -> None:
    """Is a config right, and what will it do?

    All files are checked, and everything that is wrong is told, with its place. What is odd but
    allowed, such as a ramp that ends after training, is a warning.

    Exit status: 0 if all are right, 1 if one is refused, 2 if the command was called wrongly.

    \b
    Examples:
      lossweights check elbo.yaml
      lossweights check experiment.yaml --at training.loss
      lossweights check loss.yaml --total-steps "40 epochs" --steps-per-epoch 500
      lossweights check --quiet configs/*.yaml
      lossweights check mine.yaml --import my_schedules
    """
    changes, refused = horizon_changes(total_steps, steps_per_epoch), 0
    for argument in configs:
        place = place_of(argument, at)
        try:
            verdict = judge(place, changes)
        except (ValueError, ImportError) as error:
            typer.echo(f"{place}: refused\n{textwrap.indent(str(error), '  ')}", err=True)
            refused += 1
            continue
        if not quiet:
            indented = textwrap.indent(verdict.description, "  ")
            typer.echo(f"{verdict.place}: fine\n{indented}")
        for remark in verdict.remarks:
            typer.echo(f"{verdict.place}: warning: {remark}", err=True)
    if refused and len(configs) > 1 and not quiet:
        typer.echo(f"{refused} of {len(configs)} refused", err=True)
    raise typer.Exit(1 if refused else 0)


def judge(place: Place, changes: dict[str, object]) -> Verdict:
    """Builds the criterion of a config, as a training would, and asks it what it will do.

    Raises:
        ValueError: For what is refused, a line each.
        ImportError: For an extra that the config needs.
    """
    place, config = read(place, changes)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        criterion = WeightedLoss.from_config(config)
    remarks = [str(warning.message) for warning in caught]
    with suppress(HorizonError):  # the description says what is not known yet
        _ = criterion.weights
        remarks += criterion.audit()
    return Verdict(place, criterion.describe(), remarks)
