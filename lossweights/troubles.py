"""What goes wrong with the terms of a loss, told from medians of what they were."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

from lossweights.balancers import GradientBalancer
from lossweights.errors import quoted
from lossweights.windows import Plan, Window

Trouble = Literal["explosion", "collapse", "dominance", "conflict"]

_FELL, _KEPT = 0.25, 0.6  # of its peak a term has left, and the others meanwhile of theirs,
_FLAT, _STILL = 0.5, 0.9  # and of that it has in the end, and of what it was of late; or
_WORSE = 1.05  # times what they were then the others are
_NEVER = 0.1  # of the loss: a term that was once more has counted
_FELT = 10.0  # times the loss as it was: what is smaller has not exploded
_GAINED = 2.0  # times what it rises from a term has been that loses what was gained,
_COUNTED = 0.05  # and what part of the loss it rises to, weighted or as given
_SUNK = 1.1  # how many times what it falls to a term has been that falls
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
    floors: Mapping[str, float]
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

    @cached_property
    def _earlier_total(self) -> float:
        totals = [window.total for window in self._earlier if window.total > 0]
        return float(np.median(totals)) if totals else 0.0

    @cached_property
    def _long(self) -> Sequence[Window]:
        """Three times as many as those, where there are more; else none."""
        count = 3 * self.bounds.patience
        return self.windows[-count:] if len(self.windows) > count else ()

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
        total = self._earlier_total
        felt = min(window.weighted.get(name, 0.0) for window in self._recent)
        if not total or felt < _FELT * total:
            return ""
        is_found = name in plan.found
        sizes = [window.weighted if is_found else window.size for window in self.windows]
        values = [size[name] for size in sizes if name in size]
        before, now = values[: -self.bounds.patience], values[-self.bounds.patience :]
        level = float(np.median(before)) if before else math.inf
        if min(now) < self.bounds.explosion * level:
            return ""
        if name in plan.steered:
            highest = _short(2 * total / last.size[name])
            line = f"bound its weight, with highest: {highest} at terms.{name}.controller"
        else:
            weight = plan.config.terms[name].weight * total / last.weighted[name]
            line = f"count it less, with weight: {_short(weight)} at terms.{name}"
        what = "weighted value" if is_found else "value"
        return (
            f"term {name!r} explodes: its {what} went from {level:.3g} to {now[-1]:.3g}, "
            f"and the loss from {total:.3g} to {last.total:.3g}. Lower the learning rate, clip "
            f"gradients, or {line}"
        )

    def collapse(self, name: str) -> str:
        """Whether it stays under its floor, or has become negligible, meant to count, alone."""
        last = self._recent[-1]
        if not self._earlier or not (how := self._below_floor(name) or self._fell_alone(name)):
            return ""
        return (
            f"term {name!r} has collapsed to {last.size[name]:.3g}, {last.share[name]:.2%} of the "
            f"loss: {how}. If it should carry something, as the KL of a VAE, write "
            "schedule: {kind: cyclical, cycles: 4} or controller: {kind: pid, target: 3.0} at "
            f"terms.{name}, the target being the value to hold; if it belongs near 0, all is well"
        )

    def _below_floor(self, name: str) -> str:
        recent, floor = self._recent, self.bounds.floors.get(name, 0.0)
        is_below = all(window.size.get(name, math.inf) < floor for window in recent)
        if not is_below or not self.plan.has_settled(name, recent[0].first):
            return ""
        return (
            f"it is below its floor of {floor:g} from step {recent[0].first} to {recent[-1].last}"
        )

    def _fell_alone(self, name: str) -> str:
        recent, plan = self._recent, self.plan
        if name in self.bounds.floors or not plan.counts(name, recent):
            return ""
        if any(max(w.share[name], w.portion[name]) >= self.bounds.collapse for w in recent):
            return ""
        past = [w for w in self.windows if name in w.size and plan.is_comparable(name, w.last)]
        peak = max(past, key=lambda window: window.size[name])
        fallen = [w for w in past if w.last > peak.last and w.size[name] <= _FELL * peak.size[name]]
        if not fallen:
            return ""
        low, last = fallen[0], recent[-1]
        top = f"from {peak.size[name]:.3g} at step {peak.last} it fell"
        then, now = self._kept(name, peak, low), self._kept(name, peak, last)
        if now >= _WORSE:
            return f"{top}, and the others came to {now:.0%} of what they were"
        least = max(_FLAT * low.size[name], _STILL * recent[0].size[name])
        if then >= _KEPT and last.size[name] >= least:
            return (
                f"{top} to {low.size[name] / peak.size[name]:.0%} by step {low.last}, the others "
                f"only to {then:.0%}, and stayed there"
            )
        return ""  # it converges, as an easy task does

    @staticmethod
    def _kept(name: str, before: Window, after: Window) -> float:
        """What part of their size the other terms have kept; 0 where there are none."""
        kept = [
            after.size[other] / size
            for other, size in before.size.items()
            if other != name and size > 0 and other in after.size
        ]
        return float(np.median(kept)) if kept else 0.0

    def dominance(self, name: str) -> str:
        """Whether it leaves nothing of the loss to terms that are meant to count."""
        windows, plan = self._long, self.plan
        if not windows or (name, "explosion") in self.known:
            return ""
        if any(window.share.get(name, 0.0) < self.bounds.dominance for window in windows):
            return ""
        small = [
            other
            for other in windows[-1].share
            if other != name
            and not {name, other} <= plan.balanced
            and windows[-1].weighted[other] > 0
            and (other, "collapse") not in self.known
            and max(w.share.get(other, 0.0) for w in self.windows) < _NEVER  # else it is done
            and plan.counts(other, windows, beside=name)
        ]
        if not small or not plan.has_settled(name, windows[0].first):
            return ""
        last = windows[-1]
        most = max(last.weighted[other] for other in small)
        weight = _short(plan.config.terms[name].weight * most / last.weighted[name])
        balanced = "" if plan.config.balancer else ", or balancer: moving-average beside terms"
        return (
            f"term {name!r} dominates: {last.share[name]:.1%} of the loss from step "
            f"{windows[0].first} to {last.last}, so that {quoted(small)} hardly "
            f"{'counts' if len(small) == 1 else 'count'}. For equal shares write weight: {weight} "
            f"at terms.{name}{balanced}; lossweights.calibrate proposes the weights of all terms "
            "from a few batches"
        )

    def conflict(self, name: str) -> str:
        """Whether it loses what was gained, steadily, while another falls."""
        windows, plan = self._long, self.plan
        if not windows or not plan.counts(name, windows):
            return ""
        first, last, begin = windows[0], windows[-1], windows[: self.bounds.patience]
        if max(last.share[name], last.portion[name]) < _COUNTED:
            return ""
        if not self._goes(name, windows, self.bounds.conflict):
            return ""
        gained = max(window.size.get(name, 0.0) for window in self.windows[: -len(windows)])
        if gained < _GAINED * max(window.size[name] for window in begin):
            return ""  # it has never been worse, as the KL of a VAE that takes up its code
        recent = windows[-self.bounds.patience :]
        falling = [
            other
            for other in first.raw
            if other != name
            and plan.counts(other, windows, beside=name)
            and self._goes(other, windows[::-1], _SUNK)
            and min(w.raw[other] for w in recent)
            <= min(w.raw.get(other, math.inf) for w in self.windows)
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
                "weigh them by their gradients, with balancer: pcgrad beside terms and "
                "criterion(terms, shared=features)"
            )
        return (
            f"term {name!r} loses what was gained: it rose from {first.raw[name]:.3g} to "
            f"{last.raw[name]:.3g} between step {first.first} and {last.last}, while {fell}. If "
            f"they pull what they share in different directions, {line}"
        )

    def _goes(self, name: str, windows: Sequence[Window], times: float) -> bool:
        """Whether a value goes up steadily, its last third to so many times its first one."""
        values = [window.raw[name] for window in windows]
        first, last = values[: self.bounds.patience], values[-self.bounds.patience :]
        if min(values) <= 0 or float(np.median(last)) < times * float(np.median(first)):
            return False
        ranks = np.argsort(np.argsort(values))
        return bool(np.corrcoef(ranks, np.arange(len(values)))[0, 1] >= _STEADY)


def _short(number: float) -> str:
    """Two digits, as a config has them."""
    return f"{float(f'{number:.1e}'):g}"
