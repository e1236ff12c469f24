"""The command `lossweights` and its subcommands."""

from typing import Annotated

import typer

import lossweights
from lossweights.cli.calibrate import calibrate
from lossweights.cli.check import check
from lossweights.cli.common import Imports
from lossweights.cli.front import front
from lossweights.cli.init import init
from lossweights.cli.kinds import kinds
from lossweights.cli.preview import preview
from lossweights.cli.schema import schema
from lossweights.cli.sweep import sweep

app = typer.Typer(
    name="lossweights",
    rich_markup_mode=None,  # plain help also works piped, at 40 columns, and without unicode
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    _imports: Imports = None,
    *,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """Weights for the terms of a loss: write, check and preview configs.

    First steps:

    \b
      lossweights init elbo         write elbo.yaml, a config with comments
      lossweights check elbo.yaml   check it, and describe what it does
      lossweights preview elbo.yaml draw its weights over the training
      lossweights kinds             list the kinds that a config can use
      lossweights kinds cyclical    show one: its fields, its paper, an example

    \b
    Then, in your training:
      criterion = WeightedLoss.from_config("elbo.yaml")
      criterion.follow(optimizer)
      loss = criterion({"reconstruction": ..., "kl": ...})

    \b
    After a short training with History(criterion, path="run.jsonl"):
      lossweights calibrate run.jsonl elbo.yaml   propose fixed weights

    \b
    To compare many configs, each trained with the same seeds:
      lossweights sweep --help      how to start a sweep
      lossweights front sweep.db    show its results
    """
    if version:
        typer.echo(f"lossweights {lossweights.__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


for command in (init, check, preview, calibrate, kinds, schema, sweep, front):
    app.command()(command)
