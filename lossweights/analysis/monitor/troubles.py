"""What goes wrong with the terms of a loss, told from medians of what they were."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from lossweights.analysis.monitor.windows import Plan, Window
from lossweights.errors import quoted

Trouble = Literal["explosion", "collapse", "dominance", "conflict"]

_FELL = 0.5  # of its value a term has left that has fallen: batches differ by less
_KEPT = 0.25  # of theirs the others have left beside it; with less, all are learned alike
_WORSE = 1.05  # times theirs the others have at whose cost it fell: medians of rows differ by less
_SUNK = 0.9  # of its value a term has left that wins a conflict, be it ever so little
_COUNTED = 0.05  # of the loss: a term of more has a part in it
_LOUD = 10.0  # times the loss as it was: by less it grows with a weight that was just let in


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


class Look:
    """A look for what is wrong as the last window ends.

    Args:
        windows: All so far; the first is of a single row, as training began.
        plan: What the terms are meant to weigh.
        bounds: What is too much.
        known: Terms with their troubles that were told; what is found is added.
    """

    def __init__(
        self,
        windows: Sequence[Window],
        plan: Plan,
        bounds: Bounds,
        known: set[tuple[str, Trouble]],
    ) -> None:
        self._begin, self._windows = windows[0], windows[1:]
        self._plan, self._bounds, self._known = plan, bounds, known
        self._last = windows[-1]
        patience = bounds.patience
        self._earlier, self._recent = windows[:-patience], windows[-patience:]
        # A dominance and a conflict may pass: what is larger is learned first.
        self._long = self._windows[-3 * patience :]

    def findings(self) -> Iterator[Finding]:
        """What is wrong, but for what is known."""
        looks: dict[Trouble, Callable[[str], str]]
        if len(self._windows) < self._bounds.patience:
            looks = {"explosion": self._broken}
        else:
            looks = {
                "explosion": lambda name: self._broken(name) or self._explosion(name),
                "collapse": self._collapse,
            }
        if len(self._windows) >= 3 * self._bounds.patience:
            looks |= {"dominance": self._dominance, "conflict": self._conflict}
        for trouble, look in looks.items():
            for name in self._plan.config.terms:
                if (name, trouble) not in self._known and (message := look(name)):
                    self._known.add((name, trouble))
                    yield Finding(self._last.last, name, trouble, message)

    def _broken(self, name: str) -> str:
        """Whether it is not finite."""
        last = self._last
        if name not in last.broken:
            return ""
        return (
            f"term {name!r} is nan or inf in {last.broken[name]} of the rows from step "
            f"{last.first} to {last.last}. To see where it begins, write on_nonfinite: raise "
            "beside terms; to go on without it, on_nonfinite: skip_term"
        )

    def _explosion(self, name: str) -> str:
        """Whether it is so many times what it was, and alone ten times what the loss was."""
        last, plan = self._last, self._plan
        totals = [window.total for window in self._earlier if window.total > 0]
        # A weight that is found in training may run away; one that is scheduled does as told.
        is_found = name in plan.found
        before, now = (
            [w.weighted[name] if is_found else w.raw[name] for w in windows if name in w.raw]
            for windows in (self._earlier, self._recent)
        )
        if not totals or not before or len(now) < len(self._recent):
            return ""
        total, level = float(np.median(totals)), float(np.median(np.abs(before)))
        # Below 0 it lowers the loss, as a reward that is learned.
        felt = min(window.weighted[name] for window in self._recent)
        if felt < _LOUD * total or min(map(abs, now)) < self._bounds.explosion * level:
            return ""
        term = plan.config.terms[name]
        size = abs(term.weight * last.raw[name])  # at a multiplier of 1, but for a transform
        is_bounded = name in plan.steered and size and term.transform is None
        highest = _short(2 * total / size) if is_bounded else ""
        lines = ["Lower the learning rate", "clip gradients"]
        if highest and plan.takes(f"terms.{name}.controller.highest", highest):
            lines += [f"bound its weight, with highest: {highest} at terms.{name}.controller"]
        elif len(last.raw) > 1:
            weight = _short(term.weight * total / last.weighted[name])
            lines += [f"count it less, with weight: {weight} at terms.{name}"]
        what = "weighted value" if is_found else "value"
        return (
            f"term {name!r} explodes: its {what} went from {float(np.median(before)):.3g} to "
            f"{now[-1]:.3g}, and the loss from {total:.3g} to {last.total:.3g}. "
            f"{', '.join(lines[:-1])}, or {lines[-1]}"
        )

    def _collapse(self, name: str) -> str:
        """Whether it is below its floor, or has fallen to where it hardly counts."""
        last, recent = self._last, self._recent
        if name in self._bounds.floors:
            how = self._below_floor(name)
        elif self._plan.counts(name, recent) and self._is_small(name, recent):
            how = self._fell_at_once(name) or self._fell_at_a_price(name)
        else:
            how = ""
        if not how:
            return ""
        # Cycles are parts of a training whose length is known.
        cycles = "schedule: {kind: cyclical, cycles: 4} or " * self._plan.horizon.is_bounded
        return (
            f"term {name!r} has collapsed to {last.raw[name]:.3g}, {last.share[name]:.2%} of "
            f"the loss: {how}. If it should carry something, as the KL of a VAE, write "
            f"{cycles}controller: {{kind: pid, target: 3.0}} at terms.{name}"
            f"{self._in_place(name)}, the target being the value to hold. If its unit is small, "
            "give it a larger weight, as lossweights.calibrate proposes. If it belongs near 0, "
            "all is well"
        )

    def _in_place(self, name: str) -> str:
        """What another schedule or controller takes the place of: a term has one of both."""
        term = self._plan.config.terms[name]
        if term.controller is not None:
            return ", in place of its controller"
        return "" if term.schedule is None else ", in place of its schedule"

    def _below_floor(self, name: str) -> str:
        recent, floor = self._recent, self._bounds.floors[name]
        is_below = all(abs(window.raw.get(name, math.inf)) < floor for window in recent)
        if not is_below or not self._plan.has_settled(name, recent[0].first):
            return ""
        return (
            f"it is below its floor of {floor:g} from step {recent[0].first} to {recent[-1].last}"
        )

    def _is_small(self, name: str, windows: Sequence[Window]) -> bool:
        """Whether it hardly counts in all of them, beside an equal share for each term."""
        return all(
            max(w.share.get(name, 0.0), w.portion.get(name, 0.0)) * len(w.raw)
            < self._bounds.collapse
            for w in windows
        )

    def _fell_at_once(self, name: str) -> str:
        """As the KL of a decoder that never takes up its code."""
        begin = self._begin.raw.get(name, 0.0)
        lowest = min((window.raw.get(name, math.inf) for window in self._windows), key=abs)
        if abs(lowest) > _FELL * abs(begin) or not self._is_small(name, self._windows):
            return ""
        if self._is_around_0(name, begin):
            return ""
        if self._others(name, self._begin) < _KEPT:
            return ""
        return (
            f"from {begin:.3g} at step {self._begin.last} it fell at once, to {lowest:.3g} at the "
            "least, and has never counted for more"
        )

    def _fell_at_a_price(self, name: str) -> str:
        """As the KL of a decoder that gives its code up; an easy task makes no other worse."""
        past = [w for w in self._windows if name in w.raw and self._plan.has_settled(name, w.first)]
        peak = max(past, key=lambda window: abs(window.raw[name]))
        grown, highest = self._others(name, peak), peak.raw[name]
        if grown < _WORSE or abs(self._last.raw[name]) > _FELL * abs(highest):
            return ""
        if self._is_around_0(name, highest):
            return ""
        return (
            f"from {highest:.3g} at step {peak.last} it fell, and the others came to "
            f"{grown:.0%} of what they were"
        )

    def _is_around_0(self, name: str, value: float) -> bool:
        """Whether it lies on both sides of 0, as the loss of a policy: `value` was no size then.

        A KL that is estimated from samples does so only by little, once it has vanished.
        """
        extents = [w.extent[name] for w in [self._begin, *self._windows] if name in w.extent]
        beyond = max(-low if value > 0 else high for low, high in extents)
        return abs(value) < 2 * beyond

    def _others(self, name: str, before: Window) -> float:
        """How many times what they were the other terms are now; 0 where there are none."""
        times = [
            abs(self._last.raw[other] / value)
            for other, value in before.raw.items()
            if other != name and value and other in self._last.raw
        ]
        return float(np.median(times)) if times else 0.0

    def _dominance(self, name: str) -> str:
        """Whether it leaves nothing of the loss to terms that are meant to count."""
        windows, plan, last = self._long, self._plan, self._last
        if not plan.has_settled(name, windows[0].first):
            return ""
        if any(window.share.get(name, 0.0) < self._bounds.dominance for window in windows):
            return ""
        small = [
            other
            for other in last.share
            if other != name
            and last.weighted[other] != 0
            and plan.counts(other, windows)
            and not any(low < 0 < high for low, high in (w.extent[other] for w in windows))
            and (other, "collapse") not in self._known
            # One that once had a part in it is learned.
            and max(window.share.get(other, 0.0) for window in self._windows) < _COUNTED
        ]
        if not small:
            return ""
        most = max(abs(last.weighted[other]) for other in small)
        weight = _short(plan.config.terms[name].weight * most / abs(last.weighted[name]))
        balanced = "" if plan.config.balancer else ", or balancer: moving-average beside terms"
        return (
            f"term {name!r} dominates: {last.share[name]:.1%} of the loss from step "
            f"{windows[0].first} to {last.last}, so that {quoted(small)} hardly "
            f"{'counts' if len(small) == 1 else 'count'}. For equal shares write weight: {weight} "
            f"at terms.{name}{balanced}; lossweights.calibrate proposes the weights of all terms "
            "from a few batches. If it is to be so, all is well"
        )

    def _conflict(self, name: str) -> str:
        """Whether it loses what was gained, while another falls."""
        windows, plan, first, last = self._long, self._plan, self._long[0], self._last
        if not plan.counts(name, windows) or not self._rises(name, windows, self._bounds.conflict):
            return ""
        if any(max(w.share[name], w.portion[name]) < _COUNTED for w in windows):
            return ""  # it takes its part only now, as the KL of a VAE does late
        before = [
            window.raw.get(name, 0.0)
            for window in self._windows[: -len(windows)]
            if plan.has_settled(name, window.first)
        ]
        highest = sorted(before)[-self._bounds.patience :]  # no spike, as of a KL at the start
        if len(highest) < self._bounds.patience or first.raw[name] > _FELL * highest[0]:
            return ""  # nothing was gained
        falling = [
            other
            for other in first.raw
            if other != name
            and plan.counts(other, windows)
            and self._rises(other, windows[::-1], 1 / _SUNK)
        ]
        if not falling:
            return ""
        fell = " and ".join(
            f"{other!r} fell from {first.raw[other]:.3g} to {last.raw[other]:.3g}"
            for other in falling
        )
        return (
            f"term {name!r} loses what was gained: it rose from {first.raw[name]:.3g} to "
            f"{last.raw[name]:.3g} between step {first.first} and {last.last}, while {fell}. If "
            "they pull what they share in different directions, weigh them by their gradients, "
            "with balancer: pcgrad beside terms and criterion(terms, shared=features)"
        )

    def _rises(self, name: str, windows: Sequence[Window], times: float) -> bool:
        """Whether its last third lies wholly above its first one, by so many times its median."""
        values = [window.raw[name] for window in windows]
        first, last = values[: self._bounds.patience], values[-self._bounds.patience :]
        return min(values) > 0 and (
            min(last) > max(first) and float(np.median(last)) >= times * float(np.median(first))
        )


def _short(number: float) -> str:
    """Two digits, as a config has them."""
    return f"{float(f'{number:.1e}'):g}"
