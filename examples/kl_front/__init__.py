"""Families of configs, and their comparison at the same KL, for `front.py`."""
