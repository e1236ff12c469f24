"""Trainings of microseconds, which processes can import."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from lossweights import LossConfig

CONFIG: dict[str, Any] = {
    "total_steps": 100,
    "terms": {
        "nll": 1.0,
        "kl": {"weight": 0.5, "schedule": {"kind": "cyclical", "cycles": 4}},
    },
}
RANGE = {"kl.weight": (0.01, 10.0, "log")}


def trade(config: LossConfig, seed: int, report: Any) -> dict[str, float]:
    """A loss that rises with the weight, and a score that rises too, under noise by the seed."""
    weight = config.terms["kl"].weight
    return {"nll": 10 + weight + 0.05 * seed, "probe": weight / (1 + weight) + 0.01 * seed}


def logged(config: LossConfig, seed: int, report: Any) -> dict[str, float]:
    """The same; a line in the file `LOG` for each training that ends."""
    time.sleep(0.05)
    found = trade(config, seed, report)
    with Path(os.environ["LOG"]).open("a", encoding="utf-8") as file:
        file.write(f"{config.terms['kl'].weight!r} {seed}\n")
    return found


def killed_once(config: LossConfig, seed: int, report: Any) -> dict[str, float]:
    """The same; the first process that trains the second seed of a config is killed in it."""
    mark = Path(os.environ["LOG"]).with_suffix(".killed")
    if seed == 1 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return logged(config, seed, report)


def killed_always(config: LossConfig, seed: int, report: Any) -> dict[str, float]:
    """A training whose process is killed, if the weight is 3."""
    if config.terms["kl"].weight == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return trade(config, seed, report)
