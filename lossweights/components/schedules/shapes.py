"""Shapes: the course of a ramp, as functions from [0, 1] to [0, 1]."""

from abc import abstractmethod
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from lossweights.components.declaration import Component

Values = NDArray[np.float64]


class Shape(Component):
    """The course of a ramp from start to stop: $f$ on [0, 1] with $f(0) = 0$ and $f(1) = 1$.

    A field typed as `Shape` also reads a kind as a string, `shape: cosine`. A subclass implements
    `values`, for progress from 0 to 1; the ends are exact whatever it returns there.

    >>> Shape.read("cosine")(np.array([0.0, 0.5, 1.0]))
    array([0. , 0.5, 1. ])
    """

    _in_float32 = False  # numpy computes it in float64

    @classmethod
    def usage(cls, kind: str) -> str:
        return f"`schedule: {{kind: warmup, over: 10%, shape: {kind}}}`"

    @abstractmethod
    def values(self, progress: Values) -> Values:
        """$f$ at each progress, an array of the same shape."""

    def __call__(self, progress: Values) -> Values:
        """$f$ with exact ends; progress beyond an end counts as that end."""
        progress = np.clip(progress, 0.0, 1.0)
        # numpy may round a power of a single number differently than in an array.
        values = self.values(np.atleast_1d(progress)).reshape(progress.shape)
        return np.where(progress >= 1.0, 1.0, np.where(progress <= 0.0, 0.0, values))


class LinearShape(Shape, kind="linear"):
    """Straight: $f(x) = x$.

    >>> LinearShape()(np.array([0.0, 0.25, 1.0]))
    array([0.  , 0.25, 1.  ])
    """

    def values(self, progress: Values) -> Values:
        return progress


class CosineShape(Shape, kind="cosine"):
    r"""Flat at both ends: $f(x) = (1 - \cos \pi x) / 2$.

    >>> CosineShape()(np.array([0.0, 0.25, 0.5, 1.0])).round(4)
    array([0.    , 0.1464, 0.5   , 1.    ])
    """

    def values(self, progress: Values) -> Values:
        return 0.5 - 0.5 * np.cos(np.pi * progress)


class SigmoidShape(Shape, kind="sigmoid"):
    r"""Logistic, from exactly 0 to exactly 1.

    $$f(x) = \frac{\sigma(k x - k/2) - \sigma(-k/2)}{\sigma(k/2) - \sigma(-k/2)}$$

    The default is the logistic of the cyclical-annealing paper (Fu et al., NAACL 2019, N19-1021),
    stretched to run from 0 to 1 instead of from 0.0025 to 0.9975.

    Args:
        sharpness: $k$, the length of the logistic's argument; above 0.

    >>> SigmoidShape()(np.array([0.0, 0.25, 0.5, 1.0])).round(4)
    array([0.    , 0.0452, 0.5   , 1.    ])
    """

    sharpness: Annotated[float, Field(gt=0, le=1000)] = 12.0

    def values(self, progress: Values) -> Values:
        # As a tanh it neither overflows nor loses its symmetry.
        quarter = self.sharpness / 4
        return np.asarray(0.5 + 0.5 * np.tanh(quarter * (2 * progress - 1)) / np.tanh(quarter))


class ExponentialShape(Shape, kind="exponential"):
    """Exponential: $f(x) = (e^{k x} - 1) / (e^k - 1)$.

    Args:
        sharpness: $k$; above 0 it starts slowly and ends steeply, below 0 the opposite. Not 0,
            which would be linear.

    >>> ExponentialShape(sharpness=5)(np.array([0.0, 0.5, 1.0])).round(4)
    array([0.    , 0.0759, 1.    ])
    """

    sharpness: Annotated[float, Field(ge=-500, le=500)] = 5.0

    @field_validator("sharpness")
    @classmethod
    def _not_flat(cls, sharpness: float) -> float:
        if sharpness == 0:
            raise ValueError("sharpness 0 is a straight line: write shape: linear")
        return sharpness

    def values(self, progress: Values) -> Values:
        return np.asarray(np.expm1(self.sharpness * progress) / np.expm1(self.sharpness))


class GaussianShape(Shape, kind="gaussian"):
    r"""Gaussian: $f(x) = e^{-k (1 - x)^2}$, or $f(x) = 1 - e^{k x^2}$ for $k < 0$.

    A ramp from 0 to 1 is the ramp-up of the consistency weight in semi-supervised training, called
    `sigmoid_rampup` in Mean Teacher. With `sharpness: -12.5`, a ramp from 1 to 0 is
    $e^{-12.5 x^2}$, the ramp-down of learning rates in the same code.

    At step 0 the weight is `start`, here exactly 0, as in the paper and in the code of its authors,
    which has 0 in the whole first epoch. Mean Teacher has $e^{-5} = 0.0067$ there. All other
    values are those of the formula.

    Laine and Aila 2017, arXiv:1610.02242; Tarvainen and Valpola 2017, arXiv:1703.01780.

    Args:
        sharpness: $k$; above 0 it ends flat, below 0 it starts flat. Not 0, which would be a jump.

    >>> GaussianShape()(np.array([0.0, 0.25, 0.5, 1.0])).round(4)
    array([0.    , 0.0601, 0.2865, 1.    ])
    """

    sharpness: Annotated[float, Field(ge=-500, le=500)] = 5.0

    @field_validator("sharpness")
    @classmethod
    def _not_a_jump(cls, sharpness: float) -> float:
        if sharpness == 0:
            raise ValueError("sharpness 0 is a jump: write shape: hold, which jumps at the end")
        return sharpness

    def values(self, progress: Values) -> Values:
        if self.sharpness < 0:
            return np.asarray(-np.expm1(self.sharpness * progress**2))
        return np.asarray(np.exp(-self.sharpness * (1 - progress) ** 2))


class PowerShape(Shape, kind="power"):
    """Polynomial: $f(x) = x^p$.

    Args:
        exponent: $p$, above 0; 2 starts slowly, 0.5 starts steeply.

    >>> PowerShape(exponent=2)(np.array([0.0, 0.5, 1.0]))
    array([0.  , 0.25, 1.  ])
    """

    exponent: Annotated[float, Field(gt=0)] = 2.0

    def values(self, progress: Values) -> Values:
        return np.asarray(progress**self.exponent)


class HoldShape(Shape, kind="hold"):
    """Stays at the start and jumps at the end: $f(x) = 0$ before 1; for steps and milestones.

    >>> HoldShape()(np.array([0.0, 0.99, 1.0]))
    array([0., 0., 1.])
    """

    def values(self, progress: Values) -> Values:
        return np.zeros_like(progress)


def interpolate(start: float, stop: float, shape: Shape | str, progress: Values) -> Values:
    """From `start` at progress 0 to `stop` at 1 and beyond, along `shape`; both ends are exact."""
    fraction = Shape.read(shape)(progress)
    values = start + (stop - start) * fraction
    return np.where(fraction == 1.0, stop, values)  # the sum may be off by rounding
