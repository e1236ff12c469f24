"""Do fixed weights from a short training hold up in a whole training?

A probe is the first 5% of a training with equal weights, with a `History` that records values and
gradients of the terms. From it `calibrate` proposes fixed weights that give the terms equal shares
of the gradients or of the loss. The training then starts again with these weights. The result is
compared with equal weights, weights chosen by hand and an adaptive method, on four problems of the
other examples: five tasks on one trunk, a physics-informed network, a VAE of pronunciations and a
VAE of sprites.

    python examples/calibration.py             # all, five seeds: a hundred trainings
    python examples/calibration.py --quick     # a few steps of each: about a minute
    python examples/calibration.py --problems equation --ways equal by-gradients --seeds 1
    python examples/calibration.py --tune      # the search for weights by hand of the five tasks

Configs are sections of `calibration.yaml`, next to this program. `probe` and `train` are the parts
to read.
"""

import argparse
from itertools import islice
from pathlib import Path
from typing import Literal

import yaml
from rich.console import Console

from calibrated import report, tuning
from calibrated.problems import CONFIGS, PROBLEMS, Problem
from harness.options import Parser, count
from harness.workers import Show, run_in_parallel, run_program
from lossweights import History, LossConfig, WeightedLoss
from lossweights.analysis import calibrate

SEEDS, QUICK_STEPS = 5, 40
PROBE = 0.05  # of the steps
MEASUREMENTS = 20
CALIBRATED: dict[str, Literal["gradients", "values"]] = {
    "by-gradients": "gradients",
    "by-values": "values",
}


def probe(problem: Problem, config: LossConfig, seed: int, steps: int) -> History:
    """Record values and gradients of the terms in the first part of a training."""
    criterion = WeightedLoss(config).bind(total_steps=steps)
    probed = max(MEASUREMENTS, round(PROBE * steps))
    every = f"{max(1, probed // MEASUREMENTS)} steps"
    history = History(criterion, every=every, gradients=every)
    training, _ = problem.start(seed, steps)
    for _ in islice(training(criterion), probed):
        pass
    history.close()
    return history


def train(job: report.Job, show: Show) -> report.Result:
    """Train one model and measure it."""
    problem = PROBLEMS[job.problem]
    steps = job.steps or problem.steps
    by = CALIBRATED.get(job.way)
    config = LossConfig.read(CONFIGS, at=f"{job.problem}.{'equal' if by else job.way}")
    verdict: tuple[str, ...] = ()
    if by:
        calibration = calibrate(probe(problem, config, job.seed, steps), config, by=by)
        config, verdict = calibration.config, calibration.verdict

    training, measure = problem.start(job.seed, steps)
    for step, _ in enumerate(training(WeightedLoss(config).bind(total_steps=steps)), start=1):
        show(step, steps, "")
    weights = {name: term.weight for name, term in config.terms.items()}
    return report.Result(job, dict(measure()), weights, verdict)


def main() -> None:
    """Train every problem with every weighting, then compare."""
    options = read_options()
    options.out.mkdir(parents=True, exist_ok=True)
    console = Console()
    if options.tune:
        front = tuning.tune(options.out / "tuning.db", quick=options.quick)
        console.print(front.table(), soft_wrap=True)
        return

    sections = yaml.safe_load(CONFIGS.read_text("utf-8"))
    steps = QUICK_STEPS if options.quick else None
    jobs = [
        report.Job(problem, way, seed, steps)
        for seed in range(options.seeds or (1 if options.quick else SEEDS))
        for problem in options.problems
        for way in [*sections[problem], *CALIBRATED]
        if way in (options.ways or [way])
    ]
    results = run_in_parallel(train, {job.name: job for job in jobs}, options.workers)
    for problem in options.problems:
        of_problem = [result for result in results if result.job.problem == problem]
        console.print("", report.table(of_problem, PROBLEMS[problem]))
        console.print(report.verdicts(of_problem))
        file = options.out / f"{problem}.md"
        console.print(report.save_table(of_problem, PROBLEMS[problem], file), soft_wrap=True)
    console.print(report.save_figures(results, options.out / "figures.json"), soft_wrap=True)


def read_options() -> argparse.Namespace:
    """The options on the command line."""
    parser = Parser(__doc__ or "")
    parser.add_argument("--quick", action="store_true", help="a few steps of each training")
    parser.add_argument(
        "--problems",
        nargs="+",
        choices=list(PROBLEMS),
        default=list(PROBLEMS),
        metavar="PROBLEM",
        help=f"only these problems ({' '.join(PROBLEMS)})",
    )
    parser.add_argument(
        "--ways",
        nargs="+",
        metavar="WAY",
        help=f"only these weightings (configs of the problem, {' '.join(CALIBRATED)})",
    )
    parser.add_argument("--seeds", type=count, help=f"number of seeds ({SEEDS}; 1 with --quick)")
    parser.add_argument("--tune", action="store_true", help="search for weights of the five tasks")
    parser.add_argument("--workers", type=count, default=2, help="parallel processes (2)")
    out = Path("runs/calibration")
    parser.add_argument("--out", type=Path, default=out, help=f"output folder ({out})")
    options = parser.parse_args()
    sections = yaml.safe_load(CONFIGS.read_text("utf-8"))
    known = {way for problem in options.problems for way in sections[problem]} | {*CALIBRATED}
    for way in options.ways or []:
        if way not in known:
            parser.error(f"--ways: no problem has the way {way!r}; known: {sorted(known)}")
    return options


if __name__ == "__main__":
    run_program(main)
