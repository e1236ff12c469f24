"""Error and sharpness of reconstructions, and how easily a classifier tells them from images."""

from math import nan

import numpy as np
import torch
from sklearn.svm import SVC
from torch import Tensor, nn
from torch.nn import functional

from lossweights import WeightedLoss


def progress(
    criterion: WeightedLoss, judgement: WeightedLoss, autoencoder: nn.Module, held_out: Tensor
) -> dict[str, float]:
    """A point of the curves over training."""
    reconstructions = reconstruct(autoencoder, held_out)
    raw = judgement.metrics(include=["raw"])  # its last batch; empty before the first
    return {
        "step": criterion.current_step,
        "weight": criterion.weights["adversarial"],
        "error": error(held_out, reconstructions),
        "sharpness": sharpness(held_out, reconstructions),
        "hinge": (raw["raw/real"] + raw["raw/fake"]) / 2 if raw else nan,
    }


@torch.no_grad()
def reconstruct(autoencoder: nn.Module, images: Tensor) -> Tensor:
    """The reconstructions of images."""
    reconstructions: Tensor = autoencoder(images)
    return reconstructions


def figures(images: Tensor, reconstructions: Tensor) -> dict[str, float]:
    """The figures of the table."""
    return {
        "error": error(images, reconstructions),
        "sharpness": sharpness(images, reconstructions),
        "told_apart": told_apart(images, reconstructions),
    }


def error(images: Tensor, reconstructions: Tensor) -> float:
    """The mean squared error of a pixel, times 1000."""
    return 1000 * functional.mse_loss(reconstructions, images).item()


def sharpness(images: Tensor, reconstructions: Tensor) -> float:
    """Squared differences of neighboring pixels, as a fraction of those of the images.

    1 is as sharp as the images; a smaller value is blurred.
    """
    return _contrast(reconstructions) / _contrast(images)


def _contrast(images: Tensor) -> float:
    across, down = images.diff(dim=2), images.diff(dim=1)
    return (across.square().mean() + down.square().mean()).item()


def told_apart(images: Tensor, reconstructions: Tensor) -> float:
    """The percentage of images and reconstructions that a fresh classifier classifies correctly.

    Guessing gives 50. The classifier is trained on one half of the images and their reconstructions
    and tested on the other half, then the reverse: a classifier two-sample test, D. Lopez-Paz, M.
    Oquab, ICLR 2017, arXiv 1610.06545. It is scikit-learn's SVC with its defaults. Training
    does not use it.
    """
    halves = [
        (torch.cat(pair).flatten(1).numpy(), np.repeat([1, 0], len(pair[0])))
        for pair in zip(images.chunk(2), reconstructions.chunk(2), strict=True)
    ]
    first, second = halves
    scores = [SVC().fit(*seen).score(*unseen) for seen, unseen in (halves, (second, first))]
    return 100 * float(np.mean(scores))
