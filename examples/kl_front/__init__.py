"""What `front.py` does with its figures: families of configs compared at the same KL."""
