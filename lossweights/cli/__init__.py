"""The command line: `lossweights`, or `python -m lossweights`."""

from __future__ import annotations

import io
import sys
import warnings

_EXTRA = ("typer", "rich", "yaml", "pylatexenc")


def main() -> None:
    """Runs the command that `sys.argv` names, and ends the process.

    Exit status 0: all is well; 1: something was refused, which standard error says; 2: the command
    was called wrongly.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without unicode is no error
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        from lossweights.cli.app import app  # noqa: PLC0415  # an extra
    except ModuleNotFoundError as error:
        lacking = str(error.name).partition(".")[0]
        if lacking not in _EXTRA:
            raise
        sys.exit(f"the command line needs {lacking}: pip install 'lossweights[cli]'")
    app()
