"""What goes wrong with the terms of a loss, told from medians of what they were."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

from lossweights.balancers import GradientBalancer
from lossweights.errors import quoted
from lossweights.windows import Plan, Window

Trouble = Literal["explosion", "collapse", "dominance", "conflict"]

_FELL, _KEPT = 0.25, 0.5  # of its peak a term has left, and the others meanwhile of theirs
_FELT = 10.0  # times the loss as it was: what is smaller has not exploded
_COUNTED = 0.1  # of the loss: a term that rises from less does not lose what was gained
_SUNK = 0.9  # of where it began: what a term that falls has left
_STEADY = 0.8  # the rank correlation with time of what goes one way


@dataclass(frozen=True)
class Finding:
    """A trouble of a term.

    Args:
        step: The last step that was looked at.
        term: The term.
        trouble: `explosion`, `collapse`, `dominance` or `conflict`.
        message: The figures, and what to try.
    """

    step: int
    term: str
    trouble: Trouble
    message: str


class Bounds(NamedTuple):
    """What is too much, and for how many windows; as in `Monitor`."""

    patience: int
    collapse: float
    dominance: float
    explosion: float
    conflict: float


@dataclass
class Look:
    """A look for what is wrong as the last window ends.

    Args:
        windows: All so far; the first may be of a single row.
        plan: What the terms are meant to weigh.
        bounds: What is too much.
        known: Terms with their troubles that were told; what is found is added.
    """

    windows: Sequence[Window]
    plan: Plan
    bounds: Bounds
    known: set[tuple[str, Trouble]]

    def findings(self) -> Iterator[Finding]:
        """What is wrong, but for what is known."""
        looks = {
            "explosion": self.explosion,
            "collapse": self.collapse,
            "dominance": self.dominance,
            "conflict": self.conflict,
        }
        trouble: Trouble
        for trouble, look in looks.items():  # type: ignore[assignment]
            for name in self.plan.config.terms:
                if (name, trouble) not in self.known and (message := look(name)):
                    self.known.add((name, trouble))
                    yield Finding(self.windows[-1].last, name, trouble, message)

    @cached_property
    def _recent(self) -> Sequence[Window]:
        return self.windows[-self.bounds.patience :]

    @cached_property
    def _earlier(self) -> Sequence[Window]:
        return self.windows[: -self.bounds.patience]

    def explosion(self, name: str) -> str:
        """Whether it is not finite, or has grown by orders and takes the loss along."""
        last, plan = self.windows[-1], self.plan
        if name in last.broken:
            return (
                f"term {name!r} is nan or inf in {last.broken[name]} of the rows from step "
                f"{last.first} to {last.last}. To see where it begins, write on_nonfinite: raise "
                "beside terms; to go on without it, on_nonfinite: skip_term"
            )
        # A weight that is found in training may run away; one that is scheduled does as told.
        is_found = name in plan.found
        before = [w.weighted if is_found else w.size for w in self._earlier]
        now = [w.weighted if is_found else w.size for w in self._recent]
        levels = [sizes[name] for sizes in before if name in sizes]
        totals = [window.total for window in self._earlier if window.total > 0]
        if not levels or not totals or any(name not in sizes for sizes in now):
            return ""
        level, total = float(np.median(levels)), float(np.median(totals))
        felt = min(window.weighted[name] for window in self._recent)
        if min(s[name] for s in now) < self.bounds.explosion * level or felt < _FELT * total:
            return ""
        if name in plan.steered:
            highest = _short(2 * total / last.size[name])
            line = f"bound its weight, with highest: {highest} at terms.{name}.controller"
        else:
            weight = plan.config.terms[name].weight * total / last.weighted[name]
            line = f"count it less, with weight: {_short(weight)} at terms.{name}"
        what = "weighted value" if is_found else "value"
        return (
            f"term {name!r} explodes: its {what} went from {level:.3g} to {now[-1][name]:.3g}, "
            f"and the loss from {total:.3g} to {last.total:.3g}. Lower the learning rate, clip "
            f"gradients, or {line}"
        )

    def collapse(self, name: str) -> str:
        """Whether it has become negligible, though it is meant to count, and fell alone."""
        recent, plan = self._recent, self.plan
        if not self._earlier or not plan.counts(name, recent):
            return ""
        if any(max(w.share[name], w.portion[name]) >= self.bounds.collapse for w in recent):
            return ""
        past = [w for w in self.windows if name in w.size and plan.is_comparable(name, w.last)]
        peak = max(past, key=lambda window: window.size[name])
        fallen = [w for w in past if w.last > peak.last and w.size[name] <= _FELL * peak.size[name]]
        if not fallen:
            return ""
        low, last = fallen[0], recent[-1]
        kept = [
            low.size[other] / size
            for other, size in peak.size.items()
            if other != name and size > 0 and other in low.size
        ]
        if not kept or np.median(kept) < _KEPT:
            return ""  # it converged, and so did the others
        return (
            f"term {name!r} has collapsed: from {peak.size[name]:.3g} at step {peak.last} to "
            f"{last.size[name]:.3g}, {last.share[name]:.2%} of the loss. It fell alone: by step "
            f"{low.last} it had {low.size[name] / peak.size[name]:.0%} left, the others "
            f"{np.median(kept):.0%}. If it should carry something, as the KL of a VAE, write "
            "schedule: {kind: cyclical, cycles: 4} or controller: {kind: pid, target: 3.0} at "
            f"terms.{name}, the target being the value to hold; if it belongs near 0, as the "
            "error of an easy task, all is well"
        )

    def dominance(self, name: str) -> str:
        """Whether it leaves nothing of the loss to terms that are meant to count."""
        recent, plan = self._recent, self.plan
        if not self._earlier or (name, "explosion") in self.known:
            return ""
        if any(window.share.get(name, 0.0) < self.bounds.dominance for window in recent):
            return ""
        small = [
            other
            for other in recent[-1].share
            if other != name
            and (other, "collapse") not in self.known
            and plan.counts(other, recent, beside=name)
        ]
        if not small or not plan.has_settled(name, recent[0].first):
            return ""
        last = recent[-1]
        most = max(last.weighted[other] for other in small)
        weight = _short(plan.config.terms[name].weight * most / last.weighted[name])
        balanced = "" if plan.config.balancer else ", or balancer: moving-average beside terms"
        return (
            f"term {name!r} dominates: {last.share[name]:.1%} of the loss from step "
            f"{recent[0].first} to {last.last}, so that {quoted(small)} hardly "
            f"{'counts' if len(small) == 1 else 'count'}. For equal shares write weight: {weight} "
            f"at terms.{name}{balanced}; lossweights.calibrate proposes the weights of all terms "
            "from a few batches"
        )

    def conflict(self, name: str) -> str:
        """Whether it loses what was gained, steadily, while another falls."""
        windows, plan = self.windows[-2 * self.bounds.patience :], self.plan
        if len(self.windows) <= len(windows) or not plan.counts(name, windows):
            return ""
        first, last = windows[0], windows[-1]
        rises = last.raw[name] >= self.bounds.conflict * first.raw[name] > 0
        if not rises or first.share[name] < _COUNTED or self._trend(name, windows) < _STEADY:
            return ""
        falling = [
            other
            for other in first.raw
            if other != name
            and plan.counts(other, windows, beside=name)
            and 0 < last.raw[other] <= _SUNK * first.raw[other]
            and self._trend(other, windows) <= -_STEADY
        ]
        if not falling:
            return ""
        fell = " and ".join(
            f"{other!r} fell from {first.raw[other]:.3g} to {last.raw[other]:.3g}"
            for other in falling
        )
        if isinstance(plan.config.balancer, GradientBalancer):
            line = f"write weight: {_short(2 * plan.config.terms[name].weight)} at terms.{name}"
        else:
            line = (
                "weigh them by their gradients: balancer: pcgrad beside terms, and "
                "criterion(terms, shared=features)"
            )
        return (
            f"term {name!r} rises against another: from {first.raw[name]:.3g} to "
            f"{last.raw[name]:.3g} between step {first.first} and {last.last}, while {fell}. If "
            f"they pull what they share in different directions, {line}"
        )

    @staticmethod
    def _trend(name: str, windows: Sequence[Window]) -> float:
        """The rank correlation of its values with time."""
        ranks = np.argsort(np.argsort([window.raw[name] for window in windows]))
        return float(np.corrcoef(ranks, np.arange(len(windows)))[0, 1])


def _short(number: float) -> str:
    """Two digits, as a config has them."""
    return f"{float(f'{number:.1e}'):g}"
