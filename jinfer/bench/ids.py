"""Ids of results. Plain Python."""

import re


def model_prefix(name: str) -> str:
    """The beginning of the ids of a model's results: My.Model-8B -> my-model-8b."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "model"
