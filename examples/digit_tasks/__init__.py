"""Data, model, measures and reports of `multi_task.py`."""
