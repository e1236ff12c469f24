"""What docs/physicsnemo_sym.md calls the same is the same as what their classes gave.

`LOSSES` are three losses over eight steps. What is compared to was recorded by running the classes
of physicsnemo-sym 9dac911, `physicsnemo/sym/loss/aggregator.py`, in float64.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from lossweights import WeightedLoss
from tests.components.balancers.gradient.norms import THETA, recorded, toy_gradients, toy_losses

PAGE = Path(__file__).parents[1] / "docs" / "physicsnemo_sym.md"
NAMES = ("residual", "boundary", "initial")
LOSSES = [
    [2.047144, 47.022561, 0.535818],
    [1.694506, 46.774046, 0.667181],
    [1.545316, 45.589589, 0.717653],
    [1.132256, 48.324193, 0.737491],
    [1.149943, 39.864291, 0.596858],
    [0.944833, 43.907841, 0.486779],
    [0.866854, 38.5333, 0.381777],
    [0.676921, 40.921173, 0.383845],
]
SUM_TOTALS = [
    49.605523,
    49.135733,
    47.852558,
    50.19394,
    41.611092,
    45.339453,
    39.781931,
    41.981939,
]
SOFT_ADAPT_WEIGHTS = [
    [1.0, 1.0, 1.0],
    [0.8108621085349, 0.9582143715939, 1.230923507562],
    [0.9251886982117, 0.9850753396716, 1.089735951219],
    [0.8042381151269, 1.115632239186, 1.08012963453],
    [1.136376278837, 0.9390917615748, 0.9245319482247],
    [0.9044819360266, 1.196505598758, 0.8990124532501],
    [1.057744838485, 1.016399160515, 0.9258559904225],
    [0.838860838055, 1.111115797088, 1.050023353746],
]
RELOBRALO_WEIGHTS = [  # with beta=1, so that nothing is drawn
    [1.0, 1.0, 1.0],
    [0.9905431054267, 0.9979107185797, 1.011546175378],
    [0.987275385066, 0.9972689496343, 1.01545566417],
    [0.978123521569, 1.003187114112, 1.018689362688],
    [0.9860361594324, 0.999982346485, 1.013981491965],
    [0.9819584482621, 1.009808509099, 1.008233040029],
    [0.9857477677733, 1.010138041669, 1.004114187549],
    [0.9784034212874, 1.01518692944, 1.006409645859],
]
HOMOSCEDASTIC_TOTALS = [  # with SGD of learning rate 0.1 on the log-variances
    24.8027615,
    4.65270830724,
    4.247670166393,
    3.987194167016,
    3.505571643323,
    3.413821293479,
    3.10764381959,
    3.045335884072,
]
HOMOSCEDASTIC_LOG_VARIANCES = [0.06938154263495, 3.018431123102, -0.1616130680756]
RES_NORM_WEIGHTS = [  # with SGD of learning rate 0.01 on their logarithms
    [1.0, 1.0, 1.0],
    [1.155090148664, 0.7071456250428, 1.137764226293],
    [1.247642905014, 0.5380656788532, 1.214291416133],
    [1.30773237596, 0.4328698938506, 1.25939773019],
    [1.349939396407, 0.3571709500503, 1.292889653542],
    [1.378533099145, 0.3114589602175, 1.310007940637],
    [1.36382995322, 0.3487218356163, 1.287448211164],
    [1.347390262711, 0.3894357463408, 1.263173990948],
]


def block(language: str, words: str) -> str:
    """The block of the page that has these words."""
    blocks = re.findall(rf"(?ms)^```{language}\n(.*?)^```", PAGE.read_text("utf-8"))
    [found] = [each for each in blocks if words in each]
    assert isinstance(found, str)
    return found


CONFIGS: dict[str, dict[str, Any]] = yaml.safe_load(block("yaml", "aggregators.yaml"))


def criterion_of(config: str, **fields: object) -> WeightedLoss:
    """The criterion of a section of the page, with other values in some fields of its balancer."""
    table = CONFIGS[config]
    if fields:
        table = {**table, "balancer": table["balancer"] | fields}
    return WeightedLoss.from_config(table)


def given(row: list[float]) -> dict[str, Tensor]:
    return dict(zip(NAMES, torch.tensor(row), strict=True))


def weights_of(criterion: WeightedLoss) -> list[float]:
    """Those of the last forward pass."""
    found = criterion.report().weight
    return [found[name].item() for name in NAMES]


def trajectory(criterion: WeightedLoss) -> list[list[float]]:
    """The weights of each step, and of the step after the last."""
    found = []
    for row in [*LOSSES, LOSSES[-1]]:
        criterion(given(row))
        found.append(weights_of(criterion))
        criterion.step()
    return found


def agree(ours: list[list[float]], theirs: list[list[float]]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert one == pytest.approx(other, rel=1e-6)


def test_sum() -> None:
    criterion = criterion_of("sum")
    assert [criterion(given(row)).item() for row in LOSSES] == pytest.approx(SUM_TOTALS, rel=1e-6)


def test_soft_adapt_one_step_later() -> None:
    ours = trajectory(criterion_of("soft-adapt"))
    assert ours[0] == [1, 1, 1]
    agree(ours[1:], SOFT_ADAPT_WEIGHTS)


def test_relobralo_one_step_later() -> None:
    ours = trajectory(criterion_of("relobralo", saudade=1.0))
    assert ours[0] == [1, 1, 1]
    agree(ours[1:], RELOBRALO_WEIGHTS)


def test_homoscedastic_uncertainty_under_the_same_optimizer() -> None:
    criterion = criterion_of("homoscedastic")
    parameters = list(criterion.parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    totals = []
    for row in LOSSES:
        optimizer.zero_grad()
        total = criterion(given(row))
        total.backward()
        optimizer.step()
        criterion.step()
        totals.append(total.item())
    assert totals == pytest.approx(HOMOSCEDASTIC_TOTALS, rel=1e-6)
    learned = dict(zip(sorted(NAMES), parameters[0].tolist(), strict=True))
    assert [learned[name] for name in NAMES] == pytest.approx(HOMOSCEDASTIC_LOG_VARIANCES, rel=1e-5)


def over_gradients(
    criterion: WeightedLoss, steps: range, check: Callable[[int, list[float]], None]
) -> None:
    """Checks the weights of each step of a problem with four parameters, and their direction."""
    for step in steps:
        theta = THETA.clone().requires_grad_()
        criterion(dict(zip(NAMES, toy_losses(theta, step), strict=True)), shared=theta).backward()
        found = weights_of(criterion)
        check(step, found)
        assert theta.grad is not None
        weights = torch.tensor(found, dtype=torch.float64)
        torch.testing.assert_close(theta.grad, weights @ toy_gradients(THETA, step))
        criterion.step()


@pytest.mark.parametrize(
    ("case", "fields"),
    [("annealing-0.01", {}), ("annealing-0.1-5", {"smoothing": 0.9, "every": "5 steps"})],
)
def test_learning_rate_annealing(case: str, fields: dict[str, object]) -> None:
    theirs = recorded(case).tolist()

    def check(step: int, ours: list[float]) -> None:
        assert ours == pytest.approx(theirs[step], rel=1e-6)

    over_gradients(criterion_of("lr-annealing", **fields), range(24), check)


def test_ntk_from_their_first_computation_on() -> None:
    theirs = recorded("ntk-physicsnemo").tolist()

    def check(step: int, ours: list[float]) -> None:
        if step > 0:
            assert ours == pytest.approx(theirs[step], rel=1e-6)

    over_gradients(criterion_of("ntk", every="1 steps"), range(24), check)


def test_gradnorm_goes_down_the_same_objective() -> None:
    """Their step of SGD from equal weights is, by the mean norm, the gradient that ours follows."""
    from lossweights.components.balancers.gradient.gradnorm import gradnorm_gradient

    norms = toy_gradients(THETA, 0).norm(dim=1)
    ours = norms.mean() * gradnorm_gradient(
        norms, torch.ones(3), CONFIGS["grad-norm"]["balancer"]["asymmetry"]
    )
    torch.testing.assert_close(recorded("gradnorm-physicsnemo")[0], -0.01 * ours)


def test_resnorm_is_the_class_of_the_page() -> None:
    namespace: dict[str, Any] = {"torch": torch}
    exec(block("python", "class ResNorm").partition("\nlosses = ")[0], namespace)  # noqa: S102
    criterion = WeightedLoss(NAMES, balancer=namespace["ResNorm"]())
    ours = trajectory(criterion)
    agree(ours[: len(LOSSES)], RES_NORM_WEIGHTS)
