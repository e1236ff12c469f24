"""The limits of numbers in a config; without torch, so that the command line starts quickly."""

import numpy as np

LARGEST_FLOAT32 = float(np.finfo(np.float32).max)
SMALLEST_FLOAT32 = float(np.finfo(np.float32).tiny)  # GPUs may round what is smaller to 0
LARGEST_INT = 2**53  # float64 represents every whole number up to it

MOST_TERMS = 10_000  # of a loss
MOST_VALUES = 100_000  # of a loss; a value counts as often as it is used
