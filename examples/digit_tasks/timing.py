"""The time of the steps of several training loops."""

from collections.abc import Iterator, Mapping
from statistics import median
from time import perf_counter

_WARM_UP = 3  # steps of each loop that do not count


def step_times(loops: Mapping[str, Iterator[object]], steps: int) -> dict[str, float]:
    """The median seconds of a step of each loop.

    The loops take one step each in turn, so other work of the machine slows all of them equally.
    """
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for step in range(_WARM_UP + steps):
        for name, loop in loops.items():
            start = perf_counter()
            next(loop)
            if step >= _WARM_UP:
                seconds[name].append(perf_counter() - start)
    return {name: median(of_loop) for name, of_loop in seconds.items()}
