"""The entries of a config.json about latent attention, which DeepSeek's families spell alike."""

from dataclasses import dataclass, replace

from jinfer.entries import Entries
from jinfer.models.config import LatentAttentionConfig, ModelConfig
from jinfer.models.config_entries import FamilyDefaults, read_decoder_config
from jinfer.models.rope_config import RopeConfig, YarnRopeScaling
from jinfer.models.rope_entries import RopeContext, read_rope, rope_objects
from jinfer.models.rope_scaling_entries import yarn_scale


@dataclass(frozen=True)
class LatentDefaults:
    """Sizes that config.json lacks: the defaults of the family's configuration class in transformers 5."""

    q_latent_dim: int
    latent_dim: int = 512
    nope_dim: int = 128
    rope_dim: int = 64
    value_dim: int = 128


def read_latent_decoder_config(
    entries: Entries,
    architecture: str,
    defaults: FamilyDefaults,
    latent: LatentDefaults,
    *,
    has_interleaved_rope: bool,
    mlp_bias: bool = False,
) -> ModelConfig:
    """The decoder of a config.json, with latent attention in all layers and no experts.

    `attention_bias` puts a bias on the projections to latent vectors and on that of the output. Raises
    UnsupportedModelError for a malformed or unsupported entry.
    """
    rope_dim = entries.integer("qk_rope_head_dim", latent.rope_dim)
    if rope_dim % 2:
        entries.refuse("qk_rope_head_dim", "rotary embedding turns dimensions in pairs: it must be even")

    def read(entries: Entries, context: RopeContext, layer_type: str) -> RopeConfig:
        return read_rope(entries, replace(context, rotary_dim=rope_dim), {layer_type})

    # A head has more dimensions; those of its query are spelled in two entries.
    config = read_decoder_config(
        entries,
        architecture,
        replace(defaults, head_dim=rope_dim),
        qkv_bias=False,
        output_bias=False,
        mlp_bias=mlp_bias,
        rope_reader=read,
    )
    plain = config.layers[0].attention
    nope_dim = entries.integer("qk_nope_head_dim", latent.nope_dim)
    attention = LatentAttentionConfig(
        num_heads=plain.num_heads,
        latent_dim=entries.integer("kv_lora_rank", latent.latent_dim),
        nope_dim=nope_dim,
        rope_dim=rope_dim,
        value_dim=entries.integer("v_head_dim", latent.value_dim),
        rope=plain.rope,
        scale=(nope_dim + rope_dim) ** -0.5 * _score_scale(entries, plain.rope),
        q_latent_dim=_q_latent_dim(entries, latent),
        bias=entries.switch("attention_bias", False),
        has_interleaved_rope=has_interleaved_rope,
    )
    layers = tuple(replace(layer, attention=attention) for layer in config.layers)
    return replace(config, layers=layers)


def _q_latent_dim(entries: Entries, latent: LatentDefaults) -> int | None:
    """Null is no latent vector of queries; absence is the family's default."""
    default = None if "q_lora_rank" in entries.raw else latent.q_latent_dim
    return entries.integer("q_lora_rank", default)


def _score_scale(entries: Entries, rope: RopeConfig | None) -> float:
    """YaRN's factor of scores, the square of `yarn_scale` of `mscale_all_dim`: 1 without that, or with 0."""
    if rope is None or rope.scaling is None:
        return 1.0
    for entry in rope_objects(entries):
        of_all = entry.number("mscale_all_dim", None, at_least=0)
        if not of_all:
            continue
        if not isinstance(rope.scaling, YarnRopeScaling):
            entry.refuse("mscale_all_dim", "jinfer applies it to scores with rotary embedding of type yarn")
        return yarn_scale(rope.scaling.factor, of_all) ** 2
    return 1.0
