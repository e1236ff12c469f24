"""The measures of each family of configs over the KL, as a picture."""

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from harness.pictures import COLUMN, STYLE, lines
from kl_front.families import FAMILIES, families_of
from kl_front.matched import MEASURES
from lossweights import Front

MOST = 6.0  # nats, the end of the axis
MARKERS = dict(zip(FAMILIES, "osD^vP", strict=True))


def save_families(front: Front, path: Path) -> Path:
    """Draw each measure over the KL: a line per family, a point per config."""
    families = families_of(front)
    line_of = lines(families)
    with mpl.rc_context({**STYLE, "axes.grid": True}):
        figure = Figure(figsize=(2 * COLUMN, 4.8))
        axes = figure.subplots(2, 2, sharex=True).flatten()
        for panel, (measure, name) in zip(axes, MEASURES.items(), strict=True):
            panel.set_ylabel(name)
            inside = []
            for family, outcomes in families.items():
                points = sorted(outcomes, key=lambda outcome: outcome.mean("kl"))
                panel.errorbar(
                    [outcome.mean("kl") for outcome in points],
                    [outcome.mean(measure) for outcome in points],
                    xerr=[outcome.std("kl") for outcome in points],
                    yerr=[outcome.std(measure) for outcome in points],
                    label=family,
                    marker=MARKERS[family],
                    markersize=3,
                    elinewidth=0.7,
                    **line_of[family],
                )
                inside += [o.mean(measure) for o in points if o.mean("kl") <= MOST]
            margin = 0.05 * (max(inside) - min(inside)) + 0.01
            panel.set_ylim(min(inside) - margin, max(inside) + margin)
        axes[0].set_xlim(-0.2, MOST)
        figure.supxlabel("KL (nats)", fontsize=8)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=6)
        figure.savefig(path)
    return path
