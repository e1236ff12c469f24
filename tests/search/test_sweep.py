"""A sweep trains what it should, once, stores it, and resumes."""

from __future__ import annotations

import math
import socket
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch

from lossweights import Front, LossConfig, sweep
from lossweights.search import study as queue
from tests.search.trainings import CONFIG, RANGE, trade

LISTS = {"kl.weight": [0.5, 1.0], "kl.schedule.cycles": [1, 2, 4]}


def run(train: Any = trade, **changed: Any) -> Front:
    """A sweep with two objectives, three trials and two seeds, unless changed."""
    options: dict[str, Any] = {
        "vary": RANGE,
        "minimize": ["nll"],
        "maximize": ["probe"],
        "trials": 3,
        "seeds": 2,
        "progress": False,
    }
    return sweep(changed.pop("config", CONFIG), train, **{**options, **changed})


class Calls:
    """A training that notes what it was called with, and may be interrupted."""

    def __init__(self, error: BaseException | None = None, at: int = -1) -> None:
        self.made: list[tuple[str, int]] = []
        self.error, self.at = error, at

    def __call__(self, config: LossConfig, seed: int, report: Any) -> dict[str, float]:
        if len(self.made) == self.at and self.error is not None:
            self.at = -1
            raise self.error
        self.made.append((str(config), seed))
        return trade(config, seed, report)


class KilledError(BaseException):
    """As if the process was killed: nothing catches it."""


@pytest.fixture(params=["sweep.db", "sweep.journal"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / request.param)


def means(front: Front) -> list[float]:
    return [outcome.mean("nll") for outcome in front.outcomes]


def test_every_combination_is_trained_once_with_every_seed() -> None:
    calls = Calls()
    front = run(calls, vary=LISTS, trials=10)
    assert set(Counter(calls.made).values()) == {1}
    assert len(calls.made) == 6 * 2
    configs = [front.config(each.number) for each in front.outcomes]
    weights = {(c.terms["kl"].weight, c.terms["kl"].schedule.cycles) for c in configs}  # type: ignore[union-attr]
    assert weights == {(w, c) for w in (0.5, 1.0) for c in (1, 2, 4)}


def test_the_unchanged_config_is_the_first_and_may_be_out_of_range() -> None:
    front = run(vary={"kl.weight": (5.0, 6.0)})
    assert len(front.outcomes) == 4
    assert front.config(0) == LossConfig.read(CONFIG)
    assert all(5 <= front.config(number).terms["kl"].weight <= 6 for number in (1, 2, 3))


def test_the_sampler_sees_full_trials_alone() -> None:
    """A trial without parameters would leave it nothing to learn from."""
    seen: list[set[str]] = []

    class Spy(optuna.samplers.RandomSampler):
        def sample_independent(self, study: Any, trial: Any, name: Any, what: Any) -> Any:
            done = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
            seen.extend(set(each.params) for each in done)
            return super().sample_independent(study, trial, name, what)

    run(sampler=Spy(seed=0), trials=3)
    assert seen
    assert all(params == {"kl.weight"} for params in seen)


def test_a_sampler_of_optuna_is_used() -> None:
    values = [0.25, 4.0]
    front = run(sampler=optuna.samplers.GridSampler({"kl.weight": values}), trials=2)
    assert sorted(front.config(n).terms["kl"].weight for n in (1, 2)) == values


def test_a_sweep_of_one_worker_is_reproducible() -> None:
    first = run(trials=15)
    assert len(set(means(first))) == 16, "the sampler does not repeat itself"
    assert means(run(trials=15)) == means(first)


def test_the_seeds_are_the_same_for_every_config() -> None:
    calls = Calls()
    front = run(calls, seeds=[7, 3])
    assert [seed for _, seed in calls.made] == [7, 3] * 4
    assert [list(each.results) for each in front.outcomes] == [[7, 3]] * 4


@pytest.mark.parametrize("error", [KeyboardInterrupt(), KilledError()])
@pytest.mark.parametrize("at", [0, 1, 5])
def test_an_interrupted_sweep_resumes_where_it_was(
    storage: str, error: BaseException, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    named = queue.named
    with monkeypatch.context() as patch:
        dead = (socket.gethostname(), gone.pid, "1")
        patch.setattr(queue, "named", lambda pid=None: dead if pid is None else named(pid))
        calls = Calls(error, at)
        with pytest.raises(type(error)):
            run(calls, storage=storage)
    front = run(calls, storage=storage)
    assert set(Counter(calls.made).values()) == {1}, "a seed that is done is not repeated"
    assert len(calls.made) == 4 * 2
    assert means(front) == means(run()), "it is the sweep that was not interrupted"
    assert means(Front.load(storage)) == means(front)


def test_the_same_call_adds_nothing_and_more_trials_extend(storage: str) -> None:
    calls = Calls()
    first = run(calls, storage=storage)
    assert means(run(calls, storage=storage)) == means(first)
    assert len(calls.made) == 4 * 2
    more = run(calls, storage=storage, trials=5)
    assert means(more)[:4] == means(first)
    assert means(more) == means(run(trials=5))
    assert len(calls.made) == 6 * 2
    with pytest.raises(ValueError, match="the sweep has 5 already.*write trials=5 or more"):
        run(calls, storage=storage, trials=4)


def test_a_grid_is_completed_when_it_fits(storage: str) -> None:
    calls = Calls()
    run(calls, vary=LISTS, trials=2, storage=storage)
    run(calls, vary=LISTS, trials=5, storage=storage)
    run(calls, vary=LISTS, trials=9, storage=storage)
    assert len({config for config, _ in calls.made}) == 6


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"vary": {"kl.weight": (0.01, 11.0, "log")}}, r"vary: it has .*10 log.*11 log"),
        ({"vary": {"kl.weight": (0.01, 10.0)}}, "vary: it has"),
        ({"minimize": [], "maximize": ["probe", "nll"]}, r"minimize: it has \['nll'\]"),
        ({"seeds": 3}, r"seeds: it has \[0, 1\], and here is \[0, 1, 2\]"),
        ({"config": {**CONFIG, "total_steps": 50}}, "config: it has"),
    ],
)
def test_another_sweep_of_the_same_name_is_refused(
    storage: str, changed: dict[str, Any], message: str
) -> None:
    run(storage=storage)
    with pytest.raises(ValueError, match=message):
        run(storage=storage, **changed)
    assert len(run(storage=storage, name="other", **changed).outcomes) == 4
    assert len(Front.load(storage).outcomes) == 4


