"""Transforms: functions of a term's value, applied before it is weighted."""

import math
from abc import abstractmethod
from typing import Annotated, Literal, TypeAlias

import torch
from pydantic import Field
from torch import Tensor

from lossweights.components.context import State, StepContext
from lossweights.components.declaration import Component
from lossweights.components.numerics import TINY
from lossweights.components.schedules import Schedule

Level: TypeAlias = Literal["element", "dimension", "value"]


class Transform(Component):
    """A function of a term's value, applied before it is weighted.

    State, if there is any, is declared by `init` and owned by the criterion. A field typed as
    `Schedule` reads a number or a schedule; its value is `now["field"]`. `now.terms` has the term.
    """

    @property
    def level(self) -> Level:
        """The form of the value that is passed to `apply`.

        `value`: the reduced scalar. `element`: the value as it was given, before its reduction.
        `dimension`: its mean over the first axis, the batch, before the rest of the reduction.
        """
        return "value"

    def init(self) -> State:
        """The state at the start: 0-dim tensors by name."""
        return {}

    @abstractmethod
    def apply(self, value: Tensor, state: State, now: StepContext) -> Tensor:
        """The transformed value, of the same shape; differentiable.

        Args:
            value: The value, in the form that `level` names.
            state: The current state; not to be changed.
            now: The values of scheduled fields.
        """

    def update(self, observed: Tensor, state: State, now: StepContext) -> None:
        """Learns from one optimizer step; discarded if no finite value was seen in it.

        Args:
            observed: Mean of the reduced value over the step, before the transform; 0-dim, finite.
            state: The state: change its tensors, or put new ones in their place.
            now: The step, the horizon and the values of scheduled fields.
        """


class Capacity(Transform, kind="capacity"):
    r"""The distance of the value from a capacity that grows: $|v - C(t)|$.

    Args:
        capacity: $C$ in nats, to which a lower value rises; a number, or a schedule such as a ramp.

    C. Burgess et al., *Understanding disentangling in beta-VAE*, 2018, arXiv 1804.03599, with a
    weight $\gamma = 1000$ and $C$ growing linearly to 25 nats in 100,000 steps.

    >>> from lossweights import Capacity, Ramp, WeightedLoss
    >>> capacity = Capacity(capacity=Ramp(start=0.0, stop=25.0, over="100000 steps"))
    >>> criterion = WeightedLoss(terms={"kl": {"weight": 1000.0, "transform": capacity}})
    >>> criterion.set_step(40_000)
    >>> criterion({"kl": torch.tensor(9.5)})  # 1000 * |9.5 - 10|
    tensor(500.)
    """

    capacity: Schedule

    def apply(self, value: Tensor, state: State, now: StepContext) -> Tensor:
        return (value - now["capacity"]).abs()


class FreeBits(Transform, kind="free-bits"):
    r"""A KL that has no gradient below a threshold: $\max(\lambda, v)$.

    The value of the term is then the bound; the KL itself is reported as `raw`.

    With `per: dimension` or `element` the term is given unreduced, with the batch first, and its
    config has a `reduction`: `batch_mean` for the objective of the paper, in which $\lambda$ counts
    once for each dimension. For groups of dimensions, sum over each group beforehand.

    Args:
        threshold: $\lambda$ in nats (a bit is 0.693); a number or a schedule.
        per: The values that are compared with $\lambda$: each `dimension` of the mean over the
            batch, each `element`, or the reduced `value`.

    D. Kingma et al., *Improving variational inference with inverse autoregressive flow*, NeurIPS
    2016, arXiv 1606.04934, section C.8, where $\lambda$ is 0.125 to 2; 0.25 in the code.

    >>> from lossweights import FreeBits, WeightedLoss
    >>> kl = {"transform": FreeBits(threshold=0.5), "reduction": "batch_mean"}
    >>> criterion = WeightedLoss(terms={"kl": kl})
    >>> criterion({"kl": torch.tensor([[0.0, 1.0], [0.2, 2.0]])})  # 0.5 for 0.1, and 1.5
    tensor(2.)
    """

    threshold: Schedule
    per: Level = "dimension"

    @property
    def level(self) -> Level:
        return self.per

    def apply(self, value: Tensor, state: State, now: StepContext) -> Tensor:
        return at_least(value, now["threshold"])


class Log(Transform, kind="log"):
    r"""The logarithm of the value: $\log(v + \varepsilon)$.

    The gradient becomes the relative one, $v' / (v + \varepsilon)$, whatever the scale of a term.
    For $v \le -\varepsilon$ the term is nan, without a gradient; `on_nonfinite` handles it.

    Args:
        epsilon: $\varepsilon$, above 0; near a value of 0 the gradient is $1/\varepsilon$ times
            as large, so take a larger one for such values.

    B. Lin et al., *Dual-balancing for multi-task learning*, 2023, arXiv 2308.12029, with
    $\varepsilon = 10^{-8}$ in LibMTL.

    >>> from lossweights import Log, WeightedLoss
    >>> criterion = WeightedLoss(terms={"depth": {"transform": Log()}})
    >>> criterion({"depth": torch.tensor(100.0)})
    tensor(4.6052)
    """

    epsilon: Annotated[float, Field(gt=TINY)] = 1e-8

    def apply(self, value: Tensor, state: State, now: StepContext) -> Tensor:
        return logarithm(value + self.epsilon)


