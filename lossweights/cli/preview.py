"""`lossweights preview`: the weights of configs over a training, drawn."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
import yaml
from rich.console import Console
from rich.text import Text

from lossweights.cli.drawing import MARKS, STYLES, Curve, panel
from lossweights.cli.options import (
    At,
    Configs,
    Imports,
    StepsPerEpoch,
    TotalSteps,
    horizon_changes,
    save,
    told,
)
from lossweights.cli.page import page, picture
from lossweights.cli.reading import labels, place_of, read
from lossweights.components.durations import Horizon
from lossweights.config.curves import Curves
from lossweights.config.loss_config import LossConfig
from lossweights.errors import HorizonError

_FORMATS = (".png", ".svg", ".html")
_WIDEST = 120
_POINTS = 20_000  # so that what lasts a few steps is seen in a training of millions


class Shown(NamedTuple):
    """A config with its curves.

    Args:
        config: The declaration.
        curves: Of its terms.
        mark: The character it is drawn with.
        style: Its colour.
    """

    config: LossConfig
    curves: Curves
    mark: str
    style: str


def _change(written: str) -> tuple[str, Any]:
    path, equals, value = written.partition("=")
    problem = "write PATH=VALUE, as in kl.weight=0.5"
    if path.strip() and equals:
        try:
            return path.strip(), yaml.safe_load(value)
        except (yaml.YAMLError, ValueError):  # ValueError: a date that there is not
            problem = "the value is not well-formed YAML"
    raise typer.BadParameter(f"{written!r}: {problem}", param_hint="'--set'")


def _check_format(out: Path | None) -> Path | None:
    if out is not None and out.suffix.lower() not in _FORMATS:
        raise typer.BadParameter(f"{str(out)!r}: a picture ends in .png, .svg or .html")
    return out


@told()
def preview(
    configs: Configs,
    at: At = None,
    total_steps: TotalSteps = None,
    steps_per_epoch: StepsPerEpoch = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="PATH=VALUE",
            help="A value to change, in YAML: kl.weight=0.5. May be repeated.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            callback=_check_format,
            help="Draw a picture instead: .png, .svg, or .html with a table of the weights.",
        ),
    ] = None,
    _imports: Imports = None,
) -> None:
    """See the weights over a training.

    One panel a term; several configs are drawn on top of each other. What is drawn is base
    weight times schedule. Where a controller or a balancer multiplies that by what it finds in
    training, it says so.

    \b
    Examples:
      lossweights preview elbo.yaml
      lossweights preview constant.yaml cyclical.yaml --total-steps 40000
      lossweights preview experiment.yaml:baseline.loss experiment.yaml:new.loss
      lossweights preview elbo.yaml --set kl.weight=0.5 --set kl.schedule.cycles=8
      lossweights preview elbo.yaml --set 'kl.schedule={kind: warmup, over: 25%}'
      lossweights preview elbo.yaml --out elbo.html
    """
    if len(configs) > len(MARKS):
        raise typer.BadParameter(f"{len(configs)} configs: at most {len(MARKS)} can be told apart")
    changed = dict(map(_change, changes or ()))
    changed |= horizon_changes(total_steps, steps_per_epoch)
    found = [read(place_of(argument, at), changed) for argument in configs]
    names = labels([each.place for each in found])
    named = {name: each.criterion.config for name, each in zip(names, found, strict=True)}
    if len(named) < len(configs):
        raise typer.BadParameter("the same config is named twice")
    if out is None:
        draw(named, Console(highlight=False, markup=False, emoji=False, soft_wrap=True))
    elif out.suffix.lower() == ".html":
        save(out, page(named))
    else:
        save(out, picture(named, out.suffix.lower().removeprefix(".")))


def draw(configs: Mapping[str, LossConfig], console: Console) -> None:
    """Prints the curves of configs, by name."""
    shown = {
        name: Shown(config, _curves(name, config), mark, style)
        for (name, config), mark, style in zip(configs.items(), MARKS, STYLES, strict=False)
    }
    last = max(int(each.curves.steps[-1]) for each in shown.values())
    unicode = console.encoding.lower().startswith("utf")
    width = min(console.width, _WIDEST)
    for name, each in shown.items():
        if len(shown) > 1:
            console.print(Text.assemble((each.mark, each.style), f" {name}"))
        else:
            console.print(Text(name, "bold"))
    for term in dict.fromkeys(term for each in shown.values() for term in each.config.terms):
        console.print()
        lines = [
            Curve(each.curves.steps, each.curves.weights[term], each.mark, each.style)
            for each in shown.values()
            if term in each.config.terms
        ]
        heights = np.unique(np.concatenate([line.values for line in lines]))
        is_flat = len(heights) == 1
        console.print(
            Text.assemble((term, "bold"), f"  {heights[0]:.6g} throughout" if is_flat else "")
        )
        for note in _notes(term, shown):
            console.print(Text(f"  {note}", "dim"))
        if not is_flat:
            for row in panel(lines, last, width, unicode=unicode, in_marks=len(shown) > 1):
                console.print(row)
    lengths = {name: Horizon(c.total_steps, c.steps_per_epoch) for name, c in configs.items()}
    if unbounded := [name for name, length in lengths.items() if not length.is_bounded]:
        console.print()
        console.print(
            f"{', '.join(unbounded)}: how long training takes is not known; drawn as far as the "
            "schedules move (say it with --total-steps)"
        )


def _curves(name: str, config: LossConfig) -> Curves:
    try:
        return Curves.of(config, points=_POINTS)
    except HorizonError as error:
        raise HorizonError(f"{name}: {error}") from None


def _notes(term: str, shown: Mapping[str, Shown]) -> list[str]:
    """What the curves of a term do not show, a line each, with the configs it is said of."""
    told: dict[str, list[str]] = {}
    for name, each in shown.items():
        note = steered_by(each.config, each.curves, term)
        if note:
            told.setdefault(note, []).append(name)
    return [
        note if len(names) == len(shown) else f"{', '.join(names)}: {note}"
        for note, names in told.items()
    ]


def steered_by(config: LossConfig, curves: Curves, term: str) -> str:
    """What multiplies the weight of a term in training; empty for what is drawn in full."""
    if term not in config.terms:
        return "has no such term"
    if term not in curves.adaptive:
        return ""
    declared = config.terms[term]
    factors = []
    if declared.controller is not None:
        factors.append(f"the controller {declared.controller.kind}")
    if config.balancer is not None and declared.is_balanced:
        factors.append(f"the balancer {config.balancer.kind}")
    return f"times what {' and '.join(factors)} finds in training"
