"""Sums and counts of observed values since the last step."""

from collections.abc import Collection, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lossweights.components.context import State
from lossweights.criterion.distributed import ProcessGroup
from lossweights.criterion.indexing import is_finite
from lossweights.errors import did_you_mean, quoted


class Observations:
    """Sums of observed values, one channel each, at fixed addresses.

    Args:
        terms: The terms, sorted, whose values have the first channels.
        raws: Terms whose value before the transform is observed too, in the next channels.
        metrics: Metrics that `criterion.observe` takes by name.
        summed: The terms with `accumulates: sum`.

    Attributes:
        names: What each channel observes.
        state: `totals` has sums and counts in one tensor, so that one collective reduces both;
            `passes`, if they are kept, is how many forward passes the last step had, 1 before it.
    """

    def __init__(
        self,
        terms: Sequence[str],
        raws: Sequence[str] = (),
        metrics: Sequence[str] = (),
        summed: Collection[str] = (),
    ) -> None:
        self.terms, self.raws, self.metrics = tuple(terms), tuple(raws), tuple(metrics)
        self._summed = [index for index, name in enumerate(terms) if name in summed]
        self.names = (*terms, *(f"raw {name}" for name in raws), *metrics)
        with torch.inference_mode(mode=False):
            totals = torch.zeros(2, len(self.names), dtype=torch.float32, device="cpu")
            self.state: State = {"totals": totals}
        self.refresh()

    def keep_passes(self) -> None:
        """Makes the number of forward passes of a step, of those that gave a sum, a state."""
        self.state["passes"] = torch.ones((), dtype=torch.float32, device="cpu")

    def refresh(self) -> None:
        """Makes the views of `state` again, after its tensor was replaced."""
        totals = self.state["totals"]
        self._sums, self._counts = totals.unbind()
        self._term_sums = self._sums[: len(self.terms)]
        self._term_counts = self._counts[: len(self.terms)]
        self._one = torch.ones((), dtype=totals.dtype, device=totals.device)

    def channel(self, name: str) -> int:
        """The channel of a term or a metric."""
        if name in self.terms:
            return self.terms.index(name)
        return len(self.terms) + len(self.raws) + self.metrics.index(name)

    def channel_of_raw(self, term: str) -> int:
        """The channel of a term's value before its transform."""
        return len(self.terms) + self.raws.index(term)

    def add_terms(self, values: Tensor, given: Sequence[str]) -> None:
        """Adds the values of the terms in `given`, detached and in sorted order."""
        if len(given) == len(self.terms):
            self._term_sums.add_(values)
            self._term_counts.add_(self._one)
            return
        for name, value in zip(given, values.unbind(), strict=True):
            self._add(self.channel(name), value)

    def add_raws(self, raws: Mapping[str, Tensor]) -> None:
        """Adds values before the transform."""
        for name in self.raws:
            if name in raws:
                self._add(self.channel_of_raw(name), raws[name].detach())

    def add_metrics(self, metrics: Mapping[str, Tensor | float], device: torch.device) -> None:
        """Adds values of metrics; none if one is unknown or no number, which is a ValueError."""
        for name in metrics:
            if name not in self.metrics:
                what = "not observed"
                if name in self.terms:
                    what = "a term (losses after a step go to criterion.observe_after({...}))"
                raise ValueError(
                    f"{name!r} is {what}{did_you_mean(name, self.metrics)} (observed metrics: "
                    f"{quoted(self.metrics)}); a controller observes what its `source` names"
                )
        numbers = {name: _number(name, value, device) for name, value in metrics.items()}
        for name, number in numbers.items():
            self._add(self.channel(name), number)

    def _add(self, channel: int, value: Tensor | float) -> None:
        self._sums[channel].add_(value)
        self._counts[channel].add_(self._one)

    def take(self, group: ProcessGroup) -> tuple[Tensor, Tensor]:
        """The value of each channel in this step, and where it is finite; the sums start over.

        It is the mean over forward passes and ranks; of a term with `accumulates: sum`, the mean
        over ranks of their sums.
        """
        totals = self.state["totals"]
        group.sum(totals)
        if self._summed:
            counts = [self._counts[index] for index in self._summed]
            if (kept := self.state.get("passes")) is not None:
                passes = torch.stack(counts).max() / group.count
                kept.copy_(torch.where(passes > 0, passes, kept))
            for count in counts:  # parts add up, and are averaged over the ranks alone
                count.clamp_(max=1).mul_(group.count)
        values = self._sums / self._counts  # 0 / 0 if nothing was observed; one nan spoils a mean
        totals.zero_()
        return values, is_finite(values)

    def drop(self) -> None:
        """Drops everything added since the last step."""
        self.state["totals"].zero_()

    def __getstate__(self) -> dict[str, Any]:
        views = ("_sums", "_counts", "_term_sums", "_term_counts", "_one")
        return {key: value for key, value in self.__dict__.items() if key not in views}

    @torch.inference_mode(mode=False)
    def __setstate__(self, kept: dict[str, Any]) -> None:
        self.__dict__.update(kept)
        # torch.multiprocessing shares the memory with the sender, which goes on by itself.
        self.state.update({key: tensor.clone() for key, tensor in self.state.items()})
        self.refresh()


def _number(metric: str, value: Any, device: torch.device) -> Tensor | float:
    if isinstance(value, Real) and not isinstance(value, bool):
        return float(value)
    found = repr(value)
    if isinstance(value, Tensor | np.ndarray):
        tensor = torch.as_tensor(value).detach()
        if tensor.numel() == 1 and not tensor.is_complex() and tensor.dtype is not torch.bool:
            # A scalar on the host may be added anywhere, without waiting for the device.
            tensor = tensor.reshape(())
            return tensor if tensor.device.type == "cpu" else tensor.to(device)
        found = f"one of shape {tuple(tensor.shape)} and {tensor.dtype}"
    raise ValueError(f"metric {metric!r} is a number or a scalar tensor, found {found}")