class OptimalSigma(Transform, kind="optimal-sigma"):
    r"""A squared error as a likelihood of the best variance: $\frac{D}{2}\log(v + \varepsilon)$.

    For $D$ elements with a mean squared error $v$, the negative log-likelihood of a Gaussian with
    one variance is lowest at $\sigma^2 = v$, where it is this value and a constant,
    $\frac{D}{2}(1 + \log 2\pi)$. Its gradient is that of $\frac{D}{2 \sigma^2} v$ at
    $\sigma^2 = v + \varepsilon$. So a reconstruction error is in nats per example, as a KL is, and
    needs no weight.

    Args:
        dimensions: $D$, the number of elements of one example: 3 * 64 * 64 for such an image.
        epsilon: $\varepsilon$, the smallest variance, above 0. At a value of 0 the gradient is
            $D / (2\varepsilon)$; for a value of $-\varepsilon$ or below the term is nan.

    The value is the mean over the elements and the batch, as of `torch.nn.functional.mse_loss`;
    give unreduced errors with `reduction: mean`. The KL beside it is a sum over the dimensions of
    the code and a mean over the batch.

    O. Rybkin, K. Daniilidis, S. Levine, *Simple and effective VAE training with calibrated
    decoders*, ICML 2021, arXiv 2006.13202: $\sigma$ is that of a batch, too. Their code adds the
    constant and limits $\log\sigma$ softly to at least -6, which is the default of `epsilon`,
    $e^{-12}$; there the gradient at 0 is nan.

    >>> from lossweights import OptimalSigma, WeightedLoss
    >>> terms = {"error": {"transform": OptimalSigma(dimensions=100)}, "kl": 1.0}
    >>> criterion = WeightedLoss(terms=terms)
    >>> criterion({"error": torch.tensor(0.01), "kl": torch.tensor(20.0)})  # 50 * log(0.01) + 20
    tensor(-210.2278)
    """

    dimensions: Annotated[int, Field(ge=1)]
    epsilon: Annotated[float, Field(gt=TINY)] = math.exp(-12)

    def apply(self, value: Tensor, state: State, now: StepContext) -> Tensor:
        return optimal_sigma(value, self.dimensions, self.epsilon)


class Relative(Transform, kind="relative"):
    r"""The value relative to an earlier one: $v / r$.

    $r$ is the absolute value of the first observation (the mean over an optimizer step) that was
    not 0, or a moving average of them; until then, that of the value itself. It has no gradient.

    Args:
        to: `first` or `moving-average`.
        smoothing: $\alpha$ of the moving average $r \leftarrow \alpha r + (1 - \alpha) |v|$,
            which begins with the first observation; below 1.

    >>> from lossweights import Relative, WeightedLoss
    >>> criterion = WeightedLoss(terms={"depth": {"transform": Relative()}})
    >>> for depth in (50.0, 40.0):
    ...     print(criterion({"depth": torch.tensor(depth)}))
    ...     criterion.step()
    tensor(1.)
    tensor(0.8000)
    """

    to: Literal["first", "moving-average"] = "first"
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.99

    def init(self) -> State:
        return {"reference": torch.zeros(())}

    def apply(self, value: Tensor, state: State, now: StepContext) -> Tensor:
        return value / reference_for(value.detach(), state["reference"])

    def update(self, observed: Tensor, state: State, now: StepContext) -> None:
        reference, size = state["reference"], observed.abs()
        known = reference if self.to == "first" else torch.lerp(size, reference, self.smoothing)
        state["reference"] = torch.where(reference > TINY, known, size)


def optimal_sigma(value: Tensor, dimensions: int, epsilon: float) -> Tensor:
    r"""$\frac{D}{2}\log(v + \varepsilon)$; nan if that is undefined."""
    return 0.5 * dimensions * logarithm(value + epsilon)


def logarithm(value: Tensor) -> Tensor:
    """The logarithm; nan, without a gradient, where it is undefined."""
    # For values below 0 torch returns the derivative of log |v|: downhill in |v|, so uphill in v.
    return torch.where(value > 0, value, torch.nan).log()


def at_least(value: Tensor, bound: Tensor) -> Tensor:
    """The larger of both, elementwise; nan stays nan, and a tie has the value's gradient."""
    return torch.where(value < bound, bound, value)


def reference_for(value: Tensor, reference: Tensor) -> Tensor:
    """The divisor: the reference; if it is 0, the size of the value; 1 if that is 0 too."""
    size = value.abs()
    return torch.where(reference > TINY, reference, torch.where(size > TINY, size, 1.0))
