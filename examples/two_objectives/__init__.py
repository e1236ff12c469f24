"""Problem and pictures of `conflicting_objectives.py`."""
