"""The config of a loss: terms, files, and weights over time."""
