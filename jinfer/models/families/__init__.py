"""Families of models: each file turns the config.json of its architectures into a ModelConfig."""
