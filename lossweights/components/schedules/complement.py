"""What the weight of another term leaves of a total."""

from typing import NoReturn

import numpy as np
from numpy.typing import NDArray
from pydantic import field_validator

from lossweights.components.durations import Horizon
from lossweights.components.schedules.base import Schedule, Steps
from lossweights.components.schedules.shapes import Values

_ROUNDING = 1e-9  # of `total`, by which the other weight may be above it


class Complement(Schedule, kind="complement"):
    r"""What the weight of another term leaves: $w(t) = T - w_j(t)$.

    $w_j(t)$ is the base weight of the other term times its schedule, at the same step of training,
    also if either term begins late. So the two add up to $T$, whatever is changed at the other
    one. Balancers are not counted. It is the whole schedule of a term or of a scheduled number, and
    cannot go below 0.

    Args:
        of: The other term $j$, which has no controller, such as `soft` or `group/member`; or a
            scheduled number, `scheduled.alpha`.
        total: $T$.

    Raises:
        ValueError: If it is evaluated outside a config.
        ConfigError: In a config, if the other term does not exist, has a controller, or is in turn
            a complement of this one; and if its weight goes above `total`.

    >>> from lossweights import Ramp, WeightedLoss
    >>> soft = Ramp(start=0.9, stop=0.1, over="4 steps")
    >>> criterion = WeightedLoss({"soft": soft, "hard": Complement(of="soft")})
    >>> criterion.set_step(2)
    >>> criterion.weights
    {'soft': 0.5, 'hard': 0.5}
    """

    of: str
    total: float = 1.0
    every: None = None

    @field_validator("every", mode="before")
    @classmethod
    def _follows_at_each_step(cls, every: object) -> object:
        if every is not None:
            raise ValueError(
                "a complement follows the other term at each step: write `every` there"
            )
        return every

    def values(self, steps: Steps, horizon: Horizon) -> NoReturn:
        raise ValueError(
            f"{self} can only be evaluated in a config, as the whole schedule of a term"
        )

    def ends(self, horizon: Horizon) -> NoReturn:
        self.values(np.zeros(0, dtype=np.int64), horizon)

    def rest(self, weights: Values, counts: NDArray[np.bool_] | bool = True) -> Values:
        """`total` minus the weights of the other term, which the config computes.

        Args:
            weights: The weights of the other term.
            counts: Where the rest is used, so that it cannot be below 0; everywhere by default.

        Raises:
            ValueError: If it is below 0 there.

        >>> Complement(of="soft", total=2.0).rest(np.array([0.5, 2.0]))
        array([1.5, 0. ])
        """
        rest: Values = self.total - weights
        lowest = rest.min(initial=0.0, where=counts)
        if lowest < -_ROUNDING * abs(self.total):
            highest = self.total - lowest
            raise ValueError(
                f"it goes down to {lowest:g}, because {self.of!r} goes up to {highest:g}, and "
                f"their total is {self.total:g}: write `total: {highest:g}`, or lower {self.of!r}"
            )
        return rest
