"""What `beta_vae.py` needs beside its training loop."""
