"""What config.json of Gemma 2 and 3 means, in the spelling of transformers 4 and 5, and what is refused."""

from typing import Any

import pytest

from jinfer.models.config import ModelConfig
from jinfer.models.registry import read_model_config
from jinfer.models.rope_config import LinearRopeScaling, RopeConfig
from tests.models.configs import GEMMA2, GEMMA3, GEMMAS, read, refusal, windows_of

GEMMA3_1B = {  # in the spelling of transformers 4
    "architectures": [GEMMA3],
    "model_type": "gemma3_text",
    "attention_bias": False,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "cache_implementation": "hybrid",
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 1152,
    "intermediate_size": 6912,
    "max_position_embeddings": 32768,
    "num_attention_heads": 4,
    "num_hidden_layers": 26,
    "num_key_value_heads": 1,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06,
    "rope_local_base_freq": 10000,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
    "vocab_size": 262144,
}
GEMMA2_27B = {
    "architectures": [GEMMA2],
    "model_type": "gemma2",
    "attention_bias": False,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "cache_implementation": "hybrid",
    "head_dim": 128,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 4608,
    "intermediate_size": 36864,
    "max_position_embeddings": 8192,
    "num_attention_heads": 32,
    "num_hidden_layers": 46,
    "num_key_value_heads": 16,
    "query_pre_attn_scalar": 144,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "vocab_size": 256000,
}
FULL, SLIDING = "full_attention", "sliding_attention"


def scales_of(config: ModelConfig) -> set[tuple[Any, ...]]:
    """Of each kind of layer: the factor and the cap of its scores, its activation and its norms."""
    return {
        (
            x.attention.scale,
            x.attention.soft_cap,
            x.mlp.activation,
            x.has_post_norms,
            x.attention.has_head_norms,
        )
        for x in config.layers
    }


def ropes_of(config: ModelConfig) -> list[RopeConfig]:
    """Of each layer."""
    return [layer.attention.rope for layer in config.layers]


def test_gemma_2_27b(caplog) -> None:
    config = read_model_config(GEMMA2_27B)
    assert scales_of(config) == {(144**-0.5, 50.0, "gelu_tanh", True, False)}
    assert windows_of(config) == (4096, None) * 23
    assert (config.logits_soft_cap, config.norm_offset, config.embedding_scale) == (30.0, 1.0, 4608**0.5)
    assert (config.tie_word_embeddings, config.context_length) == (True, 8192)
    assert caplog.text == ""


def test_gemma_3_1b(caplog) -> None:
    config = read_model_config(GEMMA3_1B)
    assert scales_of(config) == {(1 / 16, None, "gelu_tanh", True, True)}
    assert windows_of(config) == ((512,) * 5 + (None,)) * 4 + (512,) * 2
    assert ropes_of(config)[:6] == [RopeConfig(1e4)] * 5 + [RopeConfig(1e6)]
    assert (config.logits_soft_cap, config.norm_offset, config.embedding_scale) == (None, 1.0, 1152**0.5)
    assert (config.tie_word_embeddings, config.context_length) == (True, 32768)
    assert caplog.text == ""


def test_the_spellings_of_two_ropes_mean_the_same() -> None:
    linear = {"factor": 8.0, "rope_type": "linear"}
    types = [SLIDING, FULL, SLIDING]
    old = read(GEMMA3, layer_types=types, rope_theta=5e5, rope_local_base_freq=2e4, rope_scaling=linear)
    by_type = {FULL: {**linear, "rope_theta": 5e5}, SLIDING: {"rope_type": "default", "rope_theta": 2e4}}
    new = read(GEMMA3, layer_types=types, rope_parameters=by_type)
    assert old == new
    local = RopeConfig(2e4)
    assert ropes_of(new) == [local, RopeConfig(5e5, LinearRopeScaling(8.0)), local]
    assert new.context_length == 128  # which config.json has as it is with the scaling


