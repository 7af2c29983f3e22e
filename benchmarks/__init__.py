"""Measurements. Every figure is printed by a command here, with its machine and shapes, and kept under
results/."""
