"""Who runs next, and on which pages. Plain Python: nothing here imports jax."""
