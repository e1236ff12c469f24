"""A config in words, and what looks wrong in a training so far."""

from collections.abc import Callable
from difflib import get_close_matches
from functools import partial

from lossweights.components.durations import Horizon
from lossweights.components.schedules import Constant
from lossweights.config.loss_config import LossConfig
from lossweights.config.timeline import Column, number_of, weight_of
from lossweights.criterion.modes import Modes
from lossweights.criterion.record import MANY_FORWARDS, ForwardRecord
from lossweights.errors import HorizonError, quoted

_NO_TOTAL = "total_steps is not known yet"
_FEW_FORWARDS = 20  # after which a first step is missed; more batches are rarely accumulated
_MISSED_STEPS = 10  # without a term after which it is taken for forgotten
_MOST_STEPS = 1_000_000  # in a longer training, this many steps are evaluated, evenly spaced


def describe(config: LossConfig, horizon: Horizon) -> str:
    """One line a term or number: its factors, and where its weight starts, peaks and ends."""
    lines = [f"training: {_training(horizon)}", f"evaluation: {_evaluation(config)}"]
    if config.balancer is not None:
        lines.append(f"balancer: {config.balancer}, of {quoted(config.balanced_names)}")
    terms, members = config.all_terms, config.groups
    labels = {name: name for name in terms}
    for group, names in members.items():  # outer groups come first
        for name in names:  # a member is indented below its group
            indent = " " * (2 + labels[group].count("  ") * 2)
            labels[name] = f"{indent}{name.removeprefix(f'{group}/')}"
    width = max(map(len, labels.values()))
    lines += [f"{labels[name]:<{width}}  {_term(config, name, horizon)}" for name in terms]
    width = max(map(len, config.scheduled), default=0)
    lines += [
        f"scheduled.{name:<{width}}  {schedule}: {_of_number(config, name, horizon)}"
        for name, schedule in config.scheduled.items()
    ]
    return "\n".join(lines)


def _training(horizon: Horizon) -> str:
    if horizon.total is None:
        is_other = horizon.unit != "steps"
        return f"total, in {horizon.unit}, is not known yet" if is_other else _NO_TOTAL
    if not horizon.is_bounded:
        return f"{horizon.total}, steps_per_epoch is not known yet"
    if horizon.unit != "steps":
        return str(horizon)
    each = f", {n} an epoch" if (n := horizon.steps_per_epoch) else ""
    return f"{horizon.span} steps{each}"


def _evaluation(config: LossConfig) -> str:
    if isinstance(config.eval_weights, dict):
        given = ", ".join(f"{name} {weight:g}" for name, weight in config.eval_weights.items())
        return f"{given}, the others with their final weight"
    if config.eval_weights == "current":
        return "each term as in training"
    adapts = config.balancer or any(term.controller for term in config.terms.values())
    return f"each term with its final weight{', controllers and balancer at 1' if adapts else ''}"


def _term(config: LossConfig, name: str, horizon: Horizon) -> str:
    term = config.lineage(name)[-1]
    factor = term.schedule if term.controller is None else term.controller
    text = f"{term.weight:g}" if factor is None else f"{term.weight:g} x {factor}"
    text += f": {_or_problem(partial(_course, config, name, horizon), f'term {name!r}')}"
    notes = {
        f"its value through {term.transform}": term.transform is not None,
        "not balanced": config.balancer is not None and not term.is_balanced,
        f"the sum of {len(term.terms or ())} members": term.terms is not None,
        "optional": term.optional,
        f"reduced by {term.reduction}": term.reduction is not None,
        "each forward pass gives a part of its value": term.accumulates == "sum",
        "left out of the sum while its weight is 0": term.when_zero == "skip",
    }
    return "; ".join([text, *(note for note, holds in notes.items() if holds)])


def _of_number(config: LossConfig, name: str, horizon: Horizon) -> str:
    if isinstance(config.scheduled[name], Constant):
        return "constant"
    column = number_of(config, name, horizon)
    return _or_problem(partial(_moves, column), column.label)


def _or_problem(say: Callable[[], str], label: str) -> str:
    """What it says, or why it cannot."""
    try:
        return say()
    except HorizonError as error:
        return f"not known yet, {_reason(error, label)}"
    except ValueError as error:  # at a step that is still far off
        return f"its schedule fails: {_reason(error, label)}"


def _course(config: LossConfig, name: str, horizon: Horizon) -> str:
    term = config.lineage(name)[-1]
    column = weight_of(config, name, horizon)
    dormant = f"dormant until {horizon.at(column.start)}, then " if column.start else ""
    if term.controller is not None:
        if not term.controller.observes:
            return f"{dormant}set by hand"
        return f"{dormant}steered by {term.controller.source or 'its own value'}"
    return f"{dormant}{'constant' if term.schedule is None else _moves(column)}"


