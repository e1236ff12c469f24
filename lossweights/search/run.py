"""`sweep`: trains many configs under the same seeds, by Optuna."""

from __future__ import annotations

import os
import pickle
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from numbers import Integral
from typing import TYPE_CHECKING, Any

from lossweights.config.loss_config import LossConfig
from lossweights.errors import shown
from lossweights.search import study as queue
from lossweights.search.front import Front
from lossweights.search.ranges import grid, read_vary, stored
from lossweights.search.workers import Plan, has_stopped, run_processes, set_up, work

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

    from lossweights.search.study import Studies


def sweep(
    config: LossConfig | Mapping[str, Any] | str | os.PathLike[str],
    train: Callable[..., Mapping[str, Any]],
    *,
    vary: Mapping[str, Any],
    minimize: Sequence[str] = (),
    maximize: Sequence[str] = (),
    trials: int,
    seeds: int | Sequence[int] = 1,
    storage: str | os.PathLike[str] | None = None,
    name: str = "sweep",
    workers: int = 1,
    sampler: BaseSampler | None = None,
    pruner: BasePruner | None = None,
    at: str | None = None,
    progress: bool = True,
) -> Front:
    """Trains configs that differ in a few values, each with the same seeds, and compares them.

    Samplers, pruners, storages and the queue are those of Optuna. The unchanged config is always
    number 0. The same call resumes a sweep, and a larger `trials` extends it.

    Args:
        config: What `LossConfig.read` accepts.
        train: Called as `train(config, seed, report)`. It returns measures by name, such as
            `{"nll": 14.8, "probe": 0.27}`. With one objective, `report(step, value)` during the
            first seed lets the pruner end a training early; with several it does nothing.
        vary: By path of `LossConfig.override`: a range `(low, high)` or `(low, high, "log")`, of
            numbers (whole ones, if both ends are) or of durations such as `("5%", "60%")`, or a
            list of choices, which may be any part of a config.
        minimize: Names of measures that should be small.
        maximize: Names of measures that should be large.
        trials: How many configs are tried besides the unchanged one. If only lists vary and there
            are no more combinations than this, each is tried once.
        seeds: A number n, for the seeds 0 to n - 1, or a list of seeds.
        storage: A file that ends in `.db` (SQLite) or `.journal`, or the address of a database.
            None keeps the sweep in memory.
        name: Name of the sweep in its storage.
        workers: Number of processes on this machine. With several, `train` must be a function that
            they can import.
        sampler: A sampler of Optuna; by default Optuna's own, seeded.
        pruner: A pruner of Optuna, for one objective; by default `MedianPruner`.
        at: Dotted path to the config, if it is a part of a file or mapping.
        progress: Whether to show a bar.

    Raises:
        ConfigError: If the config, a path or a value is refused; one line each.
        ValueError: If an argument is wrong, or the storage has another sweep of this name.
        RuntimeError: If the first configs fail, three or all; it says why.
        ImportError: Without the extra `sweep`.

    >>> def train(config, seed, report):
    ...     weight = config.terms["kl"].weight
    ...     return {"nll": weight + 0.01 * seed, "kl": 1 / weight}
    >>> front = sweep(
    ...     {"terms": {"nll": 1.0, "kl": 1.0}}, train, vary={"kl.weight": [0.5, 2.0]},
    ...     minimize=["nll", "kl"], trials=2, seeds=2, progress=False,
    ... )  # fmt: skip
    >>> [outcome.number for outcome in front.points]
    [0, 1, 2]
    """
    queue.need_optuna()
    if not callable(train):
        raise ValueError(
            f"train: a function of (config, seed, report) is needed, found {shown(train)}"
        )
    read = LossConfig.read(config, at)
    varied = read_vary(vary, read)
    chosen = _seeds(seeds)
    objectives = _objectives(minimize, maximize)
    _check_parts(sampler, pruner)
    for what, value in (("trials", trials), ("workers", workers)):
        if not _is_whole(value) or value < 1:
            raise ValueError(f"{what}: a whole number from 1 on is needed, found {shown(value)}")
    trials, workers = int(trials), int(workers)
    settings = {
        "config": stored(read),
        "vary": {each.path: str(each) for each in varied},
        "minimize": [*minimize],
        "maximize": [*maximize],
        "seeds": chosen,
    }
    if workers > 1 and storage is None:
        raise ValueError("several workers share a storage: write storage='sweep.db'")
    if workers > 1:
        _check_importable(train)
    with queue.quiet():
        studies = queue.open_studies(queue.open_storage(storage), name, settings)
        combinations = grid(varied, read, most=trials)
        wanted = _wanted(studies, combinations, trials, sampler)
        plan = Plan(
            train, read, varied, objectives, chosen, len(wanted), sampler=sampler, pruner=pruner
        )
        set_up(plan, studies)
        again = has_stopped(studies, plan.total)
        queue.fill(studies.unchanged, {0: None}, failed=again)
        queue.fill(studies.varied, {s: p for s, p in wanted.items() if s}, failed=again)
        with _bar(plan, studies, settings, name) if progress else nullcontext(lambda: None) as seen:
            if workers > 1 and storage is not None:
                run_processes(plan, os.fspath(storage), name, studies, workers, seen)
            else:
                _run_here(plan, studies, seen)
        if has_stopped(studies, plan.total):
            failed = "\n".join(
                f"  config {trial.user_attrs['slot']}: {queue.reason(trial)}"
                for trial in studies.trials()
                if queue.reason(trial)
            )
            raise RuntimeError(f"the sweep stopped, because its first configs failed:\n{failed}")
        return Front.of(studies.trials(), settings, name)


