"""Weights that are stored somewhere and the model that they fit, before anything large is read."""

from collections.abc import Callable
from dataclasses import dataclass

from jinfer.models.config import ModelConfig
from jinfer.models.model import Model, Params

Build = Callable[[ModelConfig], Model]
"""What makes the module of a config: `registry.build_model` with its other arguments."""


@dataclass(frozen=True, eq=False)
class FittedWeights:
    """`load(progress=...)` brings the params of `model` to the default device. It raises CheckpointError."""

    model: Model
    load: Callable[..., Params]
