"""What is known of the gradients of terms with respect to what they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

Statistic: TypeAlias = Literal["gramian", "norms", "max_abs", "mean_abs", "item_norms"]
STATISTICS: tuple[Statistic, ...] = get_args(Statistic)


class Gradients:
    r"""Statistics of the terms' gradients $g_i$ with respect to what they share.

    All are float64, and those of the whole batch where there are several ranks. A balancer is
    given those that its class declares in `needs`, and no others.

    Args:
        names: The terms, sorted: of the rows, and of what else has one entry for each term.
        found: The statistics by name.
        seen: Which of the terms were seen, shape (m,), bool; what is told of the others is 0.

    Attributes:
        gramian: $g_i \cdot g_j$, shape (m, m); in `update` nan for two terms that were seen, but
            never in one forward pass.
        norms: $\lVert g_i \rVert$, shape (m,).
        max_abs: The largest $|g|$ of each term, shape (m,).
        mean_abs: The mean $|g|$ of each term, shape (m,).
        item_norms: The mean over the batch of the norm of each item's gradient, shape (m,).

    >>> norms = torch.tensor([3.0, 4.0], dtype=torch.float64)
    >>> Gradients(["a", "b"], {"norms": norms}, seen=torch.tensor([True, True])).norms
    tensor([3., 4.], dtype=torch.float64)
    """

    __slots__ = ("found", "names", "seen")

    def __init__(
        self, names: Sequence[str], found: Mapping[Statistic, Tensor], seen: Tensor
    ) -> None:
        self.names = tuple(names)
        self.found = dict(found)
        self.seen = seen

    @property
    def gramian(self) -> Tensor:
        return self._get("gramian")

    @property
    def norms(self) -> Tensor:
        return self._get("norms")

    @property
    def max_abs(self) -> Tensor:
        return self._get("max_abs")

    @property
    def mean_abs(self) -> Tensor:
        return self._get("mean_abs")

    @property
    def item_norms(self) -> Tensor:
        return self._get("item_norms")

    def _get(self, statistic: Statistic) -> Tensor:
        if statistic not in self.found:
            raise ValueError(
                f"the gradients' {statistic} was not computed: write "
                f"needs = ({statistic!r},) in the class of the balancer"
            )
        return self.found[statistic]


def orthonormal(names: Sequence[str], device: torch.device) -> Gradients:
    """What is known of gradients of length 1 that are orthogonal to each other."""
    n = len(names)
    found = {key: torch.ones(n, dtype=torch.float64, device=device) for key in STATISTICS}
    found["gramian"] = torch.eye(n, dtype=torch.float64, device=device)
    return Gradients(names, found, torch.ones(n, dtype=torch.bool, device=device))
