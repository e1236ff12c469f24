"""Weights from gradients."""
