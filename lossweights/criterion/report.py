"""The parts of a total, by term."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

import torch
from torch import Tensor

from lossweights.errors import did_you_mean, quoted

QUANTITIES = ("raw", "value", "found", "weight", "penalty", "weighted", "share")  # of a term
METRICS = (*QUANTITIES, "total", "controller")  # what a logger may include
_SOMETIMES = ("found", "penalty")  # quantities that not every loss has


@dataclass(frozen=True)
class Breakdown:
    r"""The parts of a total, as 0-dim tensors by term; printed, a table.

    Args:
        total: The sum of `weighted`.
        raw: Values as given, reduced to scalars.
        value: What was weighted: `raw` through the term's transform.
        weight: The product of all factors.
        penalty: The penalty of learned weights; empty if nothing is learned.
        weighted: `weight * value + penalty`; over a step, the mean or sum of that.
        share: $|w_i l_i| / \sum_j |w_j l_j|$, the part of each term in the loss; 0 if all are 0.
        step: Optimizer steps done before the forward pass; None if it is not known.
        found: `weight` before the `normalize` and `bounds` of the balancer; nan if it found none,
            empty if it has neither.
        controllers: The state of each controller now, by term.
        notes: Warnings about the training so far.
    """

    total: Tensor
    raw: dict[str, Tensor]
    value: dict[str, Tensor]
    weight: dict[str, Tensor]
    penalty: dict[str, Tensor]
    weighted: dict[str, Tensor]
    share: dict[str, Tensor]
    step: int | None = None
    found: dict[str, Tensor] = field(default_factory=dict)
    controllers: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        raw: Sequence[Tensor],
        value: Sequence[Tensor],
        weight: Sequence[Tensor],
        penalty: Sequence[Tensor],
        products: Sequence[Tensor],
        order: Iterable[str],
        zero: Tensor,
        found: Sequence[Tensor] = (),
    ) -> Breakdown:
        """From the parts of the terms in `names`, for those of `order` that are among them.

        `products` are weights times values; `penalty` is empty if nothing is learned, and `found`
        if nothing is adjusted; `zero` is the total without any term.
        """
        where = {name: names.index(name) for name in order if name in names}

        def by_name(parts: Sequence[Tensor]) -> dict[str, Tensor]:
            return {name: parts[index] for name, index in where.items()} if parts else {}

        weighted, penalties = by_name(products), by_name(penalty)
        # Without the penalties, which move a weight, not the model.
        size = torch.stack([part.detach().abs() for part in weighted.values()] or [zero])
        share = size / size.sum().clamp_min(torch.finfo(size.dtype).tiny)
        weighted |= {name: weighted[name] + part for name, part in penalties.items()}
        return cls(
            total=torch.stack(list(weighted.values())).sum() if weighted else zero,
            raw=by_name(raw),
            value=by_name(value),
            weight=by_name(weight),
            penalty=penalties,
            weighted=weighted,
            share=dict(zip(where, share.unbind(), strict=False)),
            found=by_name(found),
        )

    def metrics(self, prefix: str = "", include: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Flat names for a logger: `raw/kl`, `weight/kl`, ..., `total`, `controller/kl/error`.

        Args:
            prefix: Prepended to each name, such as `train/`.
            include: Which of `raw`, `value`, `found`, `weight`, `penalty`, `weighted`, `share`,
                `total` and `controller`; all of them by default.

        Raises:
            ValueError: For an unknown quantity.
        """
        found: dict[str, Tensor] = {}
        for quantity in chosen(include, METRICS):
            if quantity == "total":
                found[f"{prefix}total"] = self.total.detach()
            elif quantity == "controller":
                for name, state in self.controllers.items():
                    for key, tensor in state.items():
                        found[f"{prefix}controller/{name}/{key}"] = tensor
            else:
                parts: Mapping[str, Tensor] = getattr(self, quantity)
                for name, part in parts.items():
                    found[f"{prefix}{quantity}/{name}"] = part.detach()
        return found

    def __str__(self) -> str:
        numbers = on_host(self.metrics())
        columns = [each for each in QUANTITIES if each not in _SOMETIMES or getattr(self, each)]
        width = max([len("total"), *map(len, self.raw)])
        lines = [] if self.step is None else [f"step {self.step}"]
        lines.append(f"{'term':<{width}} " + "".join(f"{column:>12}" for column in columns))
        for name in self.raw:
            cells = "".join(f"{numbers[f'{column}/{name}']:>12.5g}" for column in columns[:-1])
            lines.append(f"{name:<{width}} {cells}{numbers[f'share/{name}']:>12.1%}")
        lines.append(f"{'total':<{width}} {numbers['total']:>{12 * (len(columns) - 1)}.5g}")
        for name, state in self.controllers.items():
            values = (f"{key} {numbers[f'controller/{name}/{key}']:.5g}" for key in state)
            lines.append(f"controller of {name}: {', '.join(values)}")
        return "\n".join([*lines, *self.notes])


SET_BY_HAND = (
    "weights are computed from the config: to set one by hand, write {kind: manual, initial: 0.1} "
    "as the term and call criterion.set_weight(name, 0.3)"
)


class Weights(dict[str, float]):
    """Weights by term. It cannot be changed, because that would not change the criterion."""

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError(SET_BY_HAND)

    __setitem__ = __delitem__ = __ior__ = _refuse
    update = setdefault = pop = popitem = clear = _refuse

    def __reduce__(self) -> tuple[type[dict[str, float]], tuple[dict[str, float]]]:
        return dict, (dict(self),)


def chosen(include: Iterable[str] | None, known: Sequence[str]) -> tuple[str, ...]:
    """The quantities to include, all by default; a ValueError for an unknown one."""
    wanted = tuple(known if include is None else include)
    for quantity in wanted:
        if quantity not in known:
            raise ValueError(
                f"there is no quantity {quantity!r}{did_you_mean(quantity, known)} "
                f"(there are {quoted(known)})"
            )
    return wanted


def on_host(tensors: Mapping[str, Tensor]) -> dict[str, float]:
    """Many 0-dim tensors as floats, in one transfer."""
    values = torch.stack(list(tensors.values())).tolist() if tensors else []
    return dict(zip(tensors, values, strict=True))
