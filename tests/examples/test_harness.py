"""What the examples share."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool

import pytest

from tests.examples.programs import EXAMPLES

LONG = 60  # seconds, that no test is to wait for


def work(job: str, show: Callable[[int, int, str], None]) -> str:
    """What a worker is asked for."""
    match job:
        case "double":
            show(1, 2, "half")
            return 2 * job
        case "fail":
            raise ValueError("no such job")
        case "die":
            time.sleep(0.5)  # by then it looks whether to leave
            os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(LONG)
    return job


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))


def test_results_come_in_the_order_of_the_jobs() -> None:
    from harness.workers import run_in_parallel

    assert run_in_parallel(work, {"a": "double", "b": "double"}, 2) == ["doubledouble"] * 2


@pytest.mark.parametrize(("job", "error"), [("fail", ValueError), ("die", BrokenProcessPool)])
def test_a_job_that_fails_ends_all_at_once(job: str, error: type[Exception]) -> None:
    from harness.workers import run_in_parallel

    start = time.monotonic()
    with pytest.raises(error):
        run_in_parallel(work, {"bad": job, "long": "sleep"}, 2)
    assert time.monotonic() - start < LONG / 2
