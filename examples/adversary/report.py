"""The columns and the caption of the table."""

from adversary.images import HELD_OUT
from adversary.run import Run
from harness.tables import Column

COLUMNS = {
    "error": Column("MSE\nx 1000", 2, min),
    "sharpness": Column("sharpness", 3),
    "told_apart": Column("told\napart, %", 1, min),
    "calls": Column("calls of\ndiscrim.", 0),
    "first_half": Column("ms/step,\n1st half", 2),
    "second_half": Column("ms/step,\n2nd half", 2),
    "seconds": Column("seconds", 1),
}


def caption(run: Run) -> str:
    """How the figures were measured and how to read them."""
    return (
        f"After {run.steps:,} steps, on {HELD_OUT} held-out images. ± is the standard deviation "
        "over seeds. MSE: per pixel, from 0 to 1. Sharpness: squared differences of neighboring "
        "pixels, relative to those of the images. Told apart: images and reconstructions that a "
        "fresh SVM classifies correctly; guessing gives 50. Calls of discrim.: forward passes of "
        "the discriminator. Processor time: ms/step is the median in each half of training, "
        "seconds is the total of all steps."
    )
