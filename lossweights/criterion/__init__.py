"""`WeightedLoss` and its parts."""
