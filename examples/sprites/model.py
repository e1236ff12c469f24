"""A variational autoencoder of sprites: two perceptrons and a code of eight numbers."""

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from harness.gaussian import draw, kl_to_prior
from sprites.data import SIZE

CODE_SIZE = 8
HIDDEN = 128


class SpriteVAE(nn.Module):
    """Encoder and decoder. Both terms of the loss are sums in nats, one number per image."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = perceptron(SIZE * SIZE, 2 * CODE_SIZE)
        self.decoder = perceptron(CODE_SIZE, SIZE * SIZE)

    def forward(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Reconstruction error over pixels and KL over the dimensions of the code, shape (n,)."""
        return self.terms(images, self.encode(images), generator)

    def terms(
        self, images: Tensor, posterior: tuple[Tensor, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """The terms, from the mean and log-variance of q(z|x)."""
        code = draw(*posterior, generator)
        return self.reconstruction(images, code), kl_to_prior(*posterior).sum(dim=1)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x), each of shape (n, code)."""
        mean, log_variance = self.encoder(images).chunk(2, dim=1)
        return mean, log_variance

    def decode(self, code: Tensor) -> Tensor:
        """The images, each pixel from 0 to 1."""
        images: Tensor = self.decoder(code).sigmoid()
        return images

    def reconstruction(self, images: Tensor, code: Tensor) -> Tensor:
        """Bernoulli cross-entropy, summed over pixels, shape (n,)."""
        logits = self.decoder(code)
        return binary_cross_entropy_with_logits(logits, images, reduction="none").sum(dim=1)


def perceptron(inputs: int, outputs: int) -> nn.Sequential:
    """A perceptron with two hidden layers."""
    return nn.Sequential(
        nn.Linear(inputs, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, outputs),
    )
