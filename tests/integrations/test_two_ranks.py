"""Two processes: the length is that of one, the weights agree, the loss has the right scale."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integrations.two_ranks import trained

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_two_processes_are_one_with_batches_of_twice_the_size(tmp_path: Path) -> None:
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(  # noqa: S603  # our own words
        [*run, "-m", "tests.integrations.two_ranks", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second  # to the last bit
    alone = trained(tmp_path / "alone", size=4)
    for name, wanted in alone.items():
        steps = [9, 9, 3] if name.endswith("sums") else [15, 15, 5]
        assert first[name]["steps"] == wanted["steps"] == steps, name
        for what in ("weights", "layer"):
            assert first[name][what] == pytest.approx(wanted[what], rel=1e-4, abs=1e-6), name
