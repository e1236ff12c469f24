"""A sweep in a storage of Optuna: what it remembers, its queue, and trials that were interrupted.

A sweep is two studies. The unchanged config is alone in one, because a trial without parameters
would disturb the sampler of the other. The queue is made of trials that wait: Optuna gives each to
one process only. A trial has a number of ours, its `slot`, which is the
number of its config. A trial that was interrupted is repeated by a new one of the same slot, which
takes over the results of the seeds that are done.
"""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from copy import copy
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lossweights.errors import quoted, shown

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import BaseStorage, RDBStorage
    from optuna.trial import FrozenTrial

HEARTBEAT = 60  # seconds; a trial without one for twice as long is repeated
_LOCK = 10  # seconds; the lock of a journal is free afterwards, if its process was killed
_UNCLAIMED = timedelta(seconds=30)  # from the start of a trial to the name of its process
_MOST_DEATHS = 3  # of processes that train the same config
_ATTRIBUTE = "lossweights"


class Studies(NamedTuple):
    """The studies of a sweep.

    Args:
        unchanged: With the unchanged config alone.
        varied: With all other configs.
    """

    unchanged: Study
    varied: Study

    def trials(self) -> list[FrozenTrial]:
        """The latest trial of each config, in the order of their numbers."""
        latest = {**latest_by_slot(self.unchanged), **latest_by_slot(self.varied)}
        return [latest[slot] for slot in sorted(latest)]

    def release(self, deaths: Counter[int]) -> bool:
        """Queues the trials of processes of this machine that are gone; whether some may be.

        Args:
            deaths: How often processes ended while they trained a config, by slot.
        """
        unclear = [_release(study, deaths) for study in self]
        return any(unclear)


def need_optuna() -> None:
    """Raises an ImportError that names the extra, if one of its packages is missing."""
    try:
        import moocore  # noqa: F401, PLC0415
        import optuna  # noqa: F401, PLC0415
        import rich  # noqa: F401, PLC0415
    except ModuleNotFoundError as error:
        raise ImportError(f"a sweep needs {error.name}: pip install 'lossweights[sweep]'") from None


@contextmanager
def quiet() -> Iterator[None]:
    """Without Optuna's log of every trial, and its warnings that a part of it is experimental."""
    import optuna  # noqa: PLC0415

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


def open_storage(storage: str | os.PathLike[str] | None) -> BaseStorage:
    """Optuna's storage in memory (None), in a file, or in the database at an address.

    Raises:
        ValueError: For another ending of a file, and if it cannot be opened.
    """
    from optuna.storages import InMemoryStorage  # noqa: PLC0415

    if storage is None:
        return InMemoryStorage()
    usage = (
        "write a file that ends in .db (SQLite) or .journal, or the address of a database, such as "
        "postgresql://host/name"
    )
    if not isinstance(storage, str | os.PathLike):
        raise ValueError(f"storage: {usage}, found {shown(storage)}")
    address = os.fspath(storage)
    is_journal = "://" not in address and Path(address).suffix in (".journal", ".log")
    if "://" not in address and not is_journal:
        if Path(address).suffix not in (".db", ".sqlite", ".sqlite3"):
            raise ValueError(f"storage: {usage}, found {shown(address)}")
        address = f"sqlite:///{address}"
    try:
        return _journal(address) if is_journal else _database(address)
    except _not_opened() as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"storage: {shown(os.fspath(storage))} cannot be opened: {reason}; {usage}"
        ) from None


def _not_opened() -> tuple[type[Exception], ...]:
    """The errors of a storage that cannot be opened."""
    from optuna.exceptions import StorageInternalError  # noqa: PLC0415
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415  # Optuna needs it

    return SQLAlchemyError, StorageInternalError, sqlite3.Error, OSError, ImportError, ValueError


def _journal(path: str) -> BaseStorage:
    from optuna.storages import JournalStorage  # noqa: PLC0415
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock  # noqa: PLC0415

    lock = JournalFileOpenLock(path, grace_period=_LOCK)
    return JournalStorage(JournalFileBackend(path, lock_obj=lock))


