"""Property tests for schedules, controllers, transforms and balancers, those of plug-ins too.

`check(component)` tests all properties of its family. Each property is also a function of its own.
They raise `AssertionError`.

>>> from lossweights import Cyclical
>>> from lossweights.testing import check
>>> check(Cyclical(cycles=4))
"""

from lossweights.testing.properties import ADAPTIVE_PROPERTIES as ADAPTIVE_PROPERTIES
from lossweights.testing.properties import check as check
from lossweights.testing.properties import check_absent as check_absent
from lossweights.testing.properties import check_coming_weights as check_coming_weights
from lossweights.testing.properties import check_compiles_once as check_compiles_once
from lossweights.testing.properties import check_evaluation as check_evaluation
from lossweights.testing.properties import check_extremes as check_extremes
from lossweights.testing.properties import check_forward_is_pure as check_forward_is_pure
from lossweights.testing.properties import check_gradient as check_gradient
from lossweights.testing.properties import check_group as check_group
from lossweights.testing.properties import check_micro_batches as check_micro_batches
from lossweights.testing.properties import check_no_sync as check_no_sync
from lossweights.testing.properties import check_nonfinite as check_nonfinite
from lossweights.testing.properties import check_order as check_order
from lossweights.testing.properties import check_resume as check_resume
from lossweights.testing.properties import check_round_trip as check_round_trip
from lossweights.testing.properties import check_schedule as check_schedule
from lossweights.testing.properties import check_scheduled_number as check_scheduled_number
from lossweights.testing.properties import check_step_before_backward as check_step_before_backward
from lossweights.testing.properties import check_units as check_units
from lossweights.testing.training import Training as Training
