"""The Gaussian code of a variational autoencoder."""

import torch
from torch import Tensor


def draw(mean: Tensor, log_variance: Tensor, generator: torch.Generator) -> Tensor:
    """One sample of each code, by the reparameterization trick."""
    return mean + (0.5 * log_variance).exp() * torch.randn(mean.shape, generator=generator)


def kl_to_prior(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(q(z|x) || N(0, 1)) in nats, for each dimension of each code."""
    return 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance)