def _database(address: str) -> BaseStorage:
    from optuna.storages import RDBStorage  # noqa: PLC0415
    from optuna.storages.journal import JournalFileOpenLock  # noqa: PLC0415

    def connected() -> RDBStorage:
        return RDBStorage(
            address,
            engine_kwargs={"connect_args": {"timeout": 120}} if is_file else None,
            heartbeat_interval=HEARTBEAT,
            heartbeat_stale_trial_callback=_retry,
        )

    prefix = "sqlite:///"
    is_file = address.startswith(prefix)
    if not is_file:
        return connected()
    path = address.removeprefix(prefix)
    lock = JournalFileOpenLock(path, grace_period=_LOCK)
    lock.acquire()  # two processes that make the tables of one file fail
    try:
        _refuse_foreign(path)
        database = connected()
    finally:
        lock.release()
    _lock_when_reading(database)
    return database


def _refuse_foreign(path: str) -> None:
    """Refuses a SQLite file that has tables, but none of Optuna, which would add its own."""
    if not Path(path).exists() or not Path(path).stat().st_size:
        return
    with closing(sqlite3.connect(path)) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    if tables and "studies" not in tables:
        raise ValueError("it is the database of another program")


def _lock_when_reading(database: RDBStorage) -> None:
    """Lets one process at a time read and change a SQLite file.

    Optuna reads the state of a trial and then takes it from the queue. SQLite has no SELECT FOR
    UPDATE: two processes would read the same state, and both would train the config.
    """
    from sqlalchemy import event  # noqa: PLC0415  # Optuna needs it

    engine = database.engine
    event.listen(engine, "connect", lambda raw, _: setattr(raw, "isolation_level", None))
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    engine.dispose()  # connections without it


def open_studies(storage: BaseStorage, name: str, settings: Mapping[str, Any]) -> Studies:
    """The studies of a sweep, made or found again.

    Raises:
        ValueError: If those of that name are of another sweep; it says what differs.
    """
    import optuna  # noqa: PLC0415

    small, large = optuna.study.StudyDirection.MINIMIZE, optuna.study.StudyDirection.MAXIMIZE
    directions = [small for _ in settings["minimize"]] + [large for _ in settings["maximize"]]
    found = []
    for each in names_of(name):
        study = optuna.create_study(
            storage=storage, study_name=each, directions=directions, load_if_exists=True
        )
        known = study.user_attrs.get(_ATTRIBUTE)
        is_other = bool(study.get_trials(deepcopy=False)) or study.directions != directions
        if known is None and is_other:
            raise ValueError(f"the study {each!r} was not made by a sweep: write another name=")
        if known is None:
            study.set_user_attr(_ATTRIBUTE, dict(settings))
        else:
            _compare(known, settings, name)
        found.append(study)
    return Studies(*found)


def names_of(name: str) -> tuple[str, str]:
    """The names of the studies of a sweep."""
    return f"{name} (unchanged)", name


def _compare(known: Mapping[str, Any], settings: Mapping[str, Any], name: str) -> None:
    lines = [
        f"  {key}: it has {shown(known.get(key))}, and here is {shown(value)}"
        for key, value in settings.items()
        if known.get(key) != value
    ]
    if lines:
        raise ValueError(
            "\n".join(
                [
                    f"the storage has another sweep called {name!r}:",
                    *lines,
                    "write another name= (--name), or the same settings to resume it",
                ]
            )
        )


def load_studies(storage: BaseStorage, name: str) -> tuple[Studies, dict[str, Any]]:
    """The studies of a sweep that exists, and its settings.

    Raises:
        ValueError: If there is none of that name; it lists those that there are.
    """
    import optuna  # noqa: PLC0415

    try:
        studies = Studies(
            *(optuna.load_study(storage=storage, study_name=each) for each in names_of(name))
        )
    except KeyError:
        studies = None
    settings = None if studies is None else studies.varied.user_attrs.get(_ATTRIBUTE)
    if studies is None or settings is None:
        known = [
            each.study_name
            for each in optuna.get_all_study_summaries(storage)
            if _ATTRIBUTE in each.user_attrs and not each.study_name.endswith(" (unchanged)")
        ]
        raise ValueError(f"no sweep is called {name!r} in the storage: it has {quoted(known)}")
    return studies, settings


def fill(study: Study, wanted: Mapping[int, Mapping[str, Any] | None], *, failed: bool) -> None:
    """Queues the configs that have no trial yet, and those whose trial was interrupted.

    Args:
        study: The study.
        wanted: The parameters by slot; None for those that the sampler chooses.
        failed: Whether those that failed are tried again.
    """
    import optuna  # noqa: PLC0415

    latest = latest_by_slot(study)
    for slot, params in wanted.items():
        trial = latest.get(slot)
        if trial is None:
            study.add_trial(
                optuna.create_trial(
                    state=optuna.trial.TrialState.WAITING,
                    system_attrs={} if params is None else {"fixed_params": dict(params)},
                    user_attrs={"slot": slot},
                )
            )
        elif trial.state == optuna.trial.TrialState.FAIL and (failed or not reason(trial)):
            _retry(study, trial)


