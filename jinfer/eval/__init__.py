"""Evaluation of a model's accuracy: the perplexity of a text."""
