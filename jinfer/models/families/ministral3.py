"""Ministral 3 (Mistral AI, 2025): Mistral with yarn, whose queries grow with the position, as those of Llama
4 do (Meta, 2025)."""

from dataclasses import replace

from jinfer.entries import Entries
from jinfer.models.config import ModelConfig, QueryGrowth
from jinfer.models.config_entries import FamilyDefaults, read_decoder_config, read_num_layers
from jinfer.models.rope_config import RopeConfig
from jinfer.models.rope_entries import SPELLINGS, RopeContext, read_rope, rope_objects, without_entries
from jinfer.models.rope_scaling_entries import ORIGINAL

ARCHITECTURES = ("Ministral3ForCausalLM",)
MODEL_TYPE = "ministral3"
DEFAULTS = FamilyDefaults(
    vocab_size=131072,
    intermediate_size=14336,
    max_position_embeddings=262144,
    num_kv_heads=8,
    head_dim=128,
    num_layers=34,
    rms_norm_eps=1e-5,
)
BETA = "llama_4_scaling_beta"
OTHERS = (BETA, "max_position_embeddings")  # entries of the rule that rotary embedding does not read
DEFAULT_RULE = {
    "rope_type": "yarn",
    "rope_theta": 1e6,
    "factor": 16.0,
    ORIGINAL: 16384,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    BETA: 0.1,
}


def read_config(entries: Entries) -> ModelConfig:
    """`sliding_window`, where there is one, holds for every layer. The growth of queries stands in the rule
    of rotary embedding, which a file without one takes from the family."""
    if not any(entries.has(name) for name in SPELLINGS):
        entries = entries.changed({**entries.raw, SPELLINGS[0]: DEFAULT_RULE})
    num_layers = read_num_layers(entries, DEFAULTS.num_layers)
    config = read_decoder_config(
        entries,
        ARCHITECTURES[0],
        DEFAULTS,
        qkv_bias=False,
        output_bias=False,
        sliding_windows=(entries.integer("sliding_window", None),) * num_layers,
        rope_reader=_read_rope,
    )
    growth = _read_growth(entries)
    return replace(
        config,
        layers=tuple(
            replace(layer, attention=replace(layer.grouped_attention, query_growth=growth))
            for layer in config.layers
        ),
    )


def _read_growth(entries: Entries) -> QueryGrowth:
    rule = next(rope_objects(entries))
    for name in (BETA, ORIGINAL):
        rule.require(name)
    return QueryGrowth(rule.number(BETA, 0.0, at_least=0), rule.integer(ORIGINAL, 1))


def _read_rope(entries: Entries, context: RopeContext, layer_type: str) -> RopeConfig:
    return read_rope(without_entries(entries, OTHERS), context, (layer_type,))
