"""Running an example as its reader does."""

import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def run_program(program: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run it in a folder, with warnings as errors."""
    return subprocess.run(  # noqa: S603
        [sys.executable, "-W", "error", str(EXAMPLES / program), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def run_on_two_ranks(
    program: Path, *arguments: str, folder: Path
) -> subprocess.CompletedProcess[str]:
    """Run it in two processes that share the work, in a folder, with warnings as errors."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(  # noqa: S603
        [
            *(sys.executable, "-W", "error", *torchrun),
            *(str(Path(__file__).with_name("rank.py")), str(program), *arguments),
        ],
        cwd=folder,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join((str(EXAMPLES), str(EXAMPLES.parent))),
            "PYTHONWARNINGS": "error",
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
