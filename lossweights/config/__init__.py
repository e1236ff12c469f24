"""The declaration of a loss: its terms, and how a config is read."""
