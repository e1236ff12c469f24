"""What moving through the code gives, and the weights and the KL over training, as pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rdkit import Chem
from rdkit.Chem import Crippen, Draw

from harness.pictures import STYLE, lines
from molecule_vae.navigate import DISTANCES, STARTS
from molecule_vae.options import DEMO
from molecule_vae.report import by_config, by_setup, setup
from molecule_vae.result import Result

WIDTH = 7.2  # inches
PIXELS = 260  # of a molecule's side
CAPTION = (
    "The code of a held-out molecule, moved along logP and decoded. "
    "Numbers: distance in standard deviations of the prior, and logP."
)


def save_all(results: Sequence[Result], folder: Path, *, curves: bool) -> list[Path]:
    """For each set-up a picture of the paths, and before it one of the curves if wanted."""
    files = []
    for group in by_setup(results):
        name = setup(group).replace(" ", "-")
        if curves:
            files.append(save_curves(group, folder / f"{name}-curves.png"))
        files.append(save_paths(group, folder / f"{name}-paths.png"))
    return files


def save_curves(results: Sequence[Result], path: Path) -> Path:
    """Draw weight and KL over training, and gain and distinct molecules over the distance."""
    groups = by_config(results)
    line_of = lines(groups)
    with mpl.rc_context({**STYLE, "axes.grid": True}):
        figure = Figure(figsize=(WIDTH, 4.6))
        (weight, kl), (gain, distinct) = figure.subplots(2, 2)
        for config, group in groups.items():
            for panel, metric in ((weight, "weight/kl"), (kl, "raw/kl")):
                values = np.mean([result.history[metric] for result in group], axis=0)
                middles = group[0].history["middle"]
                panel.plot(middles, values, label=config, **line_of[config])
            for panel, moved in ((gain, "gain"), (distinct, "distinct")):
                rows = [getattr(result.navigation, moved) for result in group]
                panel.plot(DISTANCES, np.mean(rows, axis=0), marker=".", **line_of[config])
        weight.set_ylabel("weight of KL")
        kl.set_ylabel("KL (nats)")
        kl.set_yscale("log")  # a KL that has vanished and one that is held are decades apart
        gain.set_ylabel("logP less that of the start")
        distinct.set_ylabel("distinct molecules (%)")
        distinct.set_ylim(0, 100)
        for panel in (weight, kl):
            panel.set_xlabel("optimizer step")
        for panel in (gain, distinct):
            panel.set_xlabel("distance moved (standard deviations of the prior)")
        handles = weight.get_legend_handles_labels()
        figure.legend(*handles, loc="outside upper center", ncols=min(5, len(groups)))
        figure.savefig(path)
    return path


def save_paths(results: Sequence[Result], path: Path) -> Path:
    """Draw one held-out molecule, moved under several configs: a row of molecules for each."""
    shown = rows(results)
    start = most_telling(shown)
    columns = len(DISTANCES) + 1
    with mpl.rc_context({**STYLE, "figure.constrained_layout.use": False}):
        side = WIDTH / columns
        height = (side + 0.34) * len(shown) + 0.3
        figure = Figure(figsize=(WIDTH, height))
        grid = figure.subplots(len(shown), columns, squeeze=False)
        for row, (config, result) in zip(grid, shown.items(), strict=True):
            navigation = result.navigation
            distinct = round(navigation.distinct[-1] * STARTS / 100)
            title = f"{config}: KL {result.figures['kl']:.2f} nats, "
            title += f"distinct molecules at {DISTANCES[-1]:+g}: {distinct} of {STARTS}"
            row[0].set_title(title, loc="left", fontweight="bold")
            draw(row[0], navigation.starts[start], "start")
            for panel, distance, smiles in zip(
                row[1:], DISTANCES, navigation.paths[start], strict=True
            ):
                draw(panel, smiles, f"{distance:+g}" if distance else "0")
        figure.text(0.5, 0.06 / height, CAPTION, ha="center", fontsize=7)
        figure.subplots_adjust(
            0.005, 0.4 / height, 0.995, 1 - 0.25 / height, wspace=0.02, hspace=0.35
        )
        figure.savefig(path)
    return path


def rows(results: Sequence[Result]) -> dict[str, Result]:
    """The first result of each config, for as many configs as the short form has."""
    first = {config: group[0] for config, group in by_config(results).items()}
    if len(first) <= len(DEMO):
        return first
    return {c: first[c] for c in DEMO if c in first} or dict(list(first.items())[: len(DEMO)])


def most_telling(shown: Mapping[str, Result]) -> int:
    """The start with the most valid molecules on its paths: the first of equals."""
    paths = [result.navigation.paths for result in shown.values()]
    valid = [
        [sum(smiles is not None for smiles in path) for path in of_config] for of_config in paths
    ]
    return int(np.sum(valid, axis=0).argmax())


def draw(panel: Axes, smiles: str | None, label: str) -> None:
    """A molecule with its logP, or a note that the string is none."""
    panel.axis("off")
    if smiles is None:
        panel.text(0.5, 0.5, "no valid\nmolecule", ha="center", va="center", color="#999999")
        words = label
    else:
        molecule = Chem.MolFromSmiles(smiles)
        image: Any = Draw.MolToImage(molecule, size=(PIXELS, PIXELS))
        panel.imshow(np.asarray(image))
        words = f"{label}: {Crippen.MolLogP(molecule):.1f}"
    panel.text(0.5, -0.02, words, transform=panel.transAxes, ha="center", va="top", fontsize=7)
