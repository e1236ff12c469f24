"""The scheduled numbers of a criterion, as a program reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor

from lossweights.criterion.modes import Modes
from lossweights.errors import did_you_mean, quoted


class Scheduled(Mapping[str, float]):
    """The scheduled numbers of a config at the coming step, in training and in evaluation.

    A read-only mapping from their names to floats, in float64. Reading one does not wait for the
    device. It always has the current values, so it may be kept. Changing it raises a TypeError.

    Raises:
        ValueError: For an unknown name.
        HorizonError: If the length of training is needed and not known.
        RuntimeError: If a number is read inside a compiled graph, of which it would be a constant.

    >>> from lossweights import Ramp, WeightedLoss
    >>> criterion = WeightedLoss(
    ...     ["soft"], scheduled={"temperature": Ramp(start=4.0, stop=1.0, over="3 steps")}
    ... )
    >>> criterion.scheduled["temperature"]
    4.0
    >>> criterion.step()
    >>> criterion.scheduled["temperature"], criterion.scheduled.tensor("temperature")
    (3.0, tensor(3.))
    """

    def __init__(self, modes: Modes) -> None:
        self._modes = modes

    def __getitem__(self, name: str) -> float:
        self._check(name)
        if torch.compiler.is_compiling():
            raise RuntimeError(
                f"the scheduled number {name!r} would be a constant of the compiled graph: write "
                f"criterion.scheduled.tensor({name!r}) there"
            )
        return self._modes.record.numbers[name]

    def tensor(self, name: str) -> Tensor:
        """A number as a 0-dim float32 tensor, for compiled code and CUDA graphs.

        Its address is fixed: each step overwrites its value. It is on the device of the criterion.
        One that was returned before the criterion moved stays current on the earlier device. A
        copy of the criterion has tensors of its own.

        If a backward pass needs the value and comes after the step, autograd raises an error:
        use a `.clone()` there.

        Raises:
            ValueError: For an unknown name.
            HorizonError: If the length of training is needed and not known.
        """
        self._check(name)
        return self._modes.numbers[self._modes.device][name]

    def _check(self, name: str) -> None:
        """Raises if there is no such number, or no values yet."""
        numbers = self._modes.config.scheduled
        if name not in numbers:
            hint = "" if numbers else ": write scheduled: {name: schedule} beside terms"
            raise ValueError(
                f"no scheduled number is called {name!r}{did_you_mean(name, numbers)} "
                f"(there are {quoted(numbers)}){hint}"
            )
        self._modes.get(training=True)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modes.config.scheduled)

    def __len__(self) -> int:
        return len(self._modes.config.scheduled)

    def __contains__(self, name: object) -> bool:
        return name in self._modes.config.scheduled

    def get(self, name: str, default: Any = None) -> Any:
        """The number, or the default if there is none of that name."""
        if name not in self:
            return default
        return self[name]

    def __repr__(self) -> str:
        return repr(dict(self))

    def _refuse(self, *_: object) -> NoReturn:
        raise TypeError(COMPUTED)

    __setitem__ = __delitem__ = _refuse


COMPUTED = (
    "scheduled numbers are computed from the config: to change one, build the criterion from "
    "config.override({'scheduled.name': schedule}), or declare a function of the step"
)
