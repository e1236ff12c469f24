"""Property tests for schedules, controllers, transforms and balancers, those of plug-ins too.

`check(component)` tests all properties of its family. Each property is also a function of its own.
They raise `AssertionError`.

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
