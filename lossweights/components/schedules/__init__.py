"""Schedules: weights as pure functions of the step."""

from lossweights.components.schedules.base import DelayedSchedule as DelayedSchedule
from lossweights.components.schedules.base import Schedule as Schedule
from lossweights.components.schedules.base import Steps as Steps
from lossweights.components.schedules.complement import Complement as Complement
from lossweights.components.schedules.constant import Constant as Constant
from lossweights.components.schedules.cyclical import Cyclical as Cyclical
from lossweights.components.schedules.exponential import Exponential as Exponential
from lossweights.components.schedules.piecewise import Piecewise as Piecewise
from lossweights.components.schedules.product import Product as Product
from lossweights.components.schedules.ramp import Ramp as Ramp
from lossweights.components.schedules.repeat import Repeat as Repeat
from lossweights.components.schedules.sequence import Sequence as Sequence
from lossweights.components.schedules.sequence import Stage as Stage
from lossweights.components.schedules.shapes import CosineShape as CosineShape
from lossweights.components.schedules.shapes import ExponentialShape as ExponentialShape
from lossweights.components.schedules.shapes import GaussianShape as GaussianShape
from lossweights.components.schedules.shapes import HoldShape as HoldShape
from lossweights.components.schedules.shapes import LinearShape as LinearShape
from lossweights.components.schedules.shapes import PowerShape as PowerShape
from lossweights.components.schedules.shapes import Shape as Shape
from lossweights.components.schedules.shapes import SigmoidShape as SigmoidShape
from lossweights.components.schedules.shapes import Values as Values
from lossweights.components.schedules.warmup import Warmup as Warmup
