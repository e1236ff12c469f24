"""Data, model, measures and reports of `examples/vae_elbo.py`."""
