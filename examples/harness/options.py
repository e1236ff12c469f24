"""Command-line options that several examples share."""

import argparse
import os
from collections.abc import Callable, Collection, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import NoReturn, TypeVar

Job = TypeVar("Job")


class Parser(argparse.ArgumentParser):
    """Shows a docstring unchanged, and reports errors in one line."""

    def __init__(self, description: str) -> None:
        super().__init__(
            description=description, formatter_class=argparse.RawDescriptionHelpFormatter
        )

    def error(self, message: str) -> NoReturn:
        """End the program with a line."""
        self.exit(2, f"{self.prog}: {'; '.join(message.splitlines())}\n")


def experiment_parser(
    description: str, name: str, configs: Sequence[str]
) -> argparse.ArgumentParser:
    """A parser with the options of every experiment; `read_experiment` adds the others.

    Args:
        description: The docstring of the program.
        name: Name of the program, and of the folder in `runs` where its files go.
        configs: Names of all configs, which are run by default.
    """
    parser = Parser(description)
    parser.add_argument("--quick", action="store_true", help="a few steps of each, in seconds")
    parser.add_argument(
        "--configs",
        nargs="+",
        choices=configs,
        default=list(configs),
        metavar="CONFIG",
        help=f"only these configs ({' '.join(configs)})",
    )
    parser.add_argument("--workers", type=count, default=2, help="parallel processes (2)")
    out = Path("runs") / name
    parser.add_argument("--out", type=Path, default=out, help=f"output folder ({out})")
    return parser


def read_experiment(
    parser: argparse.ArgumentParser,
    try_out: Callable[[str, int], None],
    *,
    seeds: int,
    steps: int,
    quick_steps: int,
    least_steps: int = 1,
    always: Sequence[str] = (),
) -> argparse.Namespace:
    """Read and check the options; a wrong option ends the program with one line.

    The output folder is made.

    Args:
        parser: The result of `experiment_parser`; it may have more options.
        try_out: Called with each config and the steps; raises if they cannot be used.
        seeds: Default number of seeds; 1 with `--quick`.
        steps: Default steps of each run.
        quick_steps: Default steps with `--quick`.
        least_steps: The smallest number of steps allowed.
        always: Configs that are always run.
    """
    parser.add_argument("--seeds", type=count, help=f"number of seeds ({seeds}; 1 with --quick)")
    parser.add_argument(
        "--steps",
        type=partial(whole_number, least_steps, 1_000_000),
        help=f"steps of each run ({steps}; {quick_steps} with --quick)",
    )
    options = parser.parse_args()
    options.seeds = options.seeds or (1 if options.quick else seeds)
    options.steps = options.steps or (quick_steps if options.quick else steps)
    for config in (*options.configs, *always):
        try:
            try_out(config, options.steps)
        except OSError as error:  # of a file that the message names
            parser.error(str(error))
        except (ValueError, RuntimeError) as error:
            parser.error(f"{config}: {error}")
    make_folder(parser, options.out)
    return options


def config_file(folder: Path, known: Sequence[str], config: str) -> Path:
    """The file of a config, from its path or, if it is a known one in the folder, its name."""
    path = folder / f"{config}.yaml" if config in known else Path(config)
    if not path.is_file():
        raise argparse.ArgumentTypeError(
            f"{config!r} is neither a file nor one of {', '.join(known)}"
        )
    return path


def check_runs(
    parser: argparse.ArgumentParser,
    configs: Sequence[Path],
    runs: Sequence[Job],
    try_out: Callable[[Job], None],
    out: Path,
) -> None:
    """Make the output folder, or end the program if the folder or a run cannot be used.

    Args:
        parser: Ends the program, with one line.
        configs: Files of configs. Their names must differ.
        runs: The runs to try out.
        try_out: Called with each run. It raises an error if the run cannot be used.
        out: The folder.
    """
    names = [config.stem for config in configs]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        parser.error(f"--configs: more than one has the name {', '.join(repeated)}")
    try:
        for run in runs:
            try_out(run)
    except (OSError, ValueError, RuntimeError) as error:
        parser.error(str(error))
    make_folder(parser, out)


def make_folder(parser: argparse.ArgumentParser, out: Path) -> None:
    """Make the output folder, or end the program if the folder cannot be made or written to."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out: cannot make the folder: {error}")
    if not os.access(out, os.W_OK | os.X_OK):
        parser.error(f"--out: no permission to write to {out}: choose another folder")


def check_terms(
    terms: Collection[str], needed: Sequence[str], optional: Sequence[str] = ()
) -> None:
    """Check that a config has the terms that a program needs, beside those that it may have.

    Raises:
        ValueError: If it lacks one. The message says what to write, and instead of which name.
    """
    for name in needed:
        if name in terms:
            continue
        known = f"(the terms are {', '.join(map(repr, needed))})"
        others = [term for term in terms if term not in (*needed, *optional)]
        if nearest := get_close_matches(name, others, n=1, cutoff=0.0):
            raise ValueError(
                f"{nearest[0]!r} is not a term of this program: write {name!r} instead at "
                f"loss.terms {known}"
            )
        raise ValueError(f"no term {name!r}: write {name}: 1.0 at loss.terms {known}")


def whole_number(least: int, most: int, text: str) -> int:
    """A number from `least` to `most`."""
    if not text.isdecimal() or not least <= int(text) <= most:
        raise argparse.ArgumentTypeError(
            f"a whole number from {least} to {most} is needed, found {text!r}"
        )
    return int(text)


count = partial(whole_number, 1, 1000)
