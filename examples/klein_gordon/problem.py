"""The Klein-Gordon equation on the unit square, with a known solution.

    u_tt - u_xx + u^3 = f    for t and x from 0 to 1,

with u given on both sides and at t = 0, and u_t = 0 at t = 0. The forcing f is made for the
solution u = x cos(5 pi t) + (t x)^3. The problem is from S. Wang, Y. Teng, P. Perdikaris,
*Understanding and mitigating gradient flow pathologies in physics-informed neural networks*, SIAM
Journal on Scientific Computing 2021, arXiv 2001.04536. Points are (t, x), as in the authors' code.
"""

from dataclasses import dataclass
from math import pi

import torch
from torch import Generator, Tensor

FREQUENCY = 5 * pi
SIDE = 101  # points of the grid in each direction


def exact(points: Tensor) -> Tensor:
    """The solution at points, shape (..., 2)."""
    t, x = points.unbind(-1)
    return x * torch.cos(FREQUENCY * t) + (t * x) ** 3


def forcing(points: Tensor) -> Tensor:
    """The right-hand side f at points, shape (..., 2)."""
    t, x = points.unbind(-1)
    u_tt = -(FREQUENCY**2) * x * torch.cos(FREQUENCY * t) + 6 * t * x**3
    u_xx = 6 * t**3 * x
    return u_tt - u_xx + exact(points) ** 3


@dataclass(frozen=True)
class Points:
    """The points at which the terms of the loss are evaluated, each of shape (n, 2)."""

    inside: Tensor
    sides: Tensor
    start: Tensor


def draw(count: int, generator: Generator) -> Points:
    """`count` points inside, as many on both sides together, and as many at t = 0."""
    inside, sides, start = torch.rand(3, count, 2, generator=generator).unbind()
    sides[:, 1].round_()  # x is 0 or 1
    start[:, 0] = 0
    return Points(inside, sides, start)


def grid() -> Tensor:
    """The points for measuring a solution, shape (SIDE * SIDE, 2), sorted by t."""
    axis = torch.linspace(0, 1, SIDE)
    return torch.cartesian_prod(axis, axis)


def relative_error(found: Tensor, solution: Tensor) -> float:
    """The relative L2 error: 0 for the solution, 1 for a function that is 0."""
    return float((found - solution).norm() / solution.norm())
