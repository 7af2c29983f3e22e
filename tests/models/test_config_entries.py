"""Entries of config.json: their types and ranges, what their absence means, and what contradicts or is
another family's."""

from typing import Any

import pytest

from jinfer.errors import UnsupportedModelError
from jinfer.models.config import ModelConfig
from jinfer.models.registry import FAMILIES as MODULES
from jinfer.models.registry import read_model_config
from tests.models.configs import (
    DEFAULT_THETAS,
    FAMILIES,
    GLM,
    GLM4,
    GRANITE,
    LLAMA,
    MISTRAL,
    OLMO2,
    PHI3,
    QWEN2,
    QWEN3,
    SEED_OSS,
    SMALL,
    SMOLLM3,
    attention_of,
    read,
    refusal,
    windows_of,
)

NO_INTEGERS = ["96", 96.0, [96], {"n": 96}, True, 0, -4, float("nan"), 2**31, 10**400]
NO_SWITCHES = ["false", "true", 0, 1, 1.0, [], {}]
NO_NUMBERS = ["1e-5", True, [1e-5], {}, float("nan"), float("inf"), 10**400, -1e-5]
SIZES = [*SMALL, "head_dim"]


@pytest.mark.parametrize("architecture", FAMILIES)
@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_integers_from_1(name: str, architecture: str) -> None:
    for value in NO_INTEGERS:
        assert f"config.json has {name} {repr(value)[:20]}" in refusal(architecture, **{name: value})


SWITCHES = [
    *((architecture, "tie_word_embeddings") for architecture in FAMILIES),
    (LLAMA, "attention_bias"),
    (LLAMA, "mlp_bias"),
    (QWEN3, "attention_bias"),
    (GLM, "attention_bias"),
    (GLM4, "attention_bias"),
    (OLMO2, "attention_bias"),
    (SEED_OSS, "attention_bias"),
    (SEED_OSS, "attention_out_bias"),
    (SEED_OSS, "mlp_bias"),
    (SMOLLM3, "attention_bias"),
    (SMOLLM3, "mlp_bias"),
    (SMOLLM3, "use_sliding_window"),
    (GRANITE, "attention_bias"),
    (GRANITE, "mlp_bias"),
    (QWEN2, "use_sliding_window"),
    (QWEN3, "use_sliding_window"),
]


@pytest.mark.parametrize(("architecture", "name"), SWITCHES)
def test_switches_are_true_or_false(architecture: str, name: str) -> None:
    for value in NO_SWITCHES:
        assert f"config.json has {name} {value!r}; it must be true or false" in refusal(
            architecture, **{name: value}
        )


@pytest.mark.parametrize("architecture", FAMILIES)
def test_the_epsilon_is_a_number_from_0(architecture: str) -> None:
    for value in NO_NUMBERS:
        assert "config.json has rms_norm_eps" in refusal(architecture, rms_norm_eps=value)
    assert read(architecture, rms_norm_eps=1).rms_norm_eps == 1.0


@pytest.mark.parametrize("architecture", [QWEN2, QWEN3])
@pytest.mark.parametrize("name", ["sliding_window", "max_window_layers"])
def test_what_is_said_of_windows_is_integers_whether_or_not_it_holds(architecture: str, name: str) -> None:
    for value in ["8", 8.0, [8], True]:
        for is_used in (True, False):
            assert name in refusal(architecture, **{name: value}, use_sliding_window=is_used)


def test_a_window_is_an_integer_from_1_where_it_holds() -> None:
    for value in (0, -1, "4096", 4096.0, [4096], True):
        assert f"sliding_window {value!r}" in refusal(MISTRAL, sliding_window=value)
    for value in (0, -1):
        assert f"sliding_window {value}" in refusal(QWEN2, use_sliding_window=True, sliding_window=value)
        assert windows_of(read(QWEN2, sliding_window=value)) == (None,) * 3


@pytest.mark.parametrize("value", [3, True, ["silu"], "gelu", "SiLU"])
def test_the_activation_is_silu(value: Any) -> None:
    assert f"hidden_act {value!r}" in refusal(hidden_act=value)
    assert read(hidden_act="swish") == read(hidden_act="silu") == read(hidden_act=None) == read()


@pytest.mark.parametrize("value", ["awq", ["awq"], 4, True])
@pytest.mark.parametrize("name", ["quantization_config", "compression_config"])
def test_what_is_said_of_quantization_is_an_object(name: str, value: Any) -> None:
    assert f"config.json has {name} {value!r}" in refusal(**{name: value})