def test_a_storage_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database " * 100)
    for name in ("text.db", "missing/sweep.db", "missing/sweep.journal"):
        with pytest.raises(ValueError, match=rf"storage: '.*{name}' cannot be opened: "):
            run(storage=str(tmp_path / name))
    with pytest.raises(ValueError, match=r"cannot be opened: .*oracle"):
        run(storage="oracle+nothing://host/name")


def test_the_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE mine (x)")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="database of another program"):
        Front.load(path)
    with pytest.raises(ValueError, match="database of another program"):
        run(storage=path)
    assert path.read_bytes() == before


def test_an_empty_study_of_other_directions_is_refused(storage: str) -> None:
    with queue.quiet():
        optuna.create_study(
            storage=queue.open_storage(storage),
            study_name="sweep",
            directions=["minimize", "minimize"],
        )
    with pytest.raises(ValueError, match="not made by a sweep: write another name="):
        run(storage=storage)


def test_a_new_file_may_be_opened_by_several_processes_at_once(tmp_path: Path) -> None:
    code = (
        "import sys; from lossweights.search.study import open_storage; open_storage(sys.argv[1])"
    )
    for index in range(2):
        command = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / f"{index}.db")]
        processes = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(3)]  # noqa: S603
        for process in processes:
            _, error = process.communicate()
            assert process.returncode == 0, error.decode()


def test_the_values_of_a_trial_are_means_over_seeds(storage: str) -> None:
    front = run(storage=storage)
    with queue.quiet():
        studies, _ = queue.load_studies(queue.open_storage(storage), "sweep")
    for outcome, trial in zip(front.outcomes, studies.trials(), strict=True):
        assert trial.values == pytest.approx([outcome.mean("nll"), outcome.mean("probe")])


