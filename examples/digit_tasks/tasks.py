"""The tasks, with the loss and the metric of each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss

from digit_tasks.data import SIZE

OfBatch = Callable[[Tensor, Tensor], Tensor]  # called with outputs and targets


def accuracy(outputs: Tensor, labels: Tensor) -> Tensor:
    """The percentage of correct labels."""
    return 100 * (outputs.argmax(dim=1) == labels).float().mean()


def distance(outputs: Tensor, targets: Tensor) -> Tensor:
    """The mean Euclidean distance."""
    return (outputs - targets).square().sum(dim=1).sqrt().mean()


def percent_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """The root mean squared error, in percent of 1."""
    return 100 * (outputs - targets).square().mean().sqrt()


@dataclass(frozen=True)
class Task:
    """A task of one head.

    Args:
        outputs: The number of outputs of the head.
        loss: The loss of outputs and targets, in the units of the targets.
        metric: The metric of outputs and targets, on held-out data.
        unit: The unit of the metric.
        higher_is_better: Whether a higher metric is better.
    """

    outputs: int
    loss: OfBatch
    metric: OfBatch
    unit: str
    higher_is_better: bool


TASKS = {
    "digit": Task(10, cross_entropy, accuracy, "%", higher_is_better=True),
    "position": Task(2, mse_loss, distance, "px", higher_is_better=False),
    "ink": Task(1, mse_loss, distance, "pp", higher_is_better=False),
    "scene": Task(SIZE * SIZE, mse_loss, percent_error, "%", higher_is_better=False),
    "photo": Task(2, cross_entropy, accuracy, "%", higher_is_better=True),
}


def losses(outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The loss of each task."""
    return {name: task.loss(outputs[name], targets[name]) for name, task in TASKS.items()}
