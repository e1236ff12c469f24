"""The parts of `examples/vae_elbo.py` that are not about losses."""
