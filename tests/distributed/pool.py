"""Processes that stay, and run one case after another as the ranks of a process group.

Starting a process costs seconds, a process group a few milliseconds. So four processes are started
once, and each case makes a process group of as many of them as it wants. Whatever hangs is ended:
the group waits for a few seconds only, and the test does not wait longer than for that.
"""

from __future__ import annotations

import pickle
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed.nn  # before the process group, which its defaults would keep alive
from torch import distributed

PATIENCE = timedelta(seconds=30)  # of a collective that waits for another rank
START_UP = 120.0  # seconds: all import torch at once, on whatever machine this is


class Pool:
    """Up to `size` ranks, started when they are first needed."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._workers: list[tuple[Any, Connection]] = []
        self._folder = tempfile.TemporaryDirectory()
        self._groups = 0

    def run(self, ranks: int, case: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What `case(*arguments)` returns on each rank of a new process group.

        Raises:
            AssertionError: With the tracebacks of the ranks on which it failed, or that hang.
        """
        if not self._workers:
            self._start()
        self._groups += 1
        store = str(Path(self._folder.name) / f"group{self._groups}")
        for rank, (_, connection) in enumerate(self._workers[:ranks]):
            job = (store, rank, ranks, case, arguments)
            connection.send_bytes(pickle.dumps(job))
        wait = START_UP if self._groups == 1 else 2 * PATIENCE.total_seconds()
        until = time.monotonic() + wait
        answers = [self._answer(index, until) for index in range(ranks)]
        failed = [f"rank {rank}: {words}" for rank, (good, words) in enumerate(answers) if not good]
        if failed:
            self.stop()  # who knows what state they are in
            raise AssertionError("\n".join(failed))
        return [result for _, result in answers]

    def _answer(self, index: int, until: float) -> tuple[bool, Any]:
        _, connection = self._workers[index]
        try:
            if connection.poll(max(0.0, until - time.monotonic())):
                good, result = pickle.loads(connection.recv_bytes())
                return bool(good), result
        except EOFError:
            return False, "died"
        return False, "hangs"

    def _start(self) -> None:
        context = get_context("spawn")
        for _ in range(self._size):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._workers.append((process, ours))

    def stop(self) -> None:
        """Ends the processes, however they are."""
        for process, connection in self._workers:
            connection.close()
            process.kill()
            process.join()
        self._workers = []

    def close(self) -> None:
        """Ends the processes and removes what they met at."""
        self.stop()
        self._folder.cleanup()


def _work(connection: Connection) -> None:
    """A process of the pool: runs cases until the other end is closed."""
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    while True:
        try:
            store, rank, ranks, case, arguments = pickle.loads(connection.recv_bytes())
        except EOFError:
            return
        try:
            distributed.init_process_group(
                "gloo",
                init_method=f"file://{store}",
                rank=rank,
                world_size=ranks,
                timeout=PATIENCE,
            )
            distributed.barrier()  # one that is done early must not leave while another connects
            answer = True, case(*arguments)
        except Exception:  # noqa: BLE001  # told where the test can show it
            answer = False, traceback.format_exc()
        finally:
            if distributed.is_initialized():
                distributed.destroy_process_group()
        connection.send_bytes(pickle.dumps(answer))
