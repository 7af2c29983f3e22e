"""Requests: the words of a caller, and the answers. Plain Python, without jax."""
