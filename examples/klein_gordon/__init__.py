"""What `pinn.py` needs beside its training loop."""