@pytest.mark.parametrize("parameters", [None, {}, {FULL: {"rope_type": "default"}}, {SLIDING: None}])
def test_what_is_absent_of_two_ropes_has_defaults(parameters: Any) -> None:
    config = read(GEMMA3, rope_parameters=parameters, sliding_window_pattern=3)
    assert ropes_of(config) == [RopeConfig(1e4), RopeConfig(1e4), RopeConfig(1e6)]


def test_rope_parameters_that_are_not_by_type_are_refused() -> None:
    flat = {"rope_type": "default", "rope_theta": 1e6}
    message = refusal(GEMMA3, rope_parameters=flat)
    assert "rope_parameters {'rope_type'" in message
    assert "full_attention, sliding_attention" in message


def test_windows_alternate_or_are_by_layer_type() -> None:
    assert windows_of(read(GEMMA2)) == (4096, None, 4096)
    assert windows_of(read(GEMMA3)) == (4096,) * 3
    assert windows_of(read(GEMMA3, sliding_window_pattern=2)) == (4096, None, 4096)
    for architecture in GEMMAS:
        types = [FULL, FULL, SLIDING]
        assert windows_of(read(architecture, layer_types=types, sliding_window=8)) == (None, None, 8)
        assert "sliding_window is null" in refusal(architecture, sliding_window=None)


def test_soft_caps() -> None:
    """Null is none, and absent the default of Gemma 2. Gemma 3 caps logits alone."""
    names = "attn_logit_softcapping", "final_logit_softcapping"
    null = dict.fromkeys(names)

    def caps(config: ModelConfig) -> tuple[float | None, float | None]:
        return config.layers[0].attention.soft_cap, config.logits_soft_cap

    assert caps(read(GEMMA2)) == (50.0, 30.0)
    assert caps(read(GEMMA2, **null)) == caps(read(GEMMA3)) == (None, None)
    assert caps(read(GEMMA3, final_logit_softcapping=20)) == (None, 20.0)
    for name in names:
        assert f"{name} 0; it must be a finite number above 0" in refusal(GEMMA2, **{name: 0})


def test_a_cap_of_scores_in_gemma_3_is_said(caplog) -> None:
    read(GEMMA3, attn_logit_softcapping=50.0)
    assert "attn_logit_softcapping 50.0" in caplog.text


@pytest.mark.parametrize("architecture", GEMMAS)
def test_what_would_be_computed_wrongly_is_refused(architecture: str) -> None:
    assert "use_bidirectional_attention True" in refusal(architecture, use_bidirectional_attention=True)
    assert "hidden_activation 'gelu'" in refusal(architecture, hidden_activation="gelu")
    assert read(architecture, hidden_activation=None) == read(architecture)
    assert read(architecture, query_pre_attn_scalar=None) == read(architecture)


@pytest.mark.parametrize("architecture", GEMMAS)
def test_biases_are_of_all_four_projections(architecture: str) -> None:
    attention = read(architecture, attention_bias=True).layers[0].attention
    assert (attention.qkv_bias, attention.output_bias) == (True, True)
    assert read(architecture, tie_word_embeddings=False).tie_word_embeddings is False


@pytest.mark.oracle
@pytest.mark.parametrize("architecture", GEMMAS)
def test_defaults_are_those_of_transformers(architecture: str) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = getattr(transformers, architecture).config_class()
    ours = read_model_config({"architectures": [architecture], "hidden_size": 2304})
    attention = ours.layers[0].attention
    names = "vocab_size", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings"
    assert [getattr(ours, name) for name in names] == [getattr(theirs, name) for name in names]
    assert (theirs.num_hidden_layers, theirs.intermediate_size) == (
        ours.num_layers,
        ours.layers[0].mlp.intermediate_size,
    )
    heads = theirs.num_attention_heads, theirs.num_key_value_heads, theirs.head_dim
    assert (attention.num_heads, attention.num_kv_heads, attention.head_dim) == heads
    assert [kind == SLIDING for kind in theirs.layer_types] == [w is not None for w in windows_of(ours)]
    assert theirs.sliding_window == windows_of(ours)[0]
    assert (theirs.query_pre_attn_scalar**-0.5, theirs.final_logit_softcapping) == (
        attention.scale,
        ours.logits_soft_cap,
    )
