"""What every component must keep, for the tests of a plug-in.

`check(component)` holds a schedule, controller, transform or balancer to every property of its
family; each can be called by itself. They raise `AssertionError` where one does not hold.

>>> from lossweights import Cyclical
>>> from lossweights.testing import check
>>> check(Cyclical(cycles=4))
"""

from lossweights.testing.properties import (
    ADAPTIVE_PROPERTIES,
    check,
    check_absent,
    check_compiles_once,
    check_evaluation,
    check_extremes,
    check_forward_is_pure,
    check_gradient,
    check_micro_batches,
    check_no_sync,
    check_nonfinite,
    check_order,
    check_resume,
    check_round_trip,
    check_schedule,
    check_step_before_backward,
)
from lossweights.testing.training import Training

__all__ = [
    "ADAPTIVE_PROPERTIES",
    "Training",
    "check",
    "check_absent",
    "check_compiles_once",
    "check_evaluation",
    "check_extremes",
    "check_forward_is_pure",
    "check_gradient",
    "check_micro_batches",
    "check_no_sync",
    "check_nonfinite",
    "check_order",
    "check_resume",
    "check_round_trip",
    "check_schedule",
    "check_step_before_backward",
]
