"""What a trained model's code holds, measured on sprites that it has not seen."""

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.gaussian import draw, kl_to_prior
from sprites.data import FACTORS, Sprites
from sprites.model import SpriteVAE

BINS = 20
ACTIVE = 0.01  # variance of the posterior mean from which on a dimension counts as active


@dataclass(frozen=True)
class Code:
    """The dimensions of a code, those with the largest KL first.

    Args:
        dimensions: Their places in the code.
        kl: The KL of each in nats, mean over the images.
        information: Of each with each factor, as a part of the factor's entropy, shape
            (dimensions, factors).
    """

    dimensions: list[int]
    kl: list[float]
    information: list[list[float]]


@torch.no_grad()
def measure(model: SpriteVAE, sprites: Sprites, seed: int) -> tuple[dict[str, float], Code]:
    """The figures of the table, and what each dimension of the code stands for."""
    mean, log_variance = model.encode(sprites.images)
    codes = draw(mean, log_variance, torch.Generator().manual_seed(seed))
    reconstruction = model.reconstruction(sprites.images, codes).mean().item()
    kl = kl_to_prior(mean, log_variance).mean(dim=0)
    information = normalised_information(codes, sprites.factors)
    gap = gaps(information)
    figures = {
        "mig": float(gap.mean()),
        **dict(zip(FACTORS, gap.tolist(), strict=True)),
        "mig_of_means": float(gaps(normalised_information(mean, sprites.factors)).mean()),
        "reconstruction": reconstruction,
        "kl": kl.sum().item(),
        "active": float((mean.var(dim=0) > ACTIVE).sum()),
    }
    order = kl.argsort(descending=True)
    return figures, Code(order.tolist(), kl[order].tolist(), information[order].tolist())


def gaps(information: Tensor) -> Tensor:
    """The gap of each factor; their mean is the mutual information gap, MIG.

    By how much the dimension that knows most of the factor knows more than the second, from 0 to 1
    (Chen et al., NeurIPS 2018, arXiv 1802.04942).

    Args:
        information: As `normalised_information` gives it.
    """
    ordered = information.sort(dim=0, descending=True).values
    return ordered[0] - ordered[1]


def normalised_information(codes: Tensor, factors: Tensor) -> Tensor:
    """I(z_j; v_k) / H(v_k), shape (dimensions, factors), over the images.

    Each dimension of the code is cut into equal bins, which span its values. Chen et al. take I
    under q(z|x) too, but its density in place of bins; Locatello et al. (ICML 2019, arXiv
    1811.12359) take these bins, but posterior means in place of samples.
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
    """I(a; b) in nats of two whole numbers, given as many pairs of them."""
    pairs = first * (int(second.max()) + 1) + second
    return entropy(first.bincount()) + entropy(second.bincount()) - entropy(pairs.bincount())


def entropy(counts: Tensor) -> float:
    """Of the distribution that is seen in these counts, in nats."""
    return float(torch.special.entr(counts.double() / counts.sum()).sum())


def least_error(images: Tensor) -> float:
    """The reconstruction error of a perfect reconstruction: grey pixels are not free."""
    entropies = torch.special.entr(images) + torch.special.entr(1 - images)
    return float(entropies.sum(dim=1).mean())
