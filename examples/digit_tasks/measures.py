"""Measures of all tasks together.

`delta_m` is as in Navon et al., *Multi-task learning as a bargaining game*, ICML 2022, arXiv
2202.01017, section 6, after Maninis et al., CVPR 2019, arXiv 1904.08918. So are the mean ranks, but
single tasks are ranked too, and ranks are taken seed by seed.
"""

from collections.abc import Mapping
from statistics import fmean

from digit_tasks.tasks import TASKS

Figures = Mapping[str, float]  # the metric of each task


def delta_m(figures: Figures, single: Figures) -> float:
    """The mean percentage by which metrics are worse than those of single-task training.

    Negative if they are better.
    """
    return fmean(
        100 * (-1) ** task.higher_is_better * (figures[name] - single[name]) / single[name]
        for name, task in TASKS.items()
    )


def mean_ranks(by_method: Mapping[str, Figures]) -> dict[str, float]:
    """Each method's mean rank over the tasks: 1 if it is best in all; ties share a rank."""
    ranks: dict[str, list[float]] = {method: [] for method in by_method}
    for name, task in TASKS.items():
        sign = -1 if task.higher_is_better else 1
        costs = {method: sign * figures[name] for method, figures in by_method.items()}
        for method, cost in costs.items():
            better = sum(other < cost for other in costs.values())
            equal = sum(other == cost for other in costs.values())
            ranks[method].append(better + (equal + 1) / 2)
    return {method: fmean(of_tasks) for method, of_tasks in ranks.items()}
