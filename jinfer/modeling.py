"""The parts that a model of your own is made of, and what brings its parameters.

docs/bring_your_own_model.md has a whole one.
"""

from pathlib import Path
from typing import Any

from jinfer.models.attention import Attention, TokenBatch
from jinfer.models.config import AttentionConfig, LayerConfig, MLPConfig, ModelConfig, RopeTable
from jinfer.models.decoder import table_angles
from jinfer.models.layers import Embedding, GatedMLP, Linear, RMSNorm
from jinfer.models.model import DecoderModule
from jinfer.models.own_model import OwnModel
from jinfer.models.rope_config import RopeConfig
from jinfer.weights.stored_params import ParamMap, StoredParam, map_params

__all__ = [
    "Attention",
    "AttentionConfig",
    "DecoderModule",
    "Embedding",
    "GatedMLP",
    "LayerConfig",
    "Linear",
    "MLPConfig",
    "ModelConfig",
    "OwnModel",
    "RMSNorm",
    "RopeConfig",
    "RopeTable",
    "StoredParam",
    "TokenBatch",
    "load_mapped_orbax",
    "map_params",
    "table_angles",
]


def load_mapped_orbax(directory: str | Path, param_map: ParamMap) -> dict[str, Any]:
    """The parameters that `param_map` finds in a tree that Orbax wrote, as MaxText does, or in the newest
    step of a CheckpointManager's directory: a nested dict on the first device, for `LLM(model, params=...)`.

    A parameter is read, arranged on the host and copied before the next one; the rest of the tree, such as
    the state of an optimizer, is not read. Raises CheckpointError.
    """
    from jinfer.weights import mapped_orbax  # imports Orbax, which takes as long as half of the rest

    return mapped_orbax.load_mapped_orbax(Path(directory), param_map)
