"""Pictures of a config before training, and of a history after it.

Each is a new matplotlib `Figure`, for `figure.savefig("weights.png")` or the last line of a
notebook's cell. Nothing is changed outside of it: neither pyplot's figures nor rcParams.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from lossweights.analysis.history import History
from lossweights.analysis.plot.panels import (
    COLOURS,
    DOTTED,
    REST,
    Column,
    Columns,
    Looks,
    Page,
    are_similar,
    draw,
    fit,
    is_positive,
    looks,
    our_looks,
    peak,
    stack,
)
from lossweights.components.durations import Horizon
from lossweights.components.schedules import Steps
from lossweights.config.curves import Curves
from lossweights.config.loss_config import LossConfig
from lossweights.errors import quoted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["config", "overview", "shares", "values", "weights"]

_WIDTH = 6.4  # inches
_TITLES = {"raw": "value", "weight": "weight"}

Line: TypeAlias = tuple[Steps, Column, Looks]


def config(
    configs: Mapping[str, LossConfig] | LossConfig,
    horizon: Horizon | None = None,
    *,
    width: float = _WIDTH,
) -> Figure:
    """The weights that configs declare, before any training.

    Of one config, all terms in one panel where they fit; of several, a panel for each term. The
    weight of a term that has a controller, or that a balancer weighs, is dotted: what is found in
    training multiplies it.

    Args:
        configs: A config, or several by a name for each.
        horizon: The length of training; what it leaves open is the config's own.
        width: Inches.

    Raises:
        TypeError: For what is no config.
        HorizonError: Where a schedule needs more of the horizon than is known.

    >>> from lossweights import LossConfig
    >>> from lossweights.analysis import plot
    >>> linear = LossConfig.read({"terms": {"kl": {"kind": "warmup", "over": "50%"}}})
    >>> cosine = linear.override({"kl.schedule.shape": "cosine"})
    >>> figure = plot.config({"linear": linear, "cosine": cosine}, Horizon(total_steps=1000))
    >>> figure.savefig("warmups.png")  # doctest: +SKIP
    """
    named = {"": configs} if isinstance(configs, LossConfig) else configs
    if not isinstance(named, Mapping) or not all(isinstance(c, LossConfig) for c in named.values()):
        raise TypeError(
            "plot.config takes a LossConfig, such as criterion.config, or several by a name for "
            f"each, found {configs!r}"
        )
    if not named:
        raise ValueError("a picture shows at least one config, found none")
    curves = {name: Curves.of(each, horizon) for name, each in named.items()}
    terms = dict.fromkeys(term for each in curves.values() for term in each.weights)
    together = len(curves) == 1 and _fit_together(next(iter(curves.values())).weights)
    look_of = {name: looks(index) for index, name in enumerate(terms if together else curves)}
    panels: dict[str, dict[str, Line]] = {term: {} for term in terms}
    for name, each in curves.items():
        for term, weights in each.weights.items():
            found = DOTTED if term in each.adaptive else {}
            look = look_of[term if together else name] | found
            panels[term][name] = each.steps, weights, look
    if together:
        lines = {term: panels[term][name] for term in terms for name in curves}
        look_of = {term: look for term, (_, _, look) in lines.items()}
        panels = _one_panel(lines)
    entries = [*look_of.items()] if len(look_of) > 1 else []
    if any(each.adaptive for each in curves.values()):
        entries.append(("dotted: times what is found in training", {"color": REST} | DOTTED))
    return _picture(panels, entries, "weight", width)


def values(history: History, *, width: float = _WIDTH) -> Figure:
    """The values of the terms as they were given: `raw`.

    In one panel where they are of a size, else in one for each. The axis is logarithmic where all
    are above 0 and span two decades.

    Args:
        history: Of a training.
        width: Inches.

    Raises:
        ValueError: For a history without rows, or without `raw`.

    >>> import torch
    >>> from lossweights import History, WeightedLoss
    >>> from lossweights.analysis import plot
    >>> criterion = WeightedLoss(terms=["nll"])
    >>> history = History(criterion)
    >>> _ = criterion({"nll": torch.tensor(2.0)})
    >>> criterion.step()
    >>> figure = plot.values(history)
    """
    return _of_terms(history, "raw", width)


def weights(history: History, *, width: float = _WIDTH) -> Figure:
    """The weights that the terms had, with all that was found in training.

    In one panel where they are of a size, else in one for each.

    Args:
        history: Of a training.
        width: Inches.

    Raises:
        ValueError: For a history without rows, or without `weight`.
    """
    return _of_terms(history, "weight", width)


def shares(history: History, *, width: float = _WIDTH) -> Figure:
    r"""Who drives the loss: $|w_i l_i| / \sum_j |w_j l_j|$, on top of each other.

    Of many terms, those with the largest shares; all others together.

    Args:
        history: Of a training.
        width: Inches.

    Raises:
        ValueError: For a history without rows, or without `share`.
    """
    columns = _columns(history, "share")
    look_of, others = _told_apart(columns)
    with our_looks():
        areas = {name: {"color": look["color"], "linewidth": 6} for name, look in look_of.items()}
        page = Page(width, entries=_entries(areas, others, linewidth=6))
        _stack(page.panels[0], history, columns, look_of, others)
        return page.done()


def overview(history: History, *, width: float = _WIDTH) -> Figure:
    """Values, weights and shares under one another on one time axis.

    Where terms are not of a size, the axis is logarithmic, or, where some are not above 0, each is
    shown as a part of its largest. Of many terms, those with the largest shares are told apart.

    Args:
        history: Of a training.
        width: Inches.

    Raises:
        ValueError: For a history without rows, or without `raw`, `weight` or `share`.
    """
    columns = _columns(history, "share")
    look_of, others = _told_apart(columns)
    grey = {"color": REST, "linewidth": 0.7}
    with our_looks():
        page = Page(width, 3, _entries(look_of, others))
        for panel, what in zip(page.panels, ("raw", "weight"), strict=False):
            drawn, title = _columns(history, what), _TITLES[what]
            if not are_similar(drawn) and not is_positive(drawn):
                drawn = {name: column / (peak(column) or 1.0) for name, column in drawn.items()}
                title = f"{title} / its largest"
            for name in sorted(drawn, key=lambda name: name in look_of):  # grey ones below
                draw(panel, history.steps, drawn[name], look_of.get(name, grey))
            fit(panel, drawn, from_zero=what == "weight")
            panel.set_ylabel(title)
        _stack(page.panels[2], history, columns, look_of, others)
        return page.done()


def _columns(history: History, quantity: str) -> Columns:
    """A quantity of all terms that have it, by name.

    Raises:
        ValueError: Where none has.
    """
    kept = dict.fromkeys(history)
    metrics = {name: f"{quantity}/{name}" for name in history.terms}
    found = {name: history[metric] for name, metric in metrics.items() if metric in kept}
    if not found and not len(history):
        raise ValueError(
            "the history has no rows yet: it has one after an optimizer step whose forward pass "
            "was in training, and knows of steps by criterion.follow(optimizer) or criterion.step()"
        )
    if not found:
        raise ValueError(
            f"the history keeps no {quantity!r}, found {quoted(kept)}: write "
            f"History(criterion, include=[..., {quantity!r}]), or leave include out"
        )
    return found


def _of_terms(history: History, quantity: str, width: float) -> Figure:
    """A quantity of each term, in one panel or a panel each."""
    columns, steps = _columns(history, quantity), history.steps
    together = _fit_together(columns)
    lines: dict[str, Line] = {
        name: (steps, column, looks(index if together else 0))
        for index, (name, column) in enumerate(columns.items())
    }
    panels = _one_panel(lines) if together else {name: {name: line} for name, line in lines.items()}
    several = together and len(lines) > 1
    entries = [(name, look) for name, (_, _, look) in lines.items()] if several else []
    return _picture(panels, entries, quantity, width)


def _one_panel(lines: dict[str, Line]) -> dict[str, dict[str, Line]]:
    """All in one panel, which bears the name of a line that is alone."""
    return {"".join(lines) if len(lines) == 1 else "": lines}


def _picture(
    panels: Mapping[str, Mapping[str, Line]],
    entries: Sequence[tuple[str, Looks]],
    quantity: str,
    width: float,
) -> Figure:
    """Lines of a quantity, in panels by their names."""
    with our_looks():
        page = Page(width, len(panels), entries, small=len(panels) > 1)
        for panel, (title, lines) in zip(page.panels, panels.items(), strict=True):
            for steps, column, look in lines.values():
                draw(panel, steps, column, look)
            columns = {name: column for name, (_, column, _) in lines.items()}
            fit(panel, columns, from_zero=quantity == "weight")
            page.title(panel, title)
            if len(panels) == 1:
                panel.set_ylabel(_TITLES[quantity])
        return page.done()


def _fit_together(columns: Columns) -> bool:
    return len(columns) <= len(COLOURS) and are_similar(columns)


def _told_apart(columns: Columns) -> tuple[dict[str, Looks], list[str]]:
    """The looks of the terms with the largest shares, and the names of the others."""
    sizes = {name: np.nan_to_num(column).mean() for name, column in columns.items()}
    ranked = sorted(sizes, key=lambda name: -sizes[name])
    large = set(ranked if len(ranked) <= len(COLOURS) else ranked[: len(COLOURS) - 1])
    kept = [name for name in columns if name in large]
    return (
        {name: looks(index) for index, name in enumerate(kept)},
        [name for name in columns if name not in large],
    )


def _entries(look_of: Mapping[str, Looks], others: Sized, **look: Any) -> list[tuple[str, Looks]]:
    rest = [(f"{len(others)} others", {"color": REST, **look})] if others else []
    return [*look_of.items(), *rest]


def _stack(
    panel: Axes,
    history: History,
    columns: Columns,
    look_of: Mapping[str, Looks],
    others: Sequence[str],
) -> None:
    shares = [columns[name] for name in look_of]
    colours = [look["color"] for look in look_of.values()]
    if others:
        shares.append(np.nansum([columns[name] for name in others], axis=0))
        colours.append(REST)
    stack(panel, history.steps, shares, colours)
    panel.set_ylabel("share")