@pytest.mark.parametrize("name", ["quantization_config", "compression_config"])
def test_quantization_is_read_under_either_name(name: str) -> None:
    assert name in refusal(**{name: {"quant_method": "compressed-tensors"}})
    assert name in refusal(**{name: {"bits": 4}})
    assert read(**{name: {"quant_method": "awq", "bits": 4}}) == read()
    assert read(**{name: {}}) == read(**{name: None}) == read()


@pytest.mark.parametrize("value", ["full_attention", 3, [3], {"0": "full_attention"}])
@pytest.mark.parametrize("architecture", FAMILIES)
def test_layer_types_are_strings(architecture: str, value: Any) -> None:
    assert "layer_types" in refusal(architecture, layer_types=value)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_null_means_the_default_where_there_is_one(architecture: str) -> None:
    names = (
        "rms_norm_eps",
        "head_dim",
        "tie_word_embeddings",
        "hidden_act",
        "rope_theta",
        "rope_scaling",
        "rope_parameters",
        "attention_bias",
        "mlp_bias",
        "layer_types",
        "quantization_config",
        "use_sliding_window",
        "partial_rotary_factor",
        "dual_chunk_attention_config",
    )
    assert read(architecture, **dict.fromkeys(names)) == read(architecture)


@pytest.mark.parametrize("architectures", [[3], [None], {"a": 1}, "", 0])
def test_architectures_of_another_type_are_refused(architectures: Any) -> None:
    with pytest.raises(UnsupportedModelError, match="'architectures'"):
        read_model_config({**SMALL, "architectures": architectures})


@pytest.mark.parametrize("name", ["model_type"])
def test_the_type_of_the_model_is_a_string(name: str) -> None:
    assert f"{name} ['llama']" in refusal(**{name: ["llama"]})


# --- heads


def test_heads_without_a_head_dim_divide_the_hidden_size_rounding_down() -> None:
    """As in transformers, whose projections are then narrower than the hidden states."""
    assert attention_of(read(MISTRAL, hidden_size=50)).head_dim == 12
    assert "hidden_size 3 and num_attention_heads 4" in refusal(hidden_size=3)


def test_an_odd_head_dim_is_refused() -> None:
    assert "head_dim 7" in refusal(head_dim=7)
    assert "head_dim 9" in refusal(hidden_size=36)


# --- defaults

DEFAULTS = {
    LLAMA: (32000, 4096, 11008, 32, 32, 32, 128, 2048),
    MISTRAL: (32000, 4096, 14336, 32, 32, 8, 128, 131072),
    QWEN2: (151936, 4096, 22016, 32, 32, 32, 128, 32768),
    QWEN3: (151936, 4096, 22016, 32, 32, 32, 128, 32768),
    PHI3: (32064, 4096, 8192, 32, 32, 32, 128, 4096),
    GLM: (151552, 4096, 13696, 40, 32, 2, 128, 131072),
    GLM4: (151552, 4096, 13696, 40, 32, 2, 128, 131072),
    OLMO2: (50304, 4096, 11008, 32, 32, 32, 128, 2048),
    SEED_OSS: (155136, 4096, 27648, 64, 80, 8, 128, 524288),
    SMOLLM3: (128256, 4096, 11008, 36, 16, 4, 256, 32768),
    GRANITE: (32000, 4096, 11008, 32, 32, 32, 128, 2048),
}
EPSILONS = {PHI3: 1e-5, GLM: 1.5625e-7, GLM4: 1.5625e-7, OLMO2: 1e-5}  # of the others 1e-6


def of_defaults(architecture: str, hidden_size: int = 4096) -> ModelConfig:
    return read_model_config({"architectures": [architecture], "hidden_size": hidden_size})


@pytest.mark.parametrize("architecture", FAMILIES)
def test_what_is_absent_is_the_familys_default(architecture: str, caplog) -> None:
    config = of_defaults(architecture)
    attention, mlp = config.layers[0].attention, config.layers[0].mlp
    heads = attention.num_heads, attention.num_kv_heads, attention.head_dim
    sizes = config.vocab_size, config.hidden_size, mlp.intermediate_size, config.num_layers
    assert (*sizes, *heads, config.max_position_embeddings) == DEFAULTS[architecture]
    assert config.rms_norm_eps == EPSILONS.get(architecture, 1e-6)
    assert attention.rope is not None
    assert attention.rope.theta == DEFAULT_THETAS[architecture]
    assert config.tie_word_embeddings == (architecture == SMOLLM3)
    assert all(
        name in caplog.text for name in ("vocab_size", "intermediate_size", "num_hidden_layers", "heads")
    )


