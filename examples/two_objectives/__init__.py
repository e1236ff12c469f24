"""What `conflicting_objectives.py` needs beside its training loop."""
