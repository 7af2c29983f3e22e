"""The engine: requests in, outputs of their sequences out. Plain Python, without jax."""
