"""One trunk and a head for each task."""

import torch
from torch import Tensor, nn

from digit_tasks.data import Examples
from digit_tasks.tasks import TASKS

FEATURES = 32  # the only input of the heads: narrow, so that the tasks compete for it
_HIDDEN = 32


class Network(nn.Module):
    """A small convolutional trunk, and heads with one hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * 3 * 3, FEATURES),
            nn.ReLU(),
        )
        self.heads = nn.ModuleDict(
            {
                name: nn.Sequential(
                    nn.Linear(FEATURES, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, task.outputs)
                )
                for name, task in TASKS.items()
            }
        )

    def forward(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The features of images, which all tasks share, and the output of each head."""
        features = self.trunk(images)
        return features, {name: head(features) for name, head in self.heads.items()}


@torch.no_grad()
def measure(model: Network, examples: Examples) -> dict[str, float]:
    """The metric of each task."""
    _, outputs = model(examples.images)
    return {
        name: float(task.metric(outputs[name], examples.targets[name]))
        for name, task in TASKS.items()
    }
