"""Running an example as its reader does."""

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