class Odd(Exception):  # noqa: N818
    """An error that cannot be printed."""

    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.filterwarnings("error")
def test_odd_results_and_errors_do_not_end_a_sweep() -> None:
    def train(config: LossConfig, seed: int, report: Any) -> dict[str, Any]:
        if config.terms["kl"].weight == 2.0:
            raise Odd
        if config.terms["kl"].weight == 3.0:
            return {"nll": 10**400}
        return {"nll": torch.tensor(1.7e308, dtype=torch.float64, requires_grad=True)}

    front = run(train, vary={"kl.weight": [2.0, 3.0]}, trials=2, maximize=[])
    assert [each.state for each in front.outcomes] == ["done", "failed", "failed"]
    assert front.best.mean("nll") == pytest.approx(1.7e308)
    assert front.outcomes[1].reason.startswith("seed 0: Odd (")


def test_a_trial_that_is_repeated_is_of_no_process_yet(tmp_path: Path) -> None:
    study = optuna.create_study()
    study.add_trial(
        optuna.create_trial(
            state=optuna.trial.TrialState.FAIL,
            user_attrs={"slot": 1, "process": ["host", 1, "0"], "seed 0": {"nll": 1.0}},
        )
    )
    with queue.quiet():
        queue.fill(study, {1: None}, failed=False)
    again = study.trials[-1]
    assert again.state == optuna.trial.TrialState.WAITING
    assert {"slot": 1, "seed 0": {"nll": 1.0}}.items() <= again.user_attrs.items()
    assert "process" not in again.user_attrs


def test_a_study_of_something_else_is_refused(storage: str) -> None:
    with queue.quiet():
        study = optuna.create_study(
            storage=queue.open_storage(storage),
            study_name="sweep",
            directions=["minimize", "maximize"],
        )
        study.optimize(lambda trial: (1.0, 2.0), n_trials=1)
    with pytest.raises(ValueError, match="was not made by a sweep"):
        run(storage=storage)


def test_results_that_do_not_exist_are_an_error(storage: str) -> None:
    with pytest.raises(ValueError, match="there is no storage"):
        Front.load(storage)
    run(storage=storage, name="first")
    with pytest.raises(ValueError, match="no sweep is called 'sweep'.*it has 'first'"):
        Front.load(storage)
    with pytest.raises(ValueError, match=r"ends in \.db"):
        run(storage="sweep.txt")


@pytest.mark.parametrize("when", [2, 3])
def test_a_config_that_another_machine_has_taken_over_is_trained_there(
    storage: str, when: int
) -> None:
    """As if the heartbeat of this one was late: its results do not count twice."""
    calls = Calls()

    def train(config: LossConfig, seed: int, report: Any) -> dict[str, float]:
        if len(calls.made) == when:
            calls.made.append(("taken", seed))
            studies, _ = queue.load_studies(queue.open_storage(storage), "sweep")
            (own,) = studies.varied.get_trials(states=(optuna.trial.TrialState.RUNNING,))
            studies.varied.tell(own.number, state=optuna.trial.TrialState.FAIL)
            queue._retry(studies.varied, own)
        return calls(config, seed, report)

    front = run(train, storage=storage)
    assert [each.state for each in front.outcomes] == ["done"] * 4
    assert sorted(means(front)) == sorted(means(Front.load(storage)))
    assert len(set(means(front))) == 4


def test_an_error_of_the_sampler_is_no_failure_of_a_config() -> None:
    grid = optuna.samplers.GridSampler({"another.path": [1.0]})
    with pytest.raises(ValueError, match=r"kl\.weight, is not found in the given grid"):
        run(sampler=grid)


