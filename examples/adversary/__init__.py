"""What `late_adversary.py` needs beside its training loop."""
