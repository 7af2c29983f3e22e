"""Requests and their outputs: what callers give and get. Plain Python, without jax."""
