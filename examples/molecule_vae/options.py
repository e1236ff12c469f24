"""What to run: the options on the command line, and the runs that they make."""

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
import yaml

from harness.options import Parser, check_runs, check_terms, config_file, count, whole_number
from lossweights import LossConfig, WeightedLoss

PROGRAM = Path(__file__).parents[1] / "molecules.py"
FOLDER = PROGRAM.with_suffix("")  # of the configs
LABELS = FOLDER / "with-labels.yaml"
CONFIGS = (
    "constant",
    "monotonic",
    "cyclical-linear",
    "cyclical-cosine",
    "cyclical-sigmoid",
    "cyclical-low",
    "long-ramp",
    "pid-5",
    "pid-10",
    "pid-20",
)
DEMO = ("constant", "cyclical-linear", "long-ramp", "pid-10")
BATCH_SIZE = 128
# What decides how a run trains, what is measured and what is kept, besides its options.
SOURCES = (
    PROGRAM,
    *(
        Path(__file__).with_name(f"{name}.py")
        for name in ("data", "model", "evaluate", "navigate", "result")
    ),
    *(PROGRAM.parent / "harness" / name for name in ("gaussian.py", "recurrent.py")),
)
PACKAGES = ("lossweights", "molsets", "rdkit", "tokenizers", "torch")


@dataclass(frozen=True)
class Run:
    """One training run: the options that its figures depend on.

    Args:
        config: File of the config, without its name for `with_labels`.
        with_labels: Whether the model has a head that predicts properties.
        seed: Seed of the initialization, of the order of the molecules and of the codes.
        epochs: Passes over the molecules.
        molecules: How many molecules it is trained on.
    """

    config: Path
    with_labels: bool
    seed: int
    epochs: int
    molecules: int
    learning_rate: float = 2e-3

    @property
    def config_name(self) -> str:
        """The config's name is that of its file."""
        return self.config.stem

    @property
    def name(self) -> str:
        """The name of the run on the screen."""
        labels = ", labels" if self.with_labels else ""
        return f"{self.config_name}{labels}, seed {self.seed}"

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches of molecules."""
        return self.molecules // BATCH_SIZE

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.epochs * self.steps_per_epoch

    def read_config(self) -> LossConfig:
        """The config of the loss, with the term of the head if there is one."""
        config = LossConfig.read(self.config, at="loss")
        if self.with_labels:
            return config.override(yaml.safe_load(LABELS.read_text("utf-8")))
        return config

    def file(self, folder: Path) -> Path:
        """The checkpoint of this run. Runs that differ in anything have different files."""
        settings = asdict(self) | {
            "config": self.read_config().model_dump(mode="json"),
            "sources": [source.read_text("utf-8") for source in SOURCES],
            "versions": {name: version(name) for name in PACKAGES},
        }
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
        labels = "-labels" if self.with_labels else ""
        return folder / f"{self.config_name}{labels}-seed{self.seed}-{digest.hexdigest()[:12]}.pt"


@dataclass(frozen=True)
class Options:
    """What the command line sets."""

    runs: list[Run]
    workers: int
    out: Path
    full: bool


def read_options(description: str) -> Options:
    """The options, checked; an option that cannot be used ends the program with one line."""
    parser = Parser(description)
    read = partial(config_file, FOLDER, CONFIGS)
    parser.add_argument(
        "--full", action="store_true", help="all configs, with and without labels, three seeds"
    )
    parser.add_argument(
        "--labels",
        choices=("without", "with", "both"),
        help="train the head that predicts logP and QED (without; both with --full)",
    )
    parser.add_argument("--seeds", type=count, help="how many seeds (1; 3 with --full)")
    parser.add_argument(
        "--epochs", type=count, help="passes over the molecules (5; 10 with --full)"
    )
    parser.add_argument(
        "--configs",
        type=read,
        nargs="+",
        metavar="CONFIG",
        help=f"names ({' '.join(CONFIGS)}) or files of your own ({' '.join(DEMO)})",
    )
    parser.add_argument(
        "--molecules",
        type=partial(whole_number, 1000, 1_500_000),
        default=40_000,
        help="how many to train on (40000)",
    )
    parser.add_argument("--workers", type=count, default=2, help="processes at a time (2)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/molecules"), help="folder (runs/molecules)"
    )
    given = parser.parse_args()

    configs = given.configs or [read(name) for name in (CONFIGS if given.full else DEMO)]
    labels = given.labels or ("both" if given.full else "without")
    runs = [
        Run(config, with_labels, seed, given.epochs or (10 if given.full else 5), given.molecules)
        for seed in range(given.seeds or (3 if given.full else 1))
        for with_labels in {"without": [False], "with": [True], "both": [False, True]}[labels]
        for config in configs
    ]
    check_runs(parser, configs, runs, try_out, given.out)
    return Options(runs, given.workers, given.out, given.full)


def try_out(run: Run) -> None:
    """Weigh made-up terms, so that a config of other terms is refused before the first run."""
    declared = LossConfig.read(run.config, at="loss")  # its errors name the file
    try:
        check_terms(declared.terms, ("reconstruction", "kl"), optional=("property",))
        criterion = WeightedLoss(run.read_config())
        criterion.bind(total_steps=run.total_steps, steps_per_epoch=run.steps_per_epoch)
        names = ["reconstruction", "kl", *(["property"] if run.with_labels else [])]
        criterion.breakdown({name: torch.ones(()) for name in names})
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{run.config}: {error}") from error
