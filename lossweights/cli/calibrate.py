"""`lossweights calibrate`: weights from a recorded training."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from lossweights.cli import common
from lossweights.errors import HorizonError

_FORMATS = (".yaml", ".yml")


def _share(written: str) -> tuple[str, float]:
    name, equals, share = written.rpartition("=")
    try:
        if equals:
            return name.strip(), float(share)
    except ValueError:
        pass
    raise typer.BadParameter(
        f"{written!r}: write NAME=SHARE, as in kl=0.1", param_hint="'--shares'"
    )


def calibrate(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="The file of a history: History(..., path=RUN)."),
    ],
    config: Annotated[
        str, typer.Argument(metavar="CONFIG", help="The config of that training, as in `check`.")
    ],
    at: common.At = None,
    total_steps: common.TotalSteps = None,
    total: common.Total = None,
    steps_per_epoch: common.StepsPerEpoch = None,
    shares: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=SHARE",
            help="The share of a term: kl=0.1. May be repeated. By default they are equal.",
        ),
    ] = None,
    by: Annotated[
        Literal["gradients", "values"] | None,
        typer.Option(help="What the shares are of. By default gradients, if they were recorded."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the proposed config to this .yaml file too."),
    ] = None,
    _imports: common.Imports = None,
) -> None:
    """Propose weights from a recorded training.

    Shows how large each term was, and how the gradients of two terms agree. Proposes fixed
    weights for equal shares, and says whether fixed weights are enough.

    \b
    Examples:
      lossweights calibrate run.jsonl train.yaml
      lossweights calibrate run.jsonl train.yaml --shares kl=0.1 --by values
      lossweights calibrate run.jsonl experiment.yaml:annealed.loss --total-steps 40000
      lossweights calibrate run.jsonl train.yaml --out calibrated.yaml
    """
    if out is not None and out.suffix.lower() not in _FORMATS:
        raise typer.BadParameter(f"{str(out)!r}: write a name that ends in .yaml")
    wanted = dict(map(_share, shares or ()))
    from lossweights import analysis  # noqa: PLC0415  # it imports torch
    from lossweights.config.files import as_yaml  # noqa: PLC0415

    try:
        lengths = common.lengths(total_steps, total, steps_per_epoch)
        name, criterion, _ = common.read(config, at, lengths)
        found = analysis.calibrate(run, criterion.config, wanted, by=by)
    except HorizonError as error:
        problem = str(error).removesuffix("; pass horizon=Horizon(...)")
        common.fail_without_length(name, HorizonError(problem))
    except OSError as error:
        common.fail(f"{run} cannot be read: {error.strerror}")
    except ValueError as error:
        common.fail(str(error))
    common.say(str(found))
    if out is not None:
        data = found.config.model_dump(mode="json", exclude_defaults=True)
        data["terms"] = {key: {"weight": 1.0} | term for key, term in data["terms"].items()}
        common.save(out, f"{as_yaml(data)}\n".encode())
