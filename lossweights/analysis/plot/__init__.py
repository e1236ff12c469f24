"""Pictures of a config before training, and of a history after it.

Each function returns a new matplotlib `Figure`, for `figure.savefig("weights.png")` or the last
line of a notebook cell. Neither pyplot's figures nor rcParams are changed.
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
from lossweights.config.loss_config import LossConfig
from lossweights.config.timeline import Curves
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
    """The weights of configs, before training.

    The terms of one config share a panel if they fit; several configs are compared in one panel
    per term. The weight of a term with a controller or a balancer is dotted, because it is
    multiplied by a factor that is only known in training.

    Args:
        configs: A config, or several by name.
        horizon: Length of training; by default that of the config.
        width: Width in inches.

    Raises:
        TypeError: If something else than a config is given.
        HorizonError: If a schedule needs the length of training and it is not known.

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
            "plot.config takes a LossConfig, such as criterion.config, or several by name, "
            f"found {configs!r}"
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

    The terms share a panel if they are similar in size; otherwise each has its own. The axis is
    logarithmic if all values are above 0 and span two decades.

    Args:
        history: The history of a training.
        width: Width in inches.

    Raises:
        ValueError: If the history has no rows, or no `raw`.

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
    """The weights of the terms, with the factors that were found in training.

    The terms share a panel if they are similar in size; otherwise each has its own.

    Args:
        history: The history of a training.
        width: Width in inches.

    Raises:
        ValueError: If the history has no rows, or no `weight`.
    """
    return _of_terms(history, "weight", width)


def shares(history: History, *, width: float = _WIDTH) -> Figure:
    r"""The shares of the terms in the loss, $|w_i l_i| / \sum_j |w_j l_j|$, stacked.

    If there are many terms, those with the smallest shares are combined.

    Args:
        history: The history of a training.
        width: Width in inches.

    Raises:
        ValueError: If the history has no rows, or no `share`.
    """
    columns = _columns(history, "share")
    look_of, others = _told_apart(columns)
    with our_looks():
        areas = {name: {"color": look["color"], "linewidth": 6} for name, look in look_of.items()}
        page = Page(width, entries=_entries(areas, others, linewidth=6))
        _stack(page.panels[0], history, columns, look_of, others)
        return page.done()


def overview(history: History, *, width: float = _WIDTH) -> Figure:
    """Values, weights and shares in three panels on one time axis.

    If terms differ in size, the axis is logarithmic or, if some values are not above 0, each term
    is divided by its largest value. If there are many terms, those with the smallest shares are
    gray.

    Args:
        history: The history of a training.
        width: Width in inches.

    Raises:
        ValueError: If the history has no rows, or lacks `raw`, `weight` or `share`.
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
    """A quantity by term.

    Raises:
        ValueError: If no term has it.
    """
    kept = dict.fromkeys(history)
    metrics = {name: f"{quantity}/{name}" for name in history.terms}
    found = {name: history[metric] for name, metric in metrics.items() if metric in kept}
    if not found and not len(history):
        raise ValueError(
            "the history has no rows yet: it takes one after an optimizer step with a training "
            "forward pass; call criterion.follow(optimizer) once, or criterion.step() per step"
        )
    if not found:
        raise ValueError(
            f"the history keeps no {quantity!r}, found {quoted(kept)}: write "
            f"History(criterion, include=[..., {quantity!r}]), or omit include"
        )
    return found


def _of_terms(history: History, quantity: str, width: float) -> Figure:
    """A quantity of the terms, in one panel or one panel per term."""
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
    """All lines in one panel, which is named after a single line."""
    return {"".join(lines) if len(lines) == 1 else "": lines}


def _picture(
    panels: Mapping[str, Mapping[str, Line]],
    entries: Sequence[tuple[str, Looks]],
    quantity: str,
    width: float,
) -> Figure:
    """Lines of a quantity, in panels by name."""
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
    """The line styles of the terms with the largest shares, and the names of the others."""
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
