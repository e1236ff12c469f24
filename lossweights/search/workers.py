"""The trials of a sweep: one after the other in a process, and in several processes."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lossweights.config.loss_config import LossConfig
from lossweights.errors import ConfigError, shown
from lossweights.search import study as queue
from lossweights.search.ranges import Varied, stored
from lossweights.search.study import Studies

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess
    from multiprocessing.process import BaseProcess

    from optuna import Trial
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

_FIRST = 3  # configs: if all of them fail, the sweep stops
_POLL = 0.5  # seconds between two looks at the processes


@dataclass(frozen=True)
class Plan:
    """What every process of a sweep knows.

    Args:
        train: The function of the user.
        config: The unchanged config.
        varied: What varies.
        objectives: Names of the measures, in the order of the study.
        seeds: Of each config.
        total: How many configs there are.
        sampler: Of Optuna; None for its default.
        pruner: Of Optuna; None for its default.
    """

    train: Callable[..., Mapping[str, Any]]
    config: LossConfig
    varied: Sequence[Varied]
    objectives: Sequence[str]
    seeds: Sequence[int]
    total: int
    sampler: BaseSampler | None = None
    pruner: BasePruner | None = None


class TrialFailed(Exception):  # noqa: N818  # it is no error of ours
    """A training failed; the message is the reason."""


def work(plan: Plan, studies: Studies, seen: Callable[[], None], *, workers: int = 1) -> None:
    """Trains the configs of the queue until it is empty, or the sweep has stopped."""
    import optuna  # noqa: PLC0415

    for study in studies:
        while (number := queue.waiting(study)) is not None and not has_stopped(studies, plan.total):
            if plan.sampler is None:
                # By the number, a sweep of one worker is the same if it is interrupted.
                is_alone = workers == 1 and not queue.is_running(study)
                study.sampler = optuna.samplers.TPESampler(seed=number if is_alone else None)
            try:
                study.optimize(
                    lambda trial: _objective(plan, trial, seen), n_trials=1, catch=(TrialFailed,)
                )
            except (ValueError, optuna.exceptions.UpdateFinishedTrialError) as error:
                # Another process took this one for dead, and repeats its trial.
                if isinstance(error, ValueError) and not str(error).startswith("Cannot tell a "):
                    raise
            seen()


def has_stopped(studies: Studies, total: int) -> bool:
    """Whether the first configs have all failed."""
    from optuna.trial import TrialState  # noqa: PLC0415

    ended = [trial for trial in studies.trials() if trial.state.is_finished()]
    failed = [trial for trial in ended if trial.state == TrialState.FAIL and queue.reason(trial)]
    return len(failed) == len(ended) >= min(_FIRST, total)


def _objective(plan: Plan, trial: Trial, seen: Callable[[], None]) -> list[float]:
    """The means of the objectives over seeds; each seed is stored when it is done."""
    import optuna  # noqa: PLC0415

    slot = trial.user_attrs.get("slot")
    if slot is None:  # the queue ended between the look at it and the trial
        raise TrialFailed("the queue is empty")
    trial.set_user_attr("process", queue.named())
    trial.set_user_attr("reason", None)
    if queue.is_duplicate(trial.study, trial.number):
        trial.set_user_attr("duplicate", 1)
        raise TrialFailed("another trial has this config")
    try:
        config = plan.config
        if slot:
            try:
                config = config.override({each.path: each.suggest(trial) for each in plan.varied})
            except ConfigError as error:
                raise TrialFailed(f"the config is refused: {error}") from None
        trial.set_user_attr("config", stored(config))
        results = []
        for seed in plan.seeds:
            key = f"seed {seed}"
            if key not in trial.user_attrs:
                report = _report(trial, may_prune=bool(slot) and seed == plan.seeds[0])
                found = _trained(plan, config, seed, report)
                trial.set_user_attr(key, found)
                seen()
            results.append(trial.user_attrs[key])
    except TrialFailed as failure:
        trial.set_user_attr("reason", str(failure))
        raise
    except optuna.TrialPruned as pruned:
        trial.set_user_attr("reason", str(pruned))
        raise
    # Not the sum divided by their number, which may be too large.
    n = len(results)
    return [math.fsum(each[name] / n for each in results) for name in plan.objectives]


def _report(trial: Trial, *, may_prune: bool) -> Callable[[int, float], None]:
    import optuna  # noqa: PLC0415

    def report(step: int, value: float) -> None:
        if may_prune and len(trial.study.directions) == 1:
            trial.report(float(value), int(step))
            if trial.should_prune():
                raise optuna.TrialPruned(f"pruned at step {step}, at {float(value):.4g}")

    return report


def _trained(
    plan: Plan, config: LossConfig, seed: int, report: Callable[[int, float], None]
) -> dict[str, float]:
    """The measures of a training.

    Raises:
        TrialFailed: If the training fails, or returns something else.
    """
    import optuna  # noqa: PLC0415

    try:
        found = plan.train(config, seed, report)
    except optuna.TrialPruned:
        raise
    except (Exception, SystemExit) as error:
        raise TrialFailed(f"seed {seed}: {_told(error)}{_line_of(error)}") from error
    usage = "return a mapping of numbers such as {'nll': 14.8}"
    if not isinstance(found, Mapping):
        raise TrialFailed(f"seed {seed}: train returned {shown(found)}: {usage}")
    measures = {}
    for name, value in found.items():
        number = _number(value)
        if number is None or not isinstance(name, str):
            raise TrialFailed(
                f"seed {seed}: train returned {shown(value)} as {shown(name)}: {usage}"
            )
        measures[name] = number
    for name in plan.objectives:
        if name not in measures:
            raise TrialFailed(
                f"seed {seed}: train returned no {name!r}, which is an objective, "
                f"but {', '.join(map(repr, measures)) or 'nothing'}"
            )
        if not math.isfinite(measures[name]):
            raise TrialFailed(f"seed {seed}: {name} is {measures[name]}")
    return measures


def _number(value: Any) -> float | None:
    """A number, also of a tensor with its graph; None if it is none."""
    if isinstance(value, str | bool):
        return None
    try:
        return float(value.detach() if hasattr(value, "detach") else value)
    except (TypeError, ValueError, RuntimeError, OverflowError):  # of tensors, and of 10**400
        return None


def _told(error: BaseException) -> str:
    """The type and the message of an error."""
    try:
        return f"{type(error).__name__}: {error}".rstrip(": ")
    except Exception:  # noqa: BLE001  # of the user's __str__
        return type(error).__name__


def _line_of(error: BaseException) -> str:
    """The last line of the user's code in a traceback."""
    inside = (sys.prefix, str(Path(__file__).parents[1]), str(Path(os.__file__).parent))
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith((*inside, "<frozen"))]
    return f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""