def test_two_machines_that_start_at_once_do_not_repeat_a_config(
    storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both find an empty storage, and both fill the queue."""
    calls = Calls()
    known = queue.latest_by_slot
    with monkeypatch.context() as patch:
        patch.setattr(queue, "latest_by_slot", lambda study: {})
        patch.setattr(queue.Studies, "trials", lambda self: [])
        with queue.quiet():
            settings = {"minimize": ["nll"], "maximize": ["probe"]}
            for _ in range(2):
                studies = queue.open_studies(queue.open_storage(storage), "x", settings)
                queue.fill(studies.unchanged, {0: None}, failed=False)
                queue.fill(studies.varied, {1: None, 2: None}, failed=False)
    from lossweights.search.ranges import read_vary
    from lossweights.search.workers import Plan, work

    config = LossConfig.read(CONFIG)
    plan = Plan(calls, config, read_vary(RANGE, config), ["nll", "probe"], [0, 1], 3)
    with queue.quiet():
        work(plan, studies, lambda: None)
    assert len(calls.made) == 3 * 2
    assert sorted({**known(studies.unchanged), **known(studies.varied)}) == [0, 1, 2]
    assert [each.state.name for each in studies.trials()] == ["COMPLETE"] * 3


def test_a_failure_is_recorded_with_its_line_and_the_sweep_goes_on() -> None:
    def train(config: LossConfig, seed: int, report: Any) -> dict[str, float]:
        if config.terms["kl"].schedule.cycles == 2:  # type: ignore[union-attr]
            raise ArithmeticError("it diverged")
        return trade(config, seed, report)

    front = run(train, vary={"kl.schedule.cycles": [1, 2, 3]})
    assert [each.state for each in front.outcomes] == ["done", "done", "failed", "done"]
    line = train.__code__.co_firstlineno + 2
    assert front.outcomes[2].reason == (
        f"seed 0: ArithmeticError: it diverged (test_sweep.py, line {line})"
    )
    assert front.outcomes[2] not in front.points
    assert "it diverged" in front.table()


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        ({"nll": math.nan, "probe": 1.0}, "seed 0: nll is nan"),
        ({"nll": 1.0, "probe": -math.inf}, "seed 0: probe is -inf"),
        ({"nll": 1.0}, "train returned no 'probe', which is an objective, but 'nll'"),
        (None, "train returned None: return a mapping of numbers"),
        ({"nll": 1.0, "probe": "high"}, "train returned 'high' as 'probe'"),
        ({"nll": 1.0, "probe": torch.ones(2)}, "as 'probe': return a mapping of numbers"),
    ],
)
def test_what_is_no_measure_is_a_failure(found: Any, reason: str) -> None:
    def train(config: LossConfig, seed: int, report: Any) -> Any:
        return found if config.terms["kl"].weight == 2 else trade(config, seed, report)

    front = run(train, vary={"kl.weight": [1.0, 2.0]})
    assert front.outcomes[2].state == "failed"
    assert reason in front.outcomes[2].reason


def test_tensors_and_numpy_are_numbers_and_further_measures_are_kept() -> None:
    front = run(
        lambda *_: {"nll": torch.tensor(1.0), "probe": np.float32(0.5), "time": 3, "kl": math.nan}
    )
    assert front.outcomes[0].mean("time") == 3
    assert math.isnan(front.outcomes[0].mean("kl"))
    assert front.outcomes[0].state == "done"


def test_if_the_first_configs_all_fail_the_sweep_stops_and_can_be_tried_again(storage: str) -> None:
    calls = []

    def train(config: LossConfig, seed: int, report: Any) -> Any:
        calls.append(seed)
        raise SystemExit(3)

    with pytest.raises(RuntimeError, match=r"first configs failed:\n  config 0: seed 0: SystemExi"):
        run(train, trials=10, storage=storage)
    assert len(calls) == 3
    with pytest.raises(RuntimeError, match="first configs failed"):
        run(train, trials=1, storage=storage, name="few")
    assert len(calls) == 5, "all of two"
    assert [each.state for each in run(trials=10, storage=storage).outcomes] == ["done"] * 11


@pytest.mark.parametrize("name", ["total", "weighted/kl"])
def test_a_total_is_no_objective(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' cannot be an objective: it has the weights"):
        run(minimize=[name])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"minimize": [], "maximize": []}, "a sweep needs an objective"),
        ({"minimize": "nll"}, r"write a list of names, \['nll'\]"),
        ({"minimize": None}, r"write a list of names, \['nll', 'kl'\], found None"),
        ({"minimize": {"nll", "kl"}}, "minimize: write a list of names"),
        ({"minimize": ["nll"], "maximize": ["nll"]}, "'nll' is given twice"),
        ({"train": "experiment:train"}, "train: a function .* found 'experiment:train'"),
        ({"trials": 0}, "trials: a whole number from 1 on is needed, found 0"),
        ({"workers": 1.5}, "workers: a whole number"),
        ({"seeds": 0}, "seeds: a number of at least 1"),
        ({"seeds": [1, 1]}, "a list of different seeds"),
        ({"seeds": 2.5}, "seeds: a number of at least 1, .* found 2.5"),
        ({"seeds": None}, "seeds: a number of at least 1, .* found None"),
        ({"seeds": "12"}, "seeds: a number of at least 1, .* found '12'"),
        ({"minimize": None}, r"minimize: write a list of names, .* found None"),
        ({"minimize": [1]}, r"minimize: write a list of names, .* found \[1\]"),
        ({"train": None}, r"train: a function of \(config, seed, report\) is needed"),
        ({"sampler": 5}, r"sampler: .* such as optuna.samplers.TPESampler\(\), found 5"),
        ({"pruner": optuna.pruners.NopPruner}, "pruner: an object of Optuna is needed"),
        ({"storage": 5}, "storage: write a file that ends in .db"),
        ({"workers": 2}, "several workers share a storage"),
        ({"workers": 2, "storage": "a.db", "train": lambda *_: {}}, "top level of a module"),
    ],
)
def test_a_wrong_argument_is_refused(
    changed: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        run(**changed)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("seeds", [np.int64(2), np.arange(2), list(np.arange(2))])
def test_whole_numbers_of_numpy_are_numbers(seeds: Any) -> None:
    front = run(seeds=seeds, trials=np.int64(1), workers=np.int64(1))
    assert front.seeds == (0, 1)
    assert len(front.done) == 2


def test_a_function_of_an_interactive_session_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    main = type(sys)("__main__")
    exec("def train(config, seed, report): ...", main.__dict__)  # noqa: S102
    monkeypatch.setitem(sys.modules, "__main__", main)
    with pytest.raises(ValueError, match="from an interactive session; write it at the top level"):
        run(main.train, workers=2, storage="sweep.db")


def test_with_one_objective_a_bad_config_is_pruned_in_its_first_seed() -> None:
    made: list[tuple[float, int]] = []

    def train(config: LossConfig, seed: int, report: Any) -> dict[str, float]:
        weight = config.terms["kl"].weight
        for step in range(4):
            report(step, weight)
        made.append((weight, seed))
        return {"nll": weight}

    vary = {"kl.weight": [1.0, 2.0, 3.0, 4.0, 5.0, 9.0]}
    front = run(train, vary=vary, minimize=["nll"], maximize=[], trials=6)
    assert [each.state for each in front.outcomes] == ["done"] * 6 + ["pruned"]
    assert front.outcomes[6].reason == "pruned at step 0, at 9"
    assert (9.0, 0) not in made
    assert front.best.number == 0
    several = run(
        train, vary=vary, minimize=["nll"], maximize=[], trials=6, pruner=optuna.pruners.NopPruner()
    )
    assert several.outcomes[6].state == "done"


def test_with_several_objectives_a_report_does_nothing() -> None:
    def train(config: LossConfig, seed: int, report: Any) -> dict[str, float]:
        report(0, 1e9 * config.terms["kl"].weight)
        return trade(config, seed, report)

    assert {each.state for each in run(train, trials=9).outcomes} == {"done"}


def test_optuna_is_as_quiet_as_before(capfd: pytest.CaptureFixture[str]) -> None:
    before = optuna.logging.get_verbosity()
    run()
    assert optuna.logging.get_verbosity() == before
    assert capfd.readouterr() == ("", "")


def test_the_bar_says_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    run(progress=True)
    assert "8/8 trainings; 4 configs of 4" in capsys.readouterr().err


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=r"pip install 'lossweights\[sweep\]'"):
        run()
