"""What the table shows."""

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
    """How the figures came about and how to read them."""
    return (
        f"After {run.steps:,} steps, on {HELD_OUT} images that were not trained on; ± is the "
        "standard deviation over seeds. MSE: of a pixel, from 0 to 1. Sharpness: squared "
        "differences of neighbouring pixels; 1 is that of the images. Told apart: of images and "
        "reconstructions, by a fresh SVM; guessing gives 50. Calls of discrim.: forward passes of "
        "the discriminator. Processor time in milliseconds: the median of the steps in each half "
        "of training; in seconds: of all steps."
    )
