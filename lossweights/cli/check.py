"""`lossweights check`: checks and describes configs."""

import textwrap
from contextlib import suppress
from typing import Annotated

import typer

from lossweights.cli import common
from lossweights.errors import ConfigError, HorizonError


def check(
    configs: common.Configs,
    at: common.At = None,
    total_steps: common.TotalSteps = None,
    total: common.Total = None,
    steps_per_epoch: common.StepsPerEpoch = None,
    _imports: common.Imports = None,
    *,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print only errors and warnings.")
    ] = False,
) -> None:
    """Check configs and describe what they do.

    Every file is checked, and every error is reported with its place. What is allowed but
    probably a mistake, such as a ramp that ends after training, is a warning.

    Exit status: 0 if all are fine, 1 if one is refused, 2 if the command was called wrongly.

    \b
    Examples:
      lossweights check elbo.yaml
      lossweights check experiment.yaml --at training.loss
      lossweights check loss.yaml --total-steps "40 epochs" --steps-per-epoch 500
      lossweights check --quiet configs/*.yaml
      lossweights check mine.yaml --import my_schedules
    """
    refused = 0
    for argument in configs:
        try:
            lengths = common.lengths(total_steps, total, steps_per_epoch)
            name, criterion, remarks = common.read(argument, at, lengths)
        except ConfigError as error:
            common.say(str(error), err=True)
            refused += 1
            continue
        with suppress(HorizonError):  # the description says what is not known
            _ = criterion.weights
            remarks += criterion.audit()
        if not quiet:
            common.say(f"{name}: fine\n{textwrap.indent(criterion.describe(), '  ')}")
        for remark in remarks:
            common.say(f"{name}: warning: {remark}", err=True)
    if refused and len(configs) > 1 and not quiet:
        common.say(f"{refused} of {len(configs)} refused", err=True)
    raise typer.Exit(1 if refused else 0)
