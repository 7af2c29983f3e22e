"""Evaluation of a model's accuracy: perplexity of a text, and two models beside each other."""
