"""The folder that a program writes to."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def reserved(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder, so that they do not write to the same files.

    The operating system releases the lock if the process is killed.

    Raises:
        SystemExit: If another process has reserved the folder, or it cannot be reserved.
    """
    try:
        lock = FileLock(folder / ".lock").acquire(blocking=False)
    except Timeout:
        sys.exit(
            f"{folder} is in use by another run: wait until it ends, or choose another folder "
            "with --out"
        )
    except OSError as error:
        sys.exit(f"cannot reserve {folder}: {error}. Choose another folder with --out")
    with lock:
        yield
