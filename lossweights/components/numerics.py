"""Constants and formulas that stay finite for every loss: 0, negative, tiny or huge."""

import torch
from torch import Tensor

LARGE = 1e30  # far below the maximum of float32: sums of such weights times losses stay finite
TINY = 1e-30  # a size below it counts as 0
EPSILON = 2.0**-52  # of float64


def relative(losses: Tensor, before: Tensor) -> Tensor:
    """Losses relative to earlier ones; a loss that was 0 counts as unchanged."""
    return _ratio(losses, before).clamp(-LARGE, LARGE)


def relative_weights(losses: Tensor, before: Tensor, temperature: float) -> Tensor:
    r"""$n\,\mathrm{softmax}(L / (T L'))$ for losses $L$ that were $L'$ before; the sum is $n$."""
    exponent = (_ratio(losses, before) / temperature).clamp(-LARGE, LARGE)  # no inf - inf
    return len(losses) * torch.softmax(exponent, dim=-1)


def _ratio(losses: Tensor, before: Tensor) -> Tensor:
    return torch.where(before == 0, 1.0, losses / before)


def nan_for_inf(values: Tensor) -> Tensor:
    """The values, with nan for infinities, so that results computed from them are nan too."""
    return torch.where(values.isfinite(), values, torch.nan)


def safe_log(losses: Tensor) -> Tensor:
    """The logarithm; values that are not above 0 count as very small."""
    return losses.clamp(min=TINY).log()
