"""`lossweights preview`: the weights and scheduled numbers of configs over a training, drawn."""

import io
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console

from lossweights.cli import common
from lossweights.errors import ConfigError, HorizonError

_MOST = 8  # configs in a drawing
_FORMATS = (".png", ".svg")
_POINTS = 20_000  # so that a change of a few steps is seen in a long training


def _change(written: str) -> tuple[str, Any]:
    path, equals, value = written.partition("=")
    problem = "write PATH=VALUE, as in kl.weight=0.5"
    if path.strip() and equals:
        try:
            return path.strip(), yaml.safe_load(value)
        except (yaml.YAMLError, ValueError):  # ValueError: a date that does not exist
            problem = "the value is not well-formed YAML"
    raise typer.BadParameter(f"{written!r}: {problem}", param_hint="'--set'")


def preview(
    configs: common.Configs,
    at: common.At = None,
    total_steps: common.TotalSteps = None,
    total: common.Total = None,
    steps_per_epoch: common.StepsPerEpoch = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="PATH=VALUE", help="A change: kl.weight=0.5. May be repeated."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a picture to this .png or .svg file instead."),
    ] = None,
    _imports: common.Imports = None,
) -> None:
    """Draw the weights and the scheduled numbers over a training.

    Each has a panel. Several configs are drawn on top of each other. The curves are base
    weight times schedule; a line says if a controller or a balancer multiplies them in training.

    \b
    Examples:
      lossweights preview elbo.yaml
      lossweights preview constant.yaml cyclical.yaml --total-steps 40000
      lossweights preview experiment.yaml:baseline.loss experiment.yaml:new.loss
      lossweights preview elbo.yaml --set kl.weight=0.5 --set kl.schedule.cycles=8
      lossweights preview elbo.yaml --set 'kl.schedule={kind: warmup, over: 25%}'
      lossweights preview elbo.yaml --out elbo.png
    """
    if len(configs) > _MOST:
        raise typer.BadParameter(f"{len(configs)} configs: at most {_MOST} fit in a drawing")
    if out is not None and out.suffix.lower() not in _FORMATS:
        raise typer.BadParameter(f"{str(out)!r}: write a name that ends in .png or .svg")
    from lossweights.cli.drawing import draw  # noqa: PLC0415  # it imports torch
    from lossweights.config.timeline import Curves  # noqa: PLC0415

    changed, found = dict(map(_change, changes or ())), {}
    for argument in configs:
        try:
            lengths = common.lengths(total_steps, total, steps_per_epoch)
            name, criterion, _ = common.read(argument, at, {**changed, **lengths})
            found[name] = criterion.config, Curves.of(criterion.config, points=_POINTS)
        except ConfigError as error:
            common.fail(str(error))
        except HorizonError as error:
            common.fail_without_length(name, error)
    units = {name: config.horizon.unit for name, (config, _) in found.items()}
    if len(set(units.values())) > 1:
        raise typer.BadParameter(f"a drawing has one time axis, and the configs count {units}")
    if len(found) < len(configs):
        raise typer.BadParameter("the same config is given twice")
    if out is None:
        draw(found, Console(highlight=False, markup=False, emoji=False, soft_wrap=True))
        return
    from lossweights.analysis import plot  # noqa: PLC0415  # an extra

    try:
        figure = plot.config({name: config for name, (config, _) in found.items()})
    except ImportError as error:
        common.fail(str(error))
    picture = io.BytesIO()
    figure.savefig(picture, format=out.suffix[1:].lower(), dpi=150, bbox_inches="tight")
    common.save(out, picture.getvalue())
