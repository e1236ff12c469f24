"""What the forward passes of a step have shown: sums and counts, until the step is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lossweights.criterion.ranks import Ranks


class Means(NamedTuple):
    """Means over the forward passes of a step, and over the ranks.

    Args:
        values: One for each channel; nan where nothing was seen.
        valid: Where something was seen and all of it was finite.
    """

    values: Tensor
    valid: Tensor


class Observations:
    """Sums of what was seen, a channel for each thing to watch, at fixed addresses.

    The channels are the terms' values, in sorted order, then the values before the transform of
    some terms, then metrics.

    Args:
        terms: The terms, sorted.
        raws: Terms of which the value before the transform is watched too.
        metrics: What `criterion.observe` may give by name.

    Attributes:
        names: What each channel watches.
    """

    def __init__(self, terms: Sequence[str], raws: Sequence[str], metrics: Sequence[str]) -> None:
        self.terms, self.raws, self.metrics = tuple(terms), tuple(raws), tuple(metrics)
        self.names = (*terms, *(f"raw {name}" for name in raws), *metrics)
        with torch.inference_mode(mode=False):
            self._lie_in(torch.zeros(2, len(self.names), dtype=torch.float32, device="cpu"))

    def _lie_in(self, both: Tensor) -> None:
        self.both = both  # sums, then counts: one tensor, so that one collective takes them
        self._sums, self._counts = both.unbind()
        self._term_sums = self._sums[: len(self.terms)]
        self._term_counts = self._counts[: len(self.terms)]
        self._one = torch.ones((), dtype=both.dtype, device=both.device)

    def channel(self, name: str) -> int:
        """Where a term or a metric is."""
        if name in self.terms:
            return self.terms.index(name)
        return len(self.terms) + len(self.raws) + self.metrics.index(name)

    def channel_of_raw(self, term: str) -> int:
        """Where the value of a term before its transform is."""
        return len(self.terms) + self.raws.index(term)

    def add_terms(self, values: Tensor, given: Sequence[str]) -> None:
        """Adds the values of the terms that were given, detached and in sorted order."""
        if len(given) == len(self.terms):
            self._term_sums.add_(values)
            self._term_counts.add_(self._one)
            return
        for name, value in zip(given, values.unbind(), strict=True):
            self._add(self.terms.index(name), value)

    def add_raws(self, raws: Mapping[str, Tensor]) -> None:
        """Adds values before the transform."""
        for name in self.raws:
            if name in raws:
                self._add(self.channel_of_raw(name), raws[name].detach())

    def add_metric(self, metric: str, value: Tensor | float) -> None:
        """Adds what was given for a metric."""
        self._add(self.channel(metric), value)

    def _add(self, channel: int, value: Tensor | float) -> None:
        self._sums[channel].add_(value)
        self._counts[channel].add_(self._one)

    def take(self, ranks: Ranks) -> Means:
        """The means of all that was added on all ranks; what follows begins anew."""
        ranks.add_up(self.both)
        values = self._sums / self._counts  # nothing seen is 0 / 0; one nan spoils its mean
        self.both.zero_()
        return Means(values, (values - values).logical_not())  # inf - inf is nan

    def drop(self) -> None:
        """Forgets what was added."""
        self.both.zero_()

    def move(self, device: torch.device) -> None:
        """To another device, with what was added."""
        self._lie_in(self.both.to(device))

    def __getstate__(self) -> dict[str, Any]:
        views = ("_sums", "_counts", "_term_sums", "_term_counts", "_one")
        return {key: value for key, value in self.__dict__.items() if key not in views}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        self.__dict__.update(kept)
        self._lie_in(self.both)
