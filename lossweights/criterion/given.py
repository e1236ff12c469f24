"""Which terms were given, and when."""

from collections.abc import Collection

_SOME_STEPS = 4  # after which a pattern is not taken for chance


class GivenTerms:
    """Notes which terms forward passes were given.

    Args:
        compared: Terms that a balancer compares with each other in a forward pass.

    Attributes:
        names: Those of the last forward pass.
        ever: Those that were ever given.
        alone: Compared terms that were given without another.
    """

    def __init__(self, compared: Collection[str]) -> None:
        self.names: tuple[str, ...] = ()
        self.ever: frozenset[str] = frozenset()
        self.alone: frozenset[str] = frozenset()
        self._compared = frozenset(compared)
        self._came_together = not self._compared
        self._last: dict[str, int] = {}  # step in which a term was given last, ...
        self._gaps: dict[str, int] = {}  # ... and the most steps between two

    def note(self, names: tuple[str, ...], step: int) -> None:
        """Notes the terms of a forward pass, which differ from those of the pass before."""
        self._note_last(step)
        self.names, self.ever = names, self.ever.union(names)
        for name in names:
            since = step - self._last.get(name, step)
            self._gaps[name] = max(self._gaps.get(name, 0), since)
        compared = self._compared.intersection(names)
        self._came_together = self._came_together or len(compared) > 1
        if len(compared) == 1:
            self.alone |= compared

    def _note_last(self, step: int) -> None:
        self._last |= dict.fromkeys(self.names, step)

    def lost(self, step: int, least: int) -> dict[str, int]:
        """Terms that are no longer given, with the number of steps since they were.

        That is at least `least`, and at least four times the longest gap so far.
        """
        self._note_last(step)
        since = {name: step - last for name, last in self._last.items()}
        return {n: steps for n, steps in since.items() if steps >= max(least, 4 * self._gaps[n])}

    def came_apart(self, step: int) -> bool:
        """Whether terms that are compared were only given alone, so far."""
        return not self._came_together and len(self.alone) > 1 and step >= _SOME_STEPS
