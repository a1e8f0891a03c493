"""Fits the bundle that `model` loads."""
