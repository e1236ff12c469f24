"""Data, models, measures and reports of `late_adversary.py`."""
