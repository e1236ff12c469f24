"""What the examples share."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

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
        case "leave":
            sys.exit("a file is damaged")
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


@pytest.mark.parametrize(
    ("job", "error", "names"),
    [
        ("fail", ValueError, ("bad", "long")),
        ("leave", SystemExit, ("bad", "long")),
        ("die", BrokenProcessPool, ("long", "bad")),
        pytest.param("fail", ValueError, ("long", "bad"), marks=pytest.mark.slow),
        pytest.param("die", BrokenProcessPool, ("bad", "long"), marks=pytest.mark.slow),
    ],
)
def test_a_job_that_fails_ends_all_at_once(
    job: str, error: type[Exception], names: tuple[str, str]
) -> None:
    from harness.workers import run_in_parallel

    jobs = {"bad": job, "long": "sleep"}
    start = time.monotonic()
    with pytest.raises(error):
        run_in_parallel(work, {name: jobs[name] for name in names}, 2)
    assert time.monotonic() - start < LONG / 2


def test_an_interrupt_ends_a_program_with_a_line_and_its_status(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from harness.workers import run_program

    handlers = {sent: signal.getsignal(sent) for sent in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores Ctrl-C
    try:
        for sent in handlers:
            with pytest.raises(SystemExit) as ended:
                run_program(partial(signal.raise_signal, sent), "Run it again.")
            assert ended.value.code == 130
            assert capsys.readouterr().err == "Run it again.\n"
    finally:
        for sent, handler in handlers.items():
            signal.signal(sent, handler)


def test_the_best_means_are_bold_in_markdown(tmp_path: Path) -> None:
    from harness.tables import Column, save_markdown

    columns = {
        "error": Column("mean\nerror", 1, min),
        "score": Column("score", best=max),
        "time": Column("time", ".1e"),
    }
    rows = {
        "first": [
            {"error": 1.0, "score": 1.0, "time": 100.0},
            {"error": 3.0, "score": 1.5, "time": 300.0},
        ],
        "second": [
            {"error": 4.0, "score": 2.0, "time": 1.0},
            {"error": 4.0, "score": 3.0, "time": 1.0},
        ],
    }
    path = save_markdown(columns, rows, tmp_path / "table.md")
    assert path.read_text("utf-8") == (
        "| | mean error | score | time |\n"
        "|---|---|---|---|\n"
        "| first | **2.0** ± 1.4 | 1.25 ± 0.35 | 2.0e+02 ± 1.4e+02 |\n"
        "| second | 4.0 ± 0.0 | **2.50** ± 0.71 | 1.0e+00 ± 0.0e+00 |\n"
    )
    firsts = {name: seeds[:1] for name, seeds in rows.items()}
    assert save_markdown(columns, firsts, path).read_text("utf-8") == (
        "| | mean error | score | time |\n"
        "|---|---|---|---|\n"
        "| first | **1.0** | 1.00 | 1.0e+02 |\n"
        "| second | 4.0 | **2.00** | 1.0e+00 |\n"
    )


def test_a_config_has_the_same_line_in_every_picture() -> None:
    from harness.pictures import LINES, lines

    alone = {name: lines([name])[name] for name in ("constant", "cyclical-linear", "pid")}
    assert lines(["pid", "cyclical-linear", "constant"]) == alone
    assert lines(["mine", "pid", "constant"])["pid"] == alone["pid"]
    assert alone["pid"]["color"] == lines(["pid-5"])["pid-5"]["color"]
    many = [f"config-{n}" for n in range(len(LINES) - 1)]
    assert len({str(line) for line in lines([*many, "pid"]).values()}) == len(LINES)
    assert set(lines([f"config-{n}" for n in range(30)])) == {f"config-{n}" for n in range(30)}


def test_the_configs_of_an_example_have_different_lines() -> None:
    from harness.pictures import TABLE, lines
    from kl_front.families import FAMILIES
    from pronunciation_vae.options import CONFIGS

    molecules = "constant monotonic cyclical-linear cyclical-cosine cyclical-sigmoid cyclical-low"
    examples = {
        "vae_elbo": CONFIGS,
        "front": FAMILIES,
        "molecules": [*molecules.split(), "long-ramp", "pid-5", "pid-10", "pid-20"],
    }
    for name in ("beta_vae", "pinn", "late_adversary"):
        examples[name] = yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text("utf-8"))
    for name, configs in examples.items():
        assert set(configs) <= set(TABLE), name
        assert len({str(line) for line in lines(configs).values()}) == len(list(configs)), name


def test_the_last_window_of_means_may_be_shorter() -> None:
    from harness.pictures import means

    middles, values = means(np.array([1.0, 3.0, 5.0]), 2)
    assert middles.tolist() == [1, 2.5]
    assert values.tolist() == [2, 5]


def test_json_has_null_for_a_value_that_is_not_finite(tmp_path: Path) -> None:
    from harness.json_file import write_json

    def fail(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    document = {"runs": [{"gain": [1.5, math.nan], "largest": -math.inf, "path": [None, "CC"]}]}
    text = write_json(document, tmp_path / "figures.json").read_text("utf-8")
    assert json.loads(text, parse_constant=fail) == {
        "runs": [{"gain": [1.5, None], "largest": None, "path": [None, "CC"]}]
    }


def test_a_checkpoint_gives_back_all_state_and_names_itself_if_it_is_damaged(
    tmp_path: Path,
) -> None:
    from harness.checkpoint import Checkpoint

    def checkpoint(seed: int) -> Checkpoint:
        torch.manual_seed(seed)
        return Checkpoint(
            tmp_path / "run.pt", torch.Generator().manual_seed(seed), {"model": nn.Linear(9, 9)}
        )

    saved, loaded = checkpoint(1), checkpoint(2)
    assert loaded.load() is None
    saved.save([1, 2])
    assert loaded.load() == [1, 2]
    assert str(loaded.parts["model"].state_dict()) == str(saved.parts["model"].state_dict())
    assert loaded.generator.get_state().equal(saved.generator.get_state())

    data = saved.path.read_bytes()
    for place in (*range(0, len(data), 97), data.index(b"weight")):
        damaged = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        saved.path.write_bytes(damaged)
        try:  # some bytes are for padding
            assert loaded.load() == [1, 2]
            assert str(loaded.parts["model"].state_dict()) == str(saved.parts["model"].state_dict())
        except SystemExit as end:
            assert str(end.code).startswith(f"{saved.path} cannot be loaded (")  # noqa: PT017
            assert str(end.code).endswith("). Delete it, and its run starts again.")  # noqa: PT017


def test_a_folder_is_reserved_until_its_process_is_killed(tmp_path: Path) -> None:
    from harness.folder import reserved

    lines = (
        "import sys, time",
        "from pathlib import Path",
        "from harness.folder import reserved",
        "with reserved(Path(sys.argv[1])):",
        "    print('reserved', flush=True)",
        f"    time.sleep({LONG})",
    )
    with subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", "\n".join(lines), str(tmp_path)],
        cwd=EXAMPLES,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "reserved\n"
        with pytest.raises(SystemExit, match="is in use by another run"), reserved(tmp_path):
            pass
        other.kill()
    with reserved(tmp_path):
        pass


def test_a_folder_that_cannot_be_reserved_is_named(tmp_path: Path) -> None:
    from harness.folder import reserved

    (tmp_path / ".lock").mkdir()
    with pytest.raises(SystemExit, match=f"cannot reserve {tmp_path}"), reserved(tmp_path):
        pass


def test_a_folder_without_permission_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from harness.options import Parser, make_folder

    monkeypatch.setattr("os.access", lambda *_: False)  # root has every permission
    with pytest.raises(SystemExit):
        make_folder(Parser(""), tmp_path)
    assert "--out: no permission to write to" in capsys.readouterr().err
