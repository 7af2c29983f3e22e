"""The text model of Qwen3-VL (Bai et al., "Qwen3-VL Technical Report", 2025): Qwen3 whose rotary embedding
counts time, height and width.

A text has the three counts alike, so that its tokens are turned by their positions, as in Qwen3.
"""

from jinfer.entries import Entries
from jinfer.models.config import ModelConfig
from jinfer.models.config_entries import FamilyDefaults, read_decoder_config
from jinfer.models.rope_config import RopeConfig
from jinfer.models.rope_entries import RopeContext, read_rope, without_entries

ARCHITECTURES: tuple[str, ...] = ()  # it comes within a multimodal model alone
MODEL_TYPE = "qwen3_vl_text"
DEFAULTS = FamilyDefaults(
    vocab_size=151936,
    intermediate_size=22016,
    max_position_embeddings=128000,
    num_kv_heads=32,
    head_dim=128,
    rope_theta=5e5,
)
OF_THREE_COUNTS = ("mrope_section", "mrope_interleaved")
"""Entries that say which pairs of dimensions are turned by which count."""


def read_config(entries: Entries) -> ModelConfig:
    """`attention_bias` puts a bias on all four projections."""
    bias = entries.switch("attention_bias", False)
    return read_decoder_config(
        entries,
        "Qwen3VLForConditionalGeneration",
        DEFAULTS,
        qkv_bias=bias,
        output_bias=bias,
        has_head_norms=True,
        rope_reader=_read_rope,
    )


def _read_rope(entries: Entries, context: RopeContext, layer_type: str) -> RopeConfig:
    """The rule of all three counts."""
    return read_rope(without_entries(entries, OF_THREE_COUNTS), context, (layer_type,))
