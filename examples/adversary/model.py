"""An autoencoder, its adversarial discriminator, and the loss terms of the discriminator."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

CODE = 8  # numbers per image, too few for its 64 pixels
HIDDEN = 128


class Autoencoder(nn.Sequential):
    """From images to codes and back."""

    def __init__(self) -> None:
        super().__init__(
            nn.Flatten(),
            *(nn.Linear(64, HIDDEN), nn.ReLU()),
            *(nn.Linear(HIDDEN, HIDDEN), nn.ReLU()),
            nn.Linear(HIDDEN, CODE),
            *(nn.Linear(CODE, HIDDEN), nn.ReLU()),
            *(nn.Linear(HIDDEN, HIDDEN), nn.ReLU()),
            *(nn.Linear(HIDDEN, 64), nn.Sigmoid()),
            nn.Unflatten(1, (8, 8)),
        )


class Discriminator(nn.Module):
    """A logit for each image, positive for a real one. It counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.layers = nn.Sequential(
            nn.Flatten(),
            *(nn.Linear(64, HIDDEN), nn.LeakyReLU(0.2)),
            *(nn.Linear(HIDDEN, HIDDEN), nn.LeakyReLU(0.2)),
            nn.Linear(HIDDEN, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits, shape (n,)."""
        self.calls += 1
        logits: Tensor = self.layers(images)
        return logits[:, 0]


def discriminator_terms(
    discriminator: Callable[[Tensor], Tensor],
    images: Tensor,
    reconstructions: Tensor,
    *,
    with_penalty: bool,
) -> dict[str, Tensor]:
    r"""The hinge loss of both sides, and $\lVert \nabla_x D(x) \rVert^2$ at real images on request.

    The penalty is R1 of L. Mescheder, A. Geiger, S. Nowozin, *Which training methods for GANs do
    actually converge?*, ICML 2018, arXiv 1801.04406, with a weight of $\gamma / 2$. There is one
    forward only, because DistributedDataParallel expects one before each backward.
    """
    both = torch.cat([images, reconstructions]).requires_grad_(with_penalty)
    real, fake = discriminator(both).chunk(2)
    terms = {"real": functional.relu(1 - real).mean(), "fake": functional.relu(1 + fake).mean()}
    if with_penalty:
        (slopes,) = torch.autograd.grad(real.sum(), both, create_graph=True)
        terms["r1"] = slopes[: len(images)].square().sum(dim=(1, 2)).mean()
    return terms
