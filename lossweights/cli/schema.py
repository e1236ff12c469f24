"""`lossweights schema`: the JSON schema with which editors complete and check configs."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

import lossweights
from lossweights.cli import common

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema(
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The file to write; printed by default.")
    ] = None,
    at: Annotated[
        str | None, typer.Option(metavar="PATH", help="Dotted path of the config in your files.")
    ] = None,
    _imports: common.Imports = None,
) -> None:
    """Write the JSON schema for your editor.

    With it an editor completes and checks configs. It covers all registered kinds, including
    those of plug-ins and --import.

    \b
    Examples:
      lossweights schema --out loss.schema.json
      lossweights schema --at training.loss --out experiment.schema.json
      lossweights schema --import my_schedules --out loss.schema.json

    \b
    Refer to it in the first line of a YAML file:
      # yaml-language-server: $schema=loss.schema.json
    or as a key at the top of a JSON file:
      "$schema": "./loss.schema.json"
    """
    text = json.dumps(schema_at(at), indent=2)
    if out is None:
        typer.echo(text)
    else:
        common.save(out, f"{text}\n".encode())
        typer.echo(f"Begin your YAML files with:\n# yaml-language-server: $schema={out.as_posix()}")


def schema_at(at: str | None) -> dict[str, Any]:
    """The schema of files with a config at a dotted path; the rest of the file is not checked."""
    part = lossweights.LossConfig.model_json_schema()
    definitions = part.pop("$defs")
    for key in reversed(at.split(".") if at else ()):
        part = {"type": "object", "properties": {key: part}}
    return {"$schema": _DIALECT, **part, "$defs": definitions}
