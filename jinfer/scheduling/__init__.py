"""Scheduling: the sequences of the next step, and their pages. Plain Python, without jax."""
