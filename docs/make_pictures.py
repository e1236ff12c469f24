"""Draws the pictures of some pages from the code next to them.

Each picture in the pages of schedules shows the terms of the YAML block before it, over a training
of 1,000 steps of which 100 make an epoch. Those of README.md, logging.md, pictures.md and
choosing.md are what their Python saves. Run it after changing one, with matplotlib, PyYAML and
Optuna installed:

    python docs/make_pictures.py
    python docs/dark_pictures.py  # their dark versions
"""

import contextlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib as mpl
import numpy as np
import yaml
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lossweights import LossConfig, WeightedLoss

DOCS = Path(__file__).parent
TOTAL_STEPS, STEPS_PER_EPOCH = 1000, 100
# Okabe and Ito's palette for color-blind readers. The dashes distinguish the lines without color.
STYLES = (
    ("#0072B2", "-"),
    ("#D55E00", (0, (6, 2))),
    ("#009E73", (0, (2, 1.2))),
    ("#CC79A7", (0, (6, 2, 1.2, 2))),
    ("#000000", (0, (1, 2))),
    ("#E69F00", (0, (10, 2))),
    ("#56B4E9", (0, (4, 1, 1.2, 1))),
)


def pictures(markdown: str) -> Iterator[tuple[str, LossConfig]]:
    """Each picture's path and what it is to show."""
    config = None
    for block, path in re.findall(
        r"^```yaml\n(.*?)^```|\]\((pictures/[\w-]+\.png)\)", markdown, re.DOTALL | re.MULTILINE
    ):
        if block:
            config = LossConfig.read(yaml.safe_load(block))
        elif config is not None:
            yield path, config


def curves(config: LossConfig) -> dict[str, NDArray[np.float64]]:
    """The weight of each term at every step, the one at which training ends among them."""
    criterion = WeightedLoss.from_config(config)
    criterion.bind(total_steps=TOTAL_STEPS, steps_per_epoch=STEPS_PER_EPOCH)
    rows = []
    for step in range(TOTAL_STEPS + 1):
        criterion.set_step(step)
        rows.append(criterion.weights)
    return {name: np.array([row[name] for row in rows]) for name in config.terms}


def draw(config: LossConfig, path: Path) -> None:
    """One picture: a curve a term, named beside it where there are several."""
    figure = Figure(figsize=(6.4, 2.3), dpi=150, layout="constrained")
    axes = figure.subplots()
    lines = curves(config)
    for (name, curve), (color, dashes) in zip(lines.items(), STYLES, strict=False):
        axes.plot(
            curve, color=color, linestyle=dashes, linewidth=2, label=name, clip_on=False, zorder=3
        )
    if len(lines) > 1:
        figure.legend(loc="outside right center", frameon=False, handlelength=2.8)
    axes.set_xlabel("step")
    axes.set_ylabel("weight")
    axes.set_xlim(0, TOTAL_STEPS)
    axes.set_ylim(bottom=min(0, *(curve.min() for curve in lines.values())))
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Software": None})


def run(page: Path, folder: Path) -> None:
    """The Python of a page in a folder with its YAML files, up to what logs for others."""
    namespace: dict[str, object] = {}
    text = page.read_text(encoding="utf-8").split("\n## Loggers\n")[0]
    with contextlib.chdir(folder):
        for block, name in re.findall(
            r"^```yaml\n(# ([\w-]+\.yaml)\n.*?)^```", text, re.DOTALL | re.MULTILINE
        ):
            Path(name).write_text(block, encoding="utf-8")
        for block in re.findall(r"^```python\n(?!>>>)(.*?)^```", text, re.DOTALL | re.MULTILINE):
            exec(block, namespace)  # noqa: S102  # our own


def main() -> None:
    """Draw every picture."""
    (DOCS / "pictures").mkdir(exist_ok=True)
    for page in ("schedules.md", "combined_schedules.md", "shapes.md", "durations.md"):
        for path, config in pictures((DOCS / page).read_text(encoding="utf-8")):
            with mpl.rc_context({"font.size": 11}):
                draw(config, DOCS / path)
            print(path)
    for page in ("../README.md", "logging.md", "pictures.md", "choosing.md"):
        with TemporaryDirectory() as folder:
            run(DOCS / page, Path(folder))
            for picture in sorted(Path(folder).glob("*.png")):
                shutil.copy(picture, DOCS / "pictures")
                print(f"pictures/{picture.name}")


if __name__ == "__main__":
    main()
