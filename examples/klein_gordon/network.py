"""The network that approximates the solution, and the terms of its loss."""

from collections.abc import Callable
from math import sqrt

import torch
from torch import Tensor, nn

from klein_gordon.problem import Points, exact, forcing

TERMS = ("residual", "boundary", "initial", "velocity")


class Network(nn.Module):
    """Maps points, shape (n, 2), to values of u, shape (n,), with hidden layers of tanh.

    Args:
        depth: Number of hidden layers.
        width: Units of each layer.
    """

    def __init__(self, depth: int = 3, width: int = 50) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs in [2, *[width] * (depth - 1)]:
            layers += [nn.Linear(inputs, width), nn.Tanh()]
        self.layers = nn.Sequential(*layers, nn.Linear(width, 1))
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_normal_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, points: Tensor) -> Tensor:
        """Values of u. The points are first scaled to mean 0 and variance 1."""
        u: Tensor = self.layers((points - 0.5) * sqrt(12))
        return u.squeeze(-1)


def losses(u: Callable[[Tensor], Tensor], points: Points) -> dict[str, Tensor]:
    """Mean squared errors of a function of points as a solution.

    `residual` is the residual of the equation. `boundary` and `initial` are the errors on the sides
    and at t = 0. `velocity` is u_t at t = 0, which should be 0.
    """
    inside, start = points.inside.clone().requires_grad_(), points.start.clone().requires_grad_()
    u_inside, u_start = u(inside), u(start)
    u_t = slopes(u_start, start)[:, 0]
    residual = wave(u_inside, inside) + u_inside**3 - forcing(points.inside)
    return {
        "residual": residual.square().mean(),
        "boundary": (u(points.sides) - exact(points.sides)).square().mean(),
        "initial": (u_start - exact(points.start)).square().mean(),
        "velocity": u_t.square().mean(),
    }


def wave(u: Tensor, points: Tensor) -> Tensor:
    """u_tt - u_xx, from values of u and the points that they were computed from.

    The derivatives of u_t + u_x are u_tt + u_xt and u_tx + u_xx; the mixed ones cancel. So two
    backward passes are enough instead of three.
    """
    seconds = slopes(slopes(u, points).sum(dim=1), points)
    return seconds[:, 0] - seconds[:, 1]


def slopes(values: Tensor, points: Tensor) -> Tensor:
    """The derivatives of each value by t and x, shape (n, 2), with their own graph."""
    return torch.autograd.grad(values.sum(), points, create_graph=True)[0]
