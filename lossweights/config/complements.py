"""Which weights can be complements of which."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from lossweights.components.schedules import Complement, Schedule
from lossweights.components.schedules.function import contains
from lossweights.errors import did_you_mean, quoted, shown

_MOST_LINKS = 100  # from complement to complement


class Owner(NamedTuple):
    """What a complement may name: a term or a scheduled number, by its name.

    Args:
        place: Of its schedule in the config.
        schedule: Its schedule, if it has one.
        is_steered: Whether it has a controller.
    """

    place: str
    schedule: Schedule | None
    is_steered: bool = False


def check_complements(owners: Mapping[str, Owner], others: Iterable[tuple[str, object]]) -> None:
    """Raises ValueError for a complement that has no weight, with its place and what to write.

    Args:
        owners: What complements may name.
        others: The components that cannot contain complements, with their places.
    """
    inside = [(owner.place, owner.schedule) for owner in owners.values()]
    for place, part in [*inside, *others]:
        if part is not None and contains(list(vars(part).values()), Complement):
            raise ValueError(
                f"{place}: a complement is the whole schedule of a term or a scheduled number, and "
                "cannot be a part of another component: give it one of its own"
            )
    for name, owner in owners.items():
        if isinstance(owner.schedule, Complement):
            _check_chain(name, owner.schedule, owners)


def _check_chain(name: str, schedule: Schedule | None, owners: Mapping[str, Owner]) -> None:
    place, chain = f"{owners[name].place}.of", [name]
    while isinstance(schedule, Complement):
        if (of := schedule.of) not in owners:
            raise ValueError(
                f"{place}: no term or scheduled number is called {shown(of)}"
                f"{did_you_mean(of, owners)} (there are {quoted(owners)})"
            )
        if owners[of].is_steered:
            raise ValueError(
                f"{place}: {shown(of)} has a controller, so its weight is not a function of the "
                "step: name a term without one"
            )
        if of in chain:
            circle = " of ".join(map(shown, [*chain[chain.index(of) :], of]))
            raise ValueError(
                f"{place}: a term cannot be its own complement, {circle}: give one of them another "
                "schedule"
            )
        if len(chain) == _MOST_LINKS:
            raise ValueError(f"{place}: more than {_MOST_LINKS} complements of each other")
        schedule = owners[of].schedule
        chain.append(of)
