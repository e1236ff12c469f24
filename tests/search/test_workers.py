"""Several processes on one storage: every training once, whoever is killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.queues import Queue
from pathlib import Path

import pytest

from lossweights import Front, sweep
from lossweights.search import study as queue
from tests.search import trainings
from tests.search.trainings import CONFIG, RANGE

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
PROGRAM = """
import signal, sys
from lossweights import sweep
from tests.search.trainings import CONFIG, RANGE, logged

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sweep(CONFIG, logged, vary=RANGE, minimize=["nll"], maximize=["probe"], trials=8, seeds=2,
          storage=sys.argv[1], workers=2, progress=False)
"""


@pytest.fixture(params=["sweep.db", "sweep.journal"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / request.param)


@pytest.fixture(autouse=True)
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with a line for each training that has ended."""
    path = tmp_path / "trainings.log"
    path.touch()
    monkeypatch.setenv("LOG", str(path))
    return path


def run(train: Callable[..., dict[str, float]], storage: str, trials: int = 8) -> Front:
    return sweep(
        CONFIG,
        train,
        vary=RANGE,
        minimize=["nll"],
        maximize=["probe"],
        trials=trials,
        seeds=2,
        storage=storage,
        workers=2,
        progress=False,
    )


def check(front: Front, log: Path, repeated: int = 0) -> None:
    """Every config has its seeds; no training is repeated but those that were cut off."""
    assert [each.number for each in front.outcomes] == list(range(9))
    assert [each.state for each in front.outcomes] == ["done"] * 9
    assert [list(each.results) for each in front.outcomes] == [[0, 1]] * 9
    weights = [front.config(each.number).terms["kl"].weight for each in front.outcomes]
    assert len(set(weights)) == 9
    trained = Counter(log.read_text("utf-8").splitlines())
    assert trained.keys() == {f"{weight!r} {seed}" for weight in weights for seed in (0, 1)}
    assert sum(trained.values()) <= 9 * 2 + repeated
    for each in front.outcomes:
        config = front.config(each.number)
        for seed, found in each.results.items():
            assert found == trainings.trade(config, seed, None)


def pop(storage: str, name: str, start: str, numbers: Queue[int]) -> None:
    with queue.quiet():
        studies, _ = queue.load_studies(queue.open_storage(storage), name)
        while not Path(start).exists():
            time.sleep(0.001)
        while queue.waiting(studies.varied) is not None:
            numbers.put(studies.varied.ask().number)
    numbers.put(-1)


def test_no_two_processes_get_the_same_trial(storage: str, tmp_path: Path) -> None:
    """In SQLite, that takes a transaction that locks when it reads."""
    with queue.quiet():
        settings = {"minimize": ["nll"], "maximize": []}
        studies = queue.open_studies(queue.open_storage(storage), "sweep", settings)
        queue.fill(studies.varied, dict.fromkeys(range(1, 61)), failed=False)
    start, context = tmp_path / "start", multiprocessing.get_context("spawn")
    numbers: Queue[int] = context.Queue()
    arguments = (storage, "sweep", str(start), numbers)
    processes = [context.Process(target=pop, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    time.sleep(5)
    start.touch()
    found: list[int] = []
    while found.count(-1) < 2:
        found.append(numbers.get(timeout=120))
    for process in processes:
        process.join()
    counts = Counter(found)
    assert set(counts) >= set(range(60))
    assert max(counts[number] for number in range(60)) == 1


def test_a_worker_that_is_killed_is_replaced(storage: str, log: Path) -> None:
    front = run(trainings.killed_once, storage)
    assert log.with_suffix(".killed").exists()
    check(front, log)
    check(Front.load(storage), log)


@pytest.mark.parametrize("whom", ["parent", "all", "Ctrl-C"])
def test_a_sweep_that_is_killed_resumes(storage: str, log: Path, whom: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    program = log.with_name("program.py")
    program.write_text(PROGRAM, "utf-8")
    running = subprocess.Popen(  # noqa: S603
        [sys.executable, str(program), storage],
        env=environment,
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    while len(log.read_text("utf-8").splitlines()) < 5:
        assert running.poll() is None
        time.sleep(0.02)
    if whom == "all":
        os.killpg(running.pid, signal.SIGKILL)
    elif whom == "parent":
        running.kill()
    else:
        os.killpg(running.pid, signal.SIGINT)
    running.wait(90)
    assert len(log.read_text("utf-8").splitlines()) < 18, "it was in the middle"
    check(run(trainings.logged, storage), log, repeated=2)


def test_a_config_that_kills_its_process_is_a_failure_in_the_end(tmp_path: Path) -> None:
    front = sweep(
        CONFIG,
        trainings.killed_always,
        vary={"kl.weight": [1.0, 2.0, 3.0]},
        minimize=["nll"],
        trials=3,
        storage=tmp_path / "sweep.db",
        workers=2,
        progress=False,
    )
    assert [each.state for each in front.outcomes] == ["done", "done", "done", "failed"]
    assert "its process ended 3 times without an error" in front.outcomes[3].reason


def test_a_script_without_a_guard_is_explained(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.replace('if __name__ == "__main__":', "if True:"), "utf-8")
    done = subprocess.run(  # noqa: S603
        [sys.executable, str(program), str(tmp_path / "sweep.db")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "needs to do so under `if __name__ == '__main__':`" in done.stderr
