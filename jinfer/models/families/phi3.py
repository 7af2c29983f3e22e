"""Phi-3, Phi-3.5, Phi-4 and Phi-4-mini (Abdin et al., "Phi-3 Technical Report" and "Phi-4 Technical Report",
2024): Llama whose checkpoints have queries, keys and values in one tensor, and gate and up in another."""

from dataclasses import replace

from jinfer.entries import Entries
from jinfer.errors import UnsupportedModelError
from jinfer.models.config import ModelConfig, TensorNames
from jinfer.models.config_entries import REMEDY, FamilyDefaults, read_decoder_config, read_num_layers
from jinfer.models.rope_config import LongRopeScaling, RopeScaling
from jinfer.models.rope_entries import rope_objects
from jinfer.models.rope_scaling_entries import ORIGINAL
from jinfer.models.window_entries import FULL, SLIDING, read_layer_types

ARCHITECTURES = ("Phi3ForCausalLM",)
MODEL_TYPE = "phi3"
DEFAULTS = FamilyDefaults(
    vocab_size=32064,
    intermediate_size=8192,
    max_position_embeddings=4096,
    rms_norm_eps=1e-5,
    partial_rotary_factor=1.0,
)
NAMES = TensorNames(qkv=("self_attn.qkv_proj",), gate_up=("mlp.gate_up_proj",))


def read_config(entries: Entries) -> ModelConfig:
    """`sliding_window` holds for every layer, and `partial_rotary_factor` for every head."""
    num_layers, window = read_num_layers(entries), entries.integer("sliding_window", None)
    kind = FULL if window is None else SLIDING
    if set(read_layer_types(entries, num_layers) or ()) - {kind}:
        entries.refuse("layer_types", f"with sliding_window {window} all layers of this family are of {kind}")
    config = read_decoder_config(
        entries,
        ARCHITECTURES[0],
        DEFAULTS,
        qkv_bias=False,
        output_bias=False,
        sliding_windows=(window,) * num_layers,
    )
    rope = config.layers[0].attention.rope
    assert rope is not None, "all layers of the family turn their heads"
    _check_scaling(entries, rope.scaling)
    return replace(config, tensor_names=NAMES)


def _check_scaling(entries: Entries, scaling: RopeScaling | None) -> None:
    """Refuses types that the family does not have (its "yarn" was once another than that of others), and
    longrope without the context that it extends, whose default is not that of other families."""
    if not isinstance(scaling, LongRopeScaling | None):
        raise UnsupportedModelError(
            f"config.json has rotary embedding with {scaling}, and this family has the types default and "
            f"longrope: {REMEDY}"
        )
    if scaling is not None and not any(each.has(ORIGINAL) for each in (entries, *rope_objects(entries))):
        entries.require(ORIGINAL)