def _moves(column: Column) -> str:
    """Where the values of a schedule start, peak and end."""
    steps = column.shown(_MOST_STEPS)
    weights = column.values(steps) + 0.0  # no -0
    lowest, highest = int(weights.argmin()), int(weights.argmax())
    final = column.final() + 0.0
    if weights[lowest] == weights[highest] == final:
        return f"{final:g} throughout"
    course = f"starts at {weights[0]:g}"
    if highest != 0 and weights[highest] >= final:
        course += f", first peaks at {weights[highest]:g} {_in(column.horizon, steps[highest])}"
    if lowest != 0 and weights[lowest] != final:
        course += f", is lowest at {weights[lowest]:g} {_in(column.horizon, steps[lowest])}"
    return f"{course}, ends at {final:g}"


def _in(horizon: Horizon, step: int) -> str:
    return f"in {horizon.at(step)}" if horizon.unit == "steps" else f"after {horizon.at(step)}"


def _reason(error: Exception, label: str) -> str:
    """The message of an error without the label of the column."""
    return str(error).removeprefix(f"{label}: ")


def misspelt_sources(config: LossConfig) -> list[str]:
    """A sentence for each metric of a controller that is called almost like a term."""
    found, lowered = [], {name.lower(): name for name in config.terms}
    for name, term in config.terms.items():
        source = None if term.controller is None else term.controller.source
        if source is None or source in config.terms:
            continue
        near = get_close_matches(source.lower(), lowered, n=1, cutoff=0.75)
        if near and abs(len(near[0]) - len(source)) <= 1:  # one letter is different
            found.append(
                f"terms.{name}.controller: source {source!r} is not a term; did you mean "
                f"{lowered[near[0]]!r}? If it is a metric, pass it with criterion.observe(...) "
                "under a name that differs more from the terms"
            )
    return found


def audit(config: LossConfig, record: ForwardRecord, modes: Modes) -> list[str]:
    """What looks wrong so far, one sentence each."""
    horizon, timeline, step = modes.horizon, modes.timeline, modes.clock.step
    off = inactive = frozenset(record.order)
    if modes.train is not None:
        inactive = modes.train.inactive
        off = inactive.union(name for name, weight in modes.weights().items() if weight == 0)
    # A clock that moved before, or follows an optimizer, may wait for a step of many batches.
    may_wait = record.steps or modes.clock.is_followed
    least = MANY_FORWARDS if may_wait else _FEW_FORWARDS
    notes = [
        record.idle_clock_warning(horizon, step, look=True, least=least),
        record.unused_warning() if not inactive.issuperset(config.terms) else "",
        record.infinite_warning(),
        modes.apart_warning(),
        "" if timeline is None else timeline.past_end(step, modes.clock.before),
    ]
    findings = [note for note in notes if note]
    findings += [
        f"term {name!r} carries no gradient: it was computed without one (detached, under "
        "no_grad, or from .item()), so its weight changes nothing"
        for name, weight in record.detached.items()
        if weight != 0  # a placeholder of a term that is off
    ]
    findings += [
        f"term {name!r} was given before, but not in the last {steps} steps: if this is intended, "
        f"let its weight end at 0, or drop it at terms.{name}"
        for name, steps in record.given.lost(record.steps, _MISSED_STEPS).items()
        if name not in off
    ]
    findings += [
        f"the controller of {name!r} observes {source!r}, which does not count now (dormant, or "
        "left out at a weight of 0), so it learns nothing: let it observe a metric"
        for name, term in config.terms.items()
        if term.controller is not None
        and (source := term.controller.source) in inactive
        and name not in inactive
    ]
    for name, term in config.all_terms.items():
        try:
            column = weight_of(config, name, horizon)
            steps = column.shown(_MOST_STEPS)
            # What a function returns for a later step is not known before.
            is_zero = not (column.calls_function or column.values(steps).any())
        except HorizonError as error:
            reason = _reason(error, f"term {name!r}")
            findings.append(f"term {name!r} has no weight yet: {reason}; call criterion.bind(...)")
            continue
        except ValueError as error:
            reason = _reason(error, f"term {name!r}")
            findings.append(f"term {name!r} has a schedule that fails: {reason}")
            continue
        source = None if term.controller is None else term.controller.source
        follows_metric = term.optional and source is not None and source not in config.terms
        was_given = name in record.given.ever.union(record.names)
        if not (was_given or follows_metric) and record.names and step >= column.start:
            finite = " or never finite" if config.on_nonfinite == "skip_term" else ""
            findings.append(
                f"term {name!r} was never given{finite}; if it is not needed, drop it at "
                f"terms.{name}"
            )
        if is_zero:
            findings.append(
                f"term {name!r} has a weight of 0 for the whole training: "
                f"terms.{name} is {term}; drop it, or give it a weight"
            )
    return findings + _of_numbers(config, horizon)


def _of_numbers(config: LossConfig, horizon: Horizon) -> list[str]:
    """A sentence for each scheduled number that has no values."""
    findings = []
    for name in config.scheduled:
        column = number_of(config, name, horizon)
        try:
            if not column.calls_function:
                column.values(column.shown(_MOST_STEPS))
        except HorizonError as error:
            reason = _reason(error, column.label)
            findings.append(f"{column.label} has no value yet: {reason}; call criterion.bind(...)")
        except ValueError as error:
            reason = _reason(error, column.label)
            findings.append(f"{column.label} has a schedule that fails: {reason}")
    return findings
