"""Model families: Flax NNX modules inside, pure functions of parameters outside."""