def _run_here(plan: Plan, studies: Studies, seen: Callable[[], None]) -> None:
    deaths: Counter[int] = Counter()
    while True:
        unclear = studies.release(deaths)
        work(plan, studies, seen)
        if not unclear or has_stopped(studies, plan.total):
            return
        time.sleep(1)


def _check_parts(sampler: object, pruner: object) -> None:
    from optuna.pruners import BasePruner  # noqa: PLC0415
    from optuna.samplers import BaseSampler  # noqa: PLC0415

    if sampler is not None and not isinstance(sampler, BaseSampler):
        raise ValueError(
            "sampler: an object of Optuna is needed, such as optuna.samplers.TPESampler(), found "
            f"{shown(sampler)}"
        )
    if pruner is not None and not isinstance(pruner, BasePruner):
        raise ValueError(
            "pruner: an object of Optuna is needed, such as optuna.pruners.MedianPruner(), found "
            f"{shown(pruner)}"
        )


def _objectives(minimize: Sequence[str], maximize: Sequence[str]) -> list[str]:
    for what, names in (("minimize", minimize), ("maximize", maximize)):
        # Not a set: its order may be another one when the sweep is resumed.
        is_list = isinstance(names, list | tuple)
        if not is_list or not all(isinstance(each, str) for each in names):
            example = f"[{shown(names)}]" if isinstance(names, str) else "['nll', 'kl']"
            raise ValueError(f"{what}: write a list of names, {example}, found {shown(names)}")
    found = [*minimize, *maximize]
    if not found:
        raise ValueError(
            "a sweep needs an objective: write minimize=[...] or maximize=[...] "
            "(--minimize, --maximize)"
        )
    for each in found:
        if found.count(each) > 1:
            raise ValueError(f"the objective {each!r} is given twice: keep one")
        if each == "total" or each.startswith("weighted/"):
            raise ValueError(
                f"{each!r} cannot be an objective: it has the weights in it, which the sweep "
                "changes, so the smallest weight would win; compare a measure that every config "
                "computes alike, such as the raw value of a term or a validation score"
            )
    return found


def _seeds(seeds: Any) -> list[int]:
    found = list(range(seeds)) if _is_whole(seeds) else seeds
    is_sequence = isinstance(found, Iterable) and not isinstance(found, str)
    found = list(found) if is_sequence else []
    if not found or not all(map(_is_whole, found)) or len(set(found)) < len(found):
        raise ValueError(
            f"seeds: a number of at least 1, or a list of different seeds, found {shown(seeds)}"
        )
    return [int(each) for each in found]


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _wanted(
    studies: Studies,
    combinations: list[dict[str, Any]] | None,
    trials: int,
    sampler: BaseSampler | None,
) -> dict[int, dict[str, Any] | None]:
    """The parameters by number of config; None for the unchanged config and those sampled."""
    known = queue.latest_by_slot(studies.varied)
    wanted: dict[int, dict[str, Any] | None] = {0: None}
    if sampler is None and combinations is not None:
        fixed = {
            slot: trial.system_attrs.get("fixed_params", trial.params)
            for slot, trial in known.items()
        }
        rest = [each for each in combinations if each not in fixed.values()]
        new = dict(enumerate(rest, start=max(known, default=0) + 1))
        return wanted | dict.fromkeys(known) | new
    if len(known) > trials:
        raise ValueError(
            f"trials: the sweep has {len(known)} already, besides the unchanged config; "
            f"write trials={len(known)} or more, or another name="
        )
    return wanted | dict.fromkeys(range(1, trials + 1))


def _check_importable(train: Callable[..., Any]) -> None:
    """Refuses a function that other processes cannot import."""
    usage = "write it at the top level of a module, such as experiment.py, and import it"
    try:
        pickle.dumps(train)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(f"several workers import train, and cannot: {error}; {usage}") from None
    main = sys.modules["__main__"]
    if getattr(train, "__module__", "") == "__main__" and not hasattr(main, "__file__"):
        raise ValueError(
            f"several workers import train, and cannot: {shown(train)} is from an interactive "
            f"session; {usage}"
        )


@contextmanager
def _bar(
    plan: Plan, studies: Studies, settings: Mapping[str, Any], name: str
) -> Iterator[Callable[[], None]]:
    """Shows a bar of the trainings; yields the function that draws it again."""
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("trainings", total=plan.total * len(plan.seeds))

        def draw() -> None:
            front = Front.of(studies.trials(), settings, name)
            over = [each for each in front.outcomes if each.state in ("done", "failed", "pruned")]
            trained = [len(each.results) for each in front.outcomes if each not in over]
            text = f"trainings; {len(over)} configs of {plan.total}"
            if failed := sum(each.state == "failed" for each in over):
                text += f", {failed} failed"
            if len(plan.objectives) > 1:
                text += f"; {len(front.points)} on the front"
            elif front.points:
                measure = plan.objectives[0]
                text += f"; best {measure} {front.best.mean(measure):.4g}"
            done = len(over) * len(plan.seeds) + sum(trained)
            progress.update(task, completed=done, description=text)

        draw()
        yield draw
        draw()
