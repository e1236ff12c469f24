"""The parts of `examples/molecules.py` that are not about losses."""
