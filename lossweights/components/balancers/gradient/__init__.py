"""Balancers that weigh the terms by their gradients with respect to shared tensors."""
