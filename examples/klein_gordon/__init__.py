"""Problem, network, measures and reports of `pinn.py`."""
