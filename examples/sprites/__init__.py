"""Data, model, measures and reports of `beta_vae.py`."""
