"""OLMo 3 (Team OLMo, 2025): OLMo 2 with a window in three layers of four, and rotary embedding by the type of
layer: only layers without a window are scaled."""

from dataclasses import replace

from jinfer.entries import Entries
from jinfer.models.config import ModelConfig
from jinfer.models.config_entries import FamilyDefaults, read_decoder_config
from jinfer.models.families.olmo2 import with_norms_behind
from jinfer.models.rope_config import RopeConfig
from jinfer.models.rope_entries import RopeContext, read_rope_entry
from jinfer.models.window_entries import FULL, SLIDING, read_periodic_windows

ARCHITECTURES = ("Olmo3ForCausalLM",)
MODEL_TYPE = "olmo3"
DEFAULTS = FamilyDefaults(
    vocab_size=50304,
    intermediate_size=11008,
    max_position_embeddings=2048,
    rms_norm_eps=1e-5,
    rope_theta=5e5,
)
PERIOD = 4  # of layers without a window, where layer_types are absent


def read_config(entries: Entries) -> ModelConfig:
    """`sliding_window` is of the layers that `layer_types` names, or of three in four."""
    bias = entries.switch("attention_bias", False)
    config = read_decoder_config(
        entries,
        ARCHITECTURES[0],
        DEFAULTS,
        qkv_bias=bias,
        output_bias=bias,
        sliding_windows=read_periodic_windows(entries, DEFAULTS, period=PERIOD),
        rope_reader=_read_rope,
    )
    return replace(config, layers=tuple(with_norms_behind(layer) for layer in config.layers))


def _read_rope(entries: Entries, context: RopeContext, layer_type: str) -> RopeConfig:
    """`rope_parameters` has an entry for each type, and `rope_scaling` is of layers without a window."""
    by_type, scaling = entries.object("rope_parameters"), entries.object("rope_scaling")
    if by_type is not None and not set(by_type.raw) <= {FULL, SLIDING}:
        entries.refuse("rope_parameters", f"in this family it has entries for {FULL} and {SLIDING}")
    if by_type is not None and scaling is not None:
        entries.refuse("rope_scaling", "rope_parameters say it already: remove the one that does not hold")
    of_type = None if by_type is None else by_type.object(layer_type)
    if layer_type == FULL:
        return read_rope_entry(of_type or scaling, entries, context)
    theta = entries.number("rope_theta", None, above=0)
    if theta not in (None, context.default_theta) and (of_type is None or not of_type.has("rope_theta")):
        entries.refuse(
            "rope_theta",
            f"transformers takes {context.default_theta:g} for layers of {SLIDING} then; write a "
            "rope_theta for each type in rope_parameters",
        )
    return read_rope_entry(of_type, Entries({}), context)
