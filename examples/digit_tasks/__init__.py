"""What `multi_task.py` needs beside its training loop."""
