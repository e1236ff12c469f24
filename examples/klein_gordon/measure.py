"""Measures of a network."""

import torch
from torch import Generator, nn

from klein_gordon.network import losses
from klein_gordon.problem import draw, exact, grid, relative_error

TEST_POINTS = 10_000  # for each term, the same in all runs
TEST_SEED = 2**32 - 1  # the largest: the generator keeps only the low 32 bits of a seed


def error(network: nn.Module) -> float:
    """The relative L2 error on the grid."""
    points = grid()
    with torch.no_grad():
        return relative_error(network(points), exact(points))


def solution(network: nn.Module) -> list[float]:
    """The values of u on the grid."""
    values: list[float]
    with torch.no_grad():
        values = network(grid()).tolist()
    return values


def terms(network: nn.Module) -> dict[str, float]:
    """The unweighted terms of the loss, on held-out points."""
    points = draw(TEST_POINTS, Generator().manual_seed(TEST_SEED))
    return {name: value.item() for name, value in losses(network, points).items()}
