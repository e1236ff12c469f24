"""Measures of a trained model's code, on held-out sprites."""

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.gaussian import draw, kl_to_prior
from sprites.data import FACTORS, Sprites
from sprites.model import SpriteVAE

BINS = 20
ACTIVE = 0.01  # variance of the posterior mean above which a dimension is active


@dataclass(frozen=True)
class Code:
    """The dimensions of a code, from the largest KL to the smallest.

    Args:
        dimensions: Their indices in the code.
        kl: The KL of each dimension in nats, mean over the images.
        information: Mutual information of each dimension with each factor, as a fraction of the
            factor's entropy, shape (dimensions, factors).
    """

    dimensions: list[int]
    kl: list[float]
    information: list[list[float]]


@torch.no_grad()
def measure(model: SpriteVAE, sprites: Sprites, seed: int) -> tuple[dict[str, float], Code]:
    """The figures of the table, and the information in each dimension of the code."""
    mean, log_variance = model.encode(sprites.images)
    codes = draw(mean, log_variance, torch.Generator().manual_seed(seed))
    reconstruction = model.reconstruction(sprites.images, codes).mean().item()
    kl = kl_to_prior(mean, log_variance).mean(dim=0)
    information = normalized_information(codes, sprites.factors)
    gap = gaps(information)
    figures = {
        "mig": float(gap.mean()),
        **dict(zip(FACTORS, gap.tolist(), strict=True)),
        "mig_of_means": float(gaps(normalized_information(mean, sprites.factors)).mean()),
        "reconstruction": reconstruction,
        "kl": kl.sum().item(),
        "active": float((mean.var(dim=0) > ACTIVE).sum()),
    }
    order = kl.argsort(descending=True)
    return figures, Code(order.tolist(), kl[order].tolist(), information[order].tolist())


def gaps(information: Tensor) -> Tensor:
    """The gap of each factor; their mean is the mutual information gap, MIG.

    The gap is the difference between the two dimensions with the most information on the factor,
    from 0 to 1 (Chen et al., NeurIPS 2018, arXiv 1802.04942).

    Args:
        information: The result of `normalized_information`.
    """
    ordered = information.sort(dim=0, descending=True).values
    return ordered[0] - ordered[1]


def normalized_information(codes: Tensor, factors: Tensor) -> Tensor:
    """I(z_j; v_k) / H(v_k), shape (dimensions, factors), over the images.

    Each dimension of the code is cut into equal bins, which span its values. Chen et al. also use
    I under q(z|x), but with its density instead of bins. Locatello et al. (ICML 2019, arXiv
    1811.12359) use these bins, but with posterior means instead of samples.
    """
    lowest, highest = codes.amin(dim=0), codes.amax(dim=0)
    widths = ((highest - lowest) / BINS).clamp(min=1e-12)  # a code may be a constant
    binned = ((codes - lowest) / widths).long().clamp(max=BINS - 1)
    rows = [
        [mutual_information(bins, values) / entropy(values.bincount()) for values in factors.T]
        for bins in binned.T
    ]
    return torch.tensor(rows)


def mutual_information(first: Tensor, second: Tensor) -> float:
    """I(a; b) in nats of two integers, from samples of pairs."""
    pairs = first * (int(second.max()) + 1) + second
    return entropy(first.bincount()) + entropy(second.bincount()) - entropy(pairs.bincount())


def entropy(counts: Tensor) -> float:
    """The entropy of the distribution with these counts, in nats."""
    return float(torch.special.entr(counts.double() / counts.sum()).sum())


def least_error(images: Tensor) -> float:
    """The error of a perfect reconstruction, which is above 0 for gray pixels."""
    entropies = torch.special.entr(images) + torch.special.entr(1 - images)
    return float(entropies.sum(dim=1).mean())