def run_processes(
    plan: Plan,
    storage: str,
    name: str,
    studies: Studies,
    workers: int,
    seen: Callable[[], None],
) -> None:
    """Works through the queue in several processes; one that ends too early is replaced.

    Raises:
        RuntimeError: If the processes end before they train.
    """
    import torch  # noqa: PLC0415
    from optuna.trial import TrialState  # noqa: PLC0415

    threads = max(1, torch.get_num_threads() // workers)
    context = multiprocessing.get_context("spawn")
    processes: list[SpawnProcess] = []
    deaths: Counter[int] = Counter()
    useless = ended = 0
    try:
        while True:
            unclear = studies.release(deaths)
            states = Counter(trial.state for trial in studies.trials())
            is_stopped = has_stopped(studies, plan.total)
            queued = 0 if is_stopped else states[TrialState.WAITING]
            most = min(workers, queued + states[TrialState.RUNNING]) if queued else 0
            while len(processes) < most:
                process = context.Process(
                    target=_process, args=(plan, storage, name, threads, workers)
                )
                process.start()
                processes.append(process)
            if not processes and not queued and not (unclear and not is_stopped):
                return
            if processes:
                wait([process.sentinel for process in processes], _POLL)
            else:
                time.sleep(_POLL)
            for process in [each for each in processes if not each.is_alive()]:
                processes.remove(process)
                useless += process.exitcode != 0
            finished = sum(trial.state.is_finished() for trial in studies.trials())
            useless, ended = (0 if finished > ended else useless), finished
            if useless >= 3 * workers:
                raise RuntimeError(
                    f"{useless} processes ended one after the other, the last with status "
                    f"{process.exitcode}: see their messages above. A script that calls sweep with "
                    "workers needs to do so under `if __name__ == '__main__':`"
                )
            seen()
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(5)
            process.kill()
            process.join()
        studies.release(Counter())


def _process(plan: Plan, storage: str, name: str, threads: int, workers: int) -> None:
    import torch  # noqa: PLC0415

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this
    parent = multiprocessing.parent_process()
    assert parent is not None  # noqa: S101
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(threads)
    with queue.quiet():
        studies, _ = queue.load_studies(queue.open_storage(storage), name)
        set_up(plan, studies)
        if plan.sampler is not None:
            plan.sampler.reseed_rng()
        work(plan, studies, lambda: None, workers=workers)


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


def set_up(plan: Plan, studies: Studies) -> None:
    """Gives the studies their sampler and pruner."""
    import optuna  # noqa: PLC0415

    if plan.sampler is not None:
        studies.varied.sampler = plan.sampler
    studies.varied.pruner = plan.pruner or optuna.pruners.MedianPruner()
