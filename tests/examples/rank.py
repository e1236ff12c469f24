"""Run by `torchrun`: a program as one rank, and a check that its process group has ended.

A thread of a process group that drops a tensor while the interpreter shuts down aborts the process.
"""

import runpy
import sys
from contextlib import suppress
from pathlib import Path


def main() -> None:
    """Runs the program that the arguments name."""
    program = Path(sys.argv[1])
    sys.argv = sys.argv[1:]
    sys.path[0] = str(program.parent)
    runpy.run_path(str(program), run_name="__main__")

    threads = set()
    for path in Path("/proc/self/task").glob("*/comm"):
        with suppress(OSError):  # another thread may end meanwhile
            threads.add(path.read_text().strip())
    left = {name for name in threads if "gloo" in name}
    if left:
        sys.exit(f"threads of the process group are left: {left}")


if __name__ == "__main__":  # pytest imports it to look for doctests
    main()