def test_the_hidden_size_has_no_default_of_use() -> None:
    """Every shape follows from it, so that a file without it is broken: its name is said, and not all the
    shapes."""
    with pytest.raises(UnsupportedModelError, match=r"no 'hidden_size'.*add it"):
        read_model_config(
            {"architectures": [LLAMA], **{name: n for name, n in SMALL.items() if name != "hidden_size"}}
        )


def test_sizes_that_are_there_are_not_said(caplog) -> None:
    for architecture in FAMILIES:
        read(architecture)
    assert caplog.text == ""


@pytest.mark.oracle
@pytest.mark.parametrize("module", [each for each in MODULES if {*each.ARCHITECTURES} & {*FAMILIES}])
def test_defaults_are_those_of_transformers(module) -> None:
    transformers = pytest.importorskip("transformers")
    (architecture,) = module.ARCHITECTURES[:1]
    theirs = getattr(transformers, architecture).config_class()
    ours = of_defaults(architecture, theirs.hidden_size)
    attention = ours.layers[0].attention
    assert attention.rope is not None
    share = (attention.rotary_dim or attention.head_dim) / attention.head_dim
    part = {} if module.DEFAULTS.partial_rotary_factor is None else {"partial_rotary_factor": share}
    rope = {"rope_theta": attention.rope.theta, "rope_type": "default", **part}
    is_by_type = module.MODEL_TYPE == "olmo3"
    names = {
        "num_hidden_layers": ours.num_layers,
        "num_attention_heads": attention.num_heads,
        "num_key_value_heads": attention.num_kv_heads,
        "intermediate_size": ours.layers[0].mlp.intermediate_size,
        "rope_parameters": {"full_attention": rope, "sliding_attention": rope} if is_by_type else rope,
    }
    same = ("vocab_size", "hidden_size", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings")
    assert theirs.model_type == module.MODEL_TYPE
    for name, value in {**names, **{name: getattr(ours, name) for name in same}}.items():
        assert getattr(theirs, name) == value, name
    head_dim = getattr(theirs, "head_dim", None) or theirs.hidden_size // theirs.num_attention_heads
    assert head_dim == attention.head_dim
    windows = {"sliding_window": 8, "num_hidden_layers": 40}
    if module.MODEL_TYPE.startswith("qwen"):
        theirs = type(theirs)(use_sliding_window=True, **windows)
        ours = read(architecture, use_sliding_window=True, **windows)
        assert [kind == "sliding_attention" for kind in theirs.layer_types] == [
            w == 8 for w in windows_of(ours)
        ]


# --- names of architectures


@pytest.mark.parametrize(
    "spelling", ["LLaMAForCausalLM", "LlamaForCausalLM", "LLaMaForCausalLM", "LLAMAForCausalLM"]
)
def test_the_case_of_an_architecture_does_not_matter(spelling: str) -> None:
    assert read(spelling) == read(LLAMA)


@pytest.mark.parametrize("architectures", [None, [], ()])
def test_without_architectures_the_model_type_says_which(architectures: Any) -> None:
    raw = {**SMALL, "architectures": architectures, "num_experts_per_tok": 2}
    for module in filter(lambda each: each.ARCHITECTURES, MODULES):
        named = {**raw, "architectures": list(module.ARCHITECTURES[:1])}
        assert read_model_config({**raw, "model_type": module.MODEL_TYPE}) == read_model_config(named)


def test_a_model_type_of_another_family_is_said(caplog) -> None:
    read(LLAMA, model_type="mistral")
    assert "model_type 'mistral'" in caplog.text
    caplog.clear()
    read(LLAMA, model_type="llama")
    read(LLAMA, model_type="aquila")  # a name of its own for what it runs as
    assert caplog.text == ""


# --- what contradicts

TYPES = ["full_attention", "sliding_attention", "full_attention"]


def test_mistral_with_layer_types_is_by_layer_as_ministral_is() -> None:
    assert windows_of(read(MISTRAL, sliding_window=8, layer_types=TYPES)) == (None, 8, None)
    assert windows_of(read(MISTRAL, layer_types=TYPES)) == (None, 4096, None)
    assert windows_of(read(MISTRAL, layer_types=["attention"] * 3)) == (None,) * 3


@pytest.mark.parametrize(
    ("architecture", "entries"),
    [
        (QWEN2, {"sliding_window": 8}),
        (QWEN2, {"sliding_window": 8, "use_sliding_window": False}),
        (QWEN3, {"sliding_window": 8, "use_sliding_window": None}),
        (QWEN3, {"sliding_window": None, "use_sliding_window": True}),
        (MISTRAL, {"sliding_window": None}),
        (LLAMA, {"sliding_window": 8}),
        (LLAMA, {}),
        (GLM4, {"sliding_window": 8}),
        (OLMO2, {"sliding_window": 8}),
        (SEED_OSS, {"sliding_window": 8}),
    ],
)
def test_layer_types_with_a_window_that_is_not_there_are_refused(architecture: str, entries: dict) -> None:
    assert "layer_types" in refusal(architecture, layer_types=TYPES, **entries)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_layer_types_without_a_window_are_served(architecture: str) -> None:
    config = read(architecture, layer_types=["full_attention"] * 3, sliding_window=None)
    assert windows_of(config) == (None,) * 3


def test_dual_chunk_attention_ends_the_context_where_plain_attention_is_another(caplog) -> None:
    dual = {"chunk_size": 64, "local_size": 16, "original_max_position_embeddings": 64}
    assert read(QWEN2, dual_chunk_attention_config=dual).context_length == 64
    assert "dual_chunk_attention_config" in caplog.text
    del dual["original_max_position_embeddings"]
    caplog.clear()
    assert read(QWEN2, dual_chunk_attention_config=dual).context_length == 128
    assert "dual_chunk_attention_config" in caplog.text
    assert "dual_chunk_attention_config" in refusal(QWEN2, dual_chunk_attention_config=True)


def test_layers_that_differ_are_refused() -> None:
    assert "per_layer_config" in refusal(per_layer_config={"0": {"intermediate_size": 48}})


# --- entries of other families

FOREIGN: dict[str, tuple[Any, Any]] = {  # a value that would change what is computed, and one that would not
    "attn_logit_softcapping": (50.0, None),
    "final_logit_softcapping": (30.0, 0),
    "query_pre_attn_scalar": (256, 8),
    "attention_multiplier": (0.0078125, 8**-0.5),
    "embedding_multiplier": (12.0, 1.0),
    "residual_multiplier": (0.22, 1),
    "logits_scaling": (8.0, 1.0),
    "logit_scale": (0.0625, 1),
    "clip_qkv": (8.0, None),
    "qk_norm": (True, False),
    "use_qk_norm": (True, False),
    "no_rope_layers": ([1, 1, 0], [1, 1, 1]),
    "attn_temperature_tuning": (True, False),
    "llama_4_scaling": ({"beta": 0.1}, None),
    "mlp_type": ("gelu", None),
    "hidden_activation": ("gelu_pytorch_tanh", "silu"),
    "use_mrope": (True, False),
    "rope_interleaved": (True, False),
    "attention_chunk_size": (8192, None),
    "num_local_experts": (8, 1),
}


OWN: dict[str, tuple[str, ...]] = {  # entries that a family reads, so that they are none of another
    GRANITE: ("attention_multiplier", "embedding_multiplier", "residual_multiplier", "logits_scaling"),
    SMOLLM3: ("no_rope_layers",),
}


@pytest.mark.parametrize("name", OWN[GRANITE])
def test_an_entry_that_the_family_reads_is_not_said(name: str, caplog) -> None:
    changing, _ = FOREIGN[name]
    assert read(GRANITE, **{name: changing}) != read(GRANITE)
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("architecture", "name"),
    [(family, name) for family in FAMILIES for name in FOREIGN if name not in OWN.get(family, ())],
)
def test_an_entry_of_another_family_that_would_change_something_is_said(
    name: str, architecture: str, caplog
) -> None:
    changing, neutral = FOREIGN[name]
    assert read(architecture, head_dim=8, **{name: neutral}) == read(architecture, head_dim=8)
    assert caplog.text == ""
    read(architecture, head_dim=8, **{name: changing})
    assert f"config.json has {name} {changing!r}" in caplog.text


@pytest.mark.parametrize("architecture", [LLAMA, SEED_OSS, OLMO2, GRANITE])
def test_a_window_in_a_family_without_one_is_said_where_it_would_show(architecture: str, caplog) -> None:
    for entries in (
        {"sliding_window": 128},
        {"sliding_window": None},
        {"sliding_window": 8, "use_sliding_window": False},
    ):
        read(architecture, **entries)
    assert caplog.text == ""
    assert windows_of(read(architecture, sliding_window=8)) == (None,) * 3
    assert "sliding_window 8" in caplog.text


def test_harmless_entries_are_not_said(caplog) -> None:
    harmless = {
        "pretraining_tp": 2,
        "attention_dropout": 0.1,
        "use_cache": False,
        "initializer_range": 0.1,
        "pad_token_id": -1,
        "torch_dtype": "float16",
        "bos_token_id": 1,
        "transformers_version": "4.40.0",
        "model_type": "custom",
    }
    assert read(**harmless) == read()
    assert caplog.text == ""
