"""Options on the command line that several examples have."""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """Shows the docstring of a program as it is written, and says what is wrong in one line."""

    def __init__(self, description: str) -> None:
        super().__init__(
            description=description, formatter_class=argparse.RawDescriptionHelpFormatter
        )

    def error(self, message: str) -> NoReturn:
        """End the program."""
        self.exit(2, f"{self.prog}: {'; '.join(message.splitlines())}\n")


def experiment_parser(
    description: str, name: str, configs: Sequence[str], seeds: int
) -> argparse.ArgumentParser:
    """A parser with the options that every experiment has.

    Args:
        description: The docstring of the program.
        name: Name of the program, and of the folder in `runs` where its files go.
        configs: Names of all configs, which are run where none is asked for.
        seeds: How many seeds are run where nothing is said.
    """
    parser = Parser(description)
    parser.add_argument("--quick", action="store_true", help="a few steps of each, in seconds")
    parser.add_argument(
        "--configs",
        nargs="+",
        choices=configs,
        default=list(configs),
        metavar="CONFIG",
        help=f"some of them only ({' '.join(configs)})",
    )
    parser.add_argument(
        "--seeds", type=count, help=f"how many runs of each ({seeds}; 1 with --quick)"
    )
    parser.add_argument("--workers", type=count, default=2, help="processes at a time (2)")
    out = Path("runs") / name
    parser.add_argument("--out", type=Path, default=out, help=f"folder of the files ({out})")
    return parser


def whole_number(least: int, most: int, text: str) -> int:
    """A number from `least` to `most`."""
    if not text.isdecimal() or not least <= int(text) <= most:
        raise argparse.ArgumentTypeError(
            f"a whole number from {least} to {most} is needed, found {text!r}"
        )
    return int(text)


count = partial(whole_number, 1, 1000)
