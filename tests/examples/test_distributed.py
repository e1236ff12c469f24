"""The example on several processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.examples.programs import EXAMPLES


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_ranks_end_with_the_same_weights(ranks: int, tmp_path: Path) -> None:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    done = subprocess.run(  # noqa: S603
        [
            *(sys.executable, "-W", "error"),
            *(torchrun if ranks > 1 else ()),
            *(str(EXAMPLES / "distributed.py"), "--quick"),
        ],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    head, *epochs, last = done.stdout.strip().splitlines()
    assert head.split() == [
        "epoch",
        "digit",
        "w",
        "digit",
        "centre",
        "w",
        "centre",
        "size",
        "w",
        "size",
    ]
    assert [line.split()[0] for line in epochs] == ["0", "1"]
    assert last.strip() == f"the weights agree on {ranks} rank(s)"