def _retry(study: Study, trial: FrozenTrial) -> None:
    from optuna.storages import RetryHeartbeatStaleTrialCallback  # noqa: PLC0415

    again = copy(trial)
    # The name of the process that is gone would be that of the new trial until it is taken.
    again.user_attrs = {key: x for key, x in trial.user_attrs.items() if key != "process"}
    RetryHeartbeatStaleTrialCallback()(study, again)


def latest_by_slot(study: Study) -> dict[int, FrozenTrial]:
    """The last trial of each config; earlier ones were interrupted."""
    return {
        trial.user_attrs["slot"]: trial
        for trial in study.get_trials(deepcopy=False)
        if "slot" in trial.user_attrs and "duplicate" not in trial.user_attrs
    }


def reason(trial: FrozenTrial) -> str:
    """Why a trial failed or was pruned; empty if it was not, or if it was interrupted."""
    return trial.user_attrs.get("reason") or ""


def waiting(study: Study) -> int | None:
    """The number of the first trial in the queue."""
    from optuna.trial import TrialState  # noqa: PLC0415

    queue = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    return queue[0].number if queue else None


def is_running(study: Study) -> bool:
    """Whether any process trains a config."""
    from optuna.trial import TrialState  # noqa: PLC0415

    return bool(study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))


def is_duplicate(study: Study, number: int) -> bool:
    """Whether an earlier trial has the same config: two machines have queued it at once."""
    from optuna.storages import RetryHeartbeatStaleTrialCallback  # noqa: PLC0415
    from optuna.trial import TrialState  # noqa: PLC0415

    trials = study.get_trials(deepcopy=False)
    trial = next(each for each in trials if each.number == number)
    repeated = RetryHeartbeatStaleTrialCallback.retry_history(trial)
    return any(
        each.number < number
        and each.number not in repeated
        and each.user_attrs.get("slot") == trial.user_attrs["slot"]
        and (each.state != TrialState.FAIL or reason(each))
        for each in trials
    )


def _release(study: Study, deaths: Counter[int]) -> bool:
    import optuna  # noqa: PLC0415
    from optuna.trial import TrialState  # noqa: PLC0415

    optuna.storages.fail_stale_trials(study)  # of other machines, by their heartbeats
    unclear = False
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        slot, process = trial.user_attrs.get("slot", -1), trial.user_attrs.get("process")
        if process is None:  # it was not named yet, or the process was killed before
            started = trial.datetime_start or datetime.now()  # noqa: DTZ005  # as in Optuna
            is_gone = datetime.now() - started > _UNCLAIMED  # noqa: DTZ005
            unclear |= not is_gone
        else:
            is_gone = process[0] == socket.gethostname() and tuple(process) != named(process[1])
        if not is_gone:
            continue
        deaths[slot] += 1
        try:
            if deaths[slot] >= _MOST_DEATHS:
                count = f"its process ended {deaths[slot]} times without an error"
                # Optuna has no public way to the trial of another process.
                other = optuna.Trial(study, trial._trial_id)  # noqa: SLF001
                other.set_user_attr("reason", f"{count}: killed, or out of memory")
            study.tell(trial.number, state=TrialState.FAIL)
        except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
            continue  # another process was faster
        if slot >= 0 and deaths[slot] < _MOST_DEATHS:
            _retry(study, trial)
    return unclear


def named(process: int | None = None) -> tuple[str, int, str]:
    """Host, number and start of a process; by default of this one. No start if it is gone."""
    pid = os.getpid() if process is None else process
    return socket.gethostname(), pid, _start(pid)


def _start(pid: int) -> str:
    """When a process of this machine started, as its system says it; empty if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
        return "" if fields[0] == "Z" else fields[19]  # Z: a zombie
    except OSError:
        if Path("/proc/self/stat").exists():
            return ""
    try:  # macOS
        command = ["ps", "-o", "lstart=", "-p", str(pid)]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603
    except OSError:  # Windows, where a heartbeat tells
        return "unknown"
