"""The choice of a token from logits, by the parameters of each row."""
