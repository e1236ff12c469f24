"""The command line: `lossweights`, or `python -m lossweights`."""

import io
import sys
import warnings

_EXTRA = ("typer", "rich", "yaml", "plotext", "docstring_parser")


def main() -> None:
    """Runs the command in `sys.argv` and exits.

    The exit status is 0 on success, 1 if a config was refused or a file could not be written, and
    2 if the command was called wrongly. Messages go to standard error.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # the terminal may lack unicode
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        from lossweights.cli.app import app  # noqa: PLC0415  # an extra

        app()
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        if missing not in _EXTRA:
            raise
        sys.exit(f"the command line needs {missing}: pip install 'lossweights[cli]'")
