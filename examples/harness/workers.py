"""Jobs in a few processes, with a progress bar for each running job."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import contextmanager
from ctypes import c_bool
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from queue import Empty
from threading import Thread
from typing import TYPE_CHECKING, TypeVar

import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from multiprocessing.queues import Queue

Job = TypeVar("Job")
Result = TypeVar("Result")
Show = Callable[[int, int, str], None]  # steps done, total steps, a note

REFRESH_SECONDS = 0.2


@dataclass(frozen=True)
class Message:
    """The progress of a job."""

    name: str
    done: int
    total: int
    note: str


@dataclass(frozen=True)
class Channel:
    """What a worker shares with its parent process."""

    messages: "Queue[Message]"
    stop: c_bool  # an Event can hang if a worker is killed while it reads it


class Bars:
    """A bar for all jobs, and one for each running job."""

    def __init__(self, progress: Progress, jobs: int) -> None:
        self.progress = progress
        self.all = progress.add_task("all runs", total=jobs, note="")
        self.running: dict[str, TaskID] = {}

    def draw(self, messages: "Queue[Message]") -> None:
        """Show the messages that have arrived."""
        while True:
            try:
                message = messages.get_nowait()
            except Empty:
                return
            if message.name not in self.running:
                self.running[message.name] = self.progress.add_task(message.name, note="")
            self.progress.update(
                self.running[message.name],
                completed=message.done,
                total=message.total,
                note=message.note,
            )

    def finish(self, name: str) -> None:
        """Count a job as done and replace its bar by a line."""
        self.progress.console.print(f"{name}: done")
        self.progress.advance(self.all)
        if name in self.running:
            self.progress.update(self.running[name], visible=False)


def run_program(main: Callable[[], None], when_interrupted: str = "Interrupted.") -> None:
    """Call `main`; Ctrl-C or a timeout ends the program with a line, and the status of Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # treat a timeout like Ctrl-C
    try:
        main()
    except KeyboardInterrupt:
        print(when_interrupted, file=sys.stderr)
        sys.exit(130)  # 128 and the number of SIGINT


def run_in_parallel(
    work: Callable[[Job, Show], Result], jobs: Mapping[str, Job], processes: int
) -> list[Result]:
    """The results of `work(job, show)`, in the order of the jobs.

    An interrupt ends the workers at once and is raised.
    """
    # Spawned processes start clean on every system. Forked ones can hang in torch's threads.
    context = get_context("spawn")
    channel = Channel(context.Queue(), context.RawValue(c_bool))
    workers = min(processes, max(1, len(jobs)))
    executor = ProcessPoolExecutor(workers, context, _start_worker, (channel,))
    with _progress() as progress, executor:
        bars = Bars(progress, len(jobs))
        try:
            with _interrupts_ignored():
                names = {executor.submit(_do, work, name, job): name for name, job in jobs.items()}
                # A submission wakes the thread that watches the workers before it starts a worker
                # (Python 3.11 to 3.13). Without one more, a crash of the last worker is not seen.
                executor.submit(int)
            running = set(names)
            while running:
                done, running = wait(running, REFRESH_SECONDS, FIRST_COMPLETED)
                bars.draw(channel.messages)
                for future in done:
                    future.result()  # an error in one job ends all
                    bars.finish(names[future])
        except BaseException:
            channel.stop.value = True
            executor.shutdown(cancel_futures=True)
            raise
    return [future.result() for future in names]


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Processes that are started here ignore Ctrl-C; this process handles it."""
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


_channel: Channel  # of this worker; a queue can only be passed when the worker starts


def _start_worker(channel: Channel) -> None:
    global _channel  # noqa: PLW0603
    _channel = channel
    Thread(target=_leave_when_stopped, args=(channel.stop,), daemon=True).start()
    # Workers that each use all cores would mostly wait for one another.
    torch.set_num_threads(1)
    threadpool_limits(1)  # of numpy and scikit-learn


def _leave_when_stopped(stop: c_bool) -> None:
    """End this worker at `stop`, or when its parent is gone."""
    parent = parent_process()
    while parent is not None and parent.is_alive() and not stop.value:
        time.sleep(REFRESH_SECONDS)
    os._exit(1)


def _do(work: Callable[[Job, Show], Result], name: str, job: Job) -> Result:
    shown = 0.0

    def show(done: int, total: int, note: str) -> None:
        nonlocal shown
        if time.monotonic() >= shown + REFRESH_SECONDS:
            shown = time.monotonic()
            _channel.messages.put(Message(name, done, total, note))

    return work(job, show)
