"""The parameters of a decoder: the shape, the logical axes, the first value and the tensors of each, in one
place."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import jax.numpy as jnp

from jinfer.models.config import (
    AttentionConfig,
    ExpertsConfig,
    LatentAttentionConfig,
    LayerConfig,
    MLPConfig,
    ModelConfig,
    TensorNames,
)
from jinfer.models.expert_params import beside_params, experts_params, gated_mlp_params
from jinfer.models.latent_params import latent_attention_params
from jinfer.models.stack_specs import Axis, StackSpecs, joined_outputs
from jinfer.models.token_input_params import of_layers, of_model
from jinfer.weights.param_spec import (
    JOINED,
    LAYERS,
    CheckpointTensor,
    IgnoredTensors,
    Init,
    ParamSpec,
    ParamSpecs,
    TiedParam,
)
from jinfer.weights.params import Params

EMBEDDING, HEAD = "embedding/kernel", "head/kernel"
"""Paths of the two parameters that are one in a tied model."""
KV_SCALES = "attention/kv_scales"
PRE_NORMS = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
SANDWICH_NORMS = {
    "attention_norm": "input_layernorm",
    "attention_post_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
}
POST_NORMS = {
    "attention_post_norm": "post_attention_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
}
NORMS: Mapping[tuple[bool, bool], Mapping[str, str]] = {
    (True, False): PRE_NORMS,
    (True, True): SANDWICH_NORMS,
    (False, True): POST_NORMS,
    (False, False): {},
}
"""The norms of a layer, and their tensors, by whether it has norms before attention and MLP, and behind them:
the same name is another norm where there are four."""
FOLLOW_FROM_CONFIG = re.compile(
    r"(^|\.)(rotary_emb\.((original_)?inv_freq|(cos|sin)(_cached)?)"
    r"|position_ids|masked_bias)$"  # 0, 1, 2, ...; and what masked scores are set to
)
CAUSAL_MASK = re.compile(r"(^|\.)(attn|self_attn|attention)\.bias$")
IGNORED = (IgnoredTensors(FOLLOW_FROM_CONFIG), IgnoredTensors(CAUSAL_MASK, dtypes=("BOOL", "U8")))


@dataclass(frozen=True)
class LayerStack:
    """Layers whose parameters are alike, and lie under one path: `name`, or the root of the params where it
    is None."""

    name: str | None
    layers: tuple[int, ...]

    def path(self, path: str) -> str:
        """The path of a parameter of these layers."""
        return path if self.name is None else f"{self.name}/{path}"

    def params(self, params: Params) -> Params:
        """The part of a model's params that is of these layers."""
        return params if self.name is None else params[self.name]


def layer_stacks(config: ModelConfig) -> tuple[LayerStack, ...]:
    """The stacks of a decoder, in the order of their first layers: one at the root of the params, or several
    with a name of their own (docs/decisions/0016)."""
    one = StackSpecs(jnp.dtype(jnp.float32), (0,))
    alike = {
        layer: {**_layer_params(config, layer, one), **_kv_scales(layer.attention, one)}
        for layer in set(config.layers)
    }
    kinds: list[dict[str, ParamSpec]] = []
    layers_of: list[list[int]] = []
    for number, layer in enumerate(config.layers):
        if alike[layer] not in kinds:
            kinds.append(alike[layer])
            layers_of.append([])
        layers_of[kinds.index(alike[layer])].append(number)
    if len(kinds) == 1:
        return (LayerStack(None, tuple(layers_of[0])),)
    return tuple(LayerStack(f"layers_{index}", tuple(layers)) for index, layers in enumerate(layers_of))


def decoder_params(config: ModelConfig, dtype: jnp.dtype) -> ParamSpecs:
    """The parameters of a decoder."""
    embed = Axis("embed", config.hidden_size)
    norm_init: Init = "ones" if config.norm_offset == 0 else 1 - config.norm_offset
    around_layers = StackSpecs(dtype, (0,), "model.", norm_init)
    by_path = {**_vocabulary(config, dtype), "final_norm/scale": around_layers.norm("norm", embed)}
    kv_scales: dict[str, ParamSpec] = {}
    for stack in layer_stacks(config):
        layer, specs_of = config.layers[stack.layers[0]], StackSpecs(dtype, stack.layers, norm_init=norm_init)
        specs = _layer_params(config, layer, specs_of)
        by_path |= {stack.path(path): spec for path, spec in specs.items()}
        scales = _kv_scales(layer.attention, specs_of)
        kv_scales |= {stack.path(path): spec for path, spec in scales.items()}
    if config.token_inputs is not None:
        by_path |= of_model(config.token_inputs, config.num_layers, embed, around_layers)
    return ParamSpecs(by_path, _ignored(config), kv_scales, is_part=config.is_part)


def _ignored(config: ModelConfig) -> tuple[IgnoredTensors, ...]:
    """Tensors that hold nothing of the decoder: those of layers that are left out, and keys and values of
    layers that attend to another's."""
    left_out = range(config.num_layers, config.num_layers + config.num_prediction_layers)
    reading = [number for number in range(config.num_layers) if number not in config.caching_layers]
    patterns = {
        rf"^model\.layers\.({'|'.join(map(str, left_out))})\.": left_out,
        rf"(^|\.)layers\.({'|'.join(map(str, reading))})\.self_attn\.[kv]_(proj|norm)\.": reading,
    }
    found = (IgnoredTensors(re.compile(pattern)) for pattern, layers in patterns.items() if layers)
    return *IGNORED, *found


def _layer_params(config: ModelConfig, layer: LayerConfig, stack: StackSpecs) -> dict[str, ParamSpec]:
    """The parameters of layers of a kind."""
    embed = Axis("embed", config.hidden_size)
    norms = NORMS[layer.has_pre_norms, layer.has_post_norms]
    renamed = dict(config.tensor_names.norms)
    specs = {
        **{f"{name}/scale": stack.norm(renamed.get(name, tensor), embed) for name, tensor in norms.items()},
        **_attention_params(layer.attention, config.tensor_names, embed, stack),
        **_mlp_params(layer.mlp, config.tensor_names, embed, stack),
    }
    if layer.experts_beside is not None:
        specs |= beside_params(
            "experts_beside", layer.experts_beside, config.tensor_names.experts, embed, stack
        )
    if config.token_inputs is not None:
        specs |= of_layers(config.token_inputs, embed, stack)
    if layer.has_scale:
        specs["scale"] = stack.vector("layer_scalar", Axis("one", 1), init="ones")
    return specs


def _mlp_params(
    mlp: MLPConfig | ExpertsConfig, names: TensorNames, embed: Axis, stack: StackSpecs
) -> dict[str, ParamSpec]:
    if isinstance(mlp, ExpertsConfig):
        return experts_params("mlp", mlp, names.experts, embed, stack)
    return gated_mlp_params("mlp", mlp, (*names.gate_up, names.down), embed, stack)


def _attention_params(
    attention: AttentionConfig | LatentAttentionConfig, names: TensorNames, embed: Axis, stack: StackSpecs
) -> dict[str, ParamSpec]:
    if isinstance(attention, LatentAttentionConfig):
        return latent_attention_params(attention, embed, stack)
    heads = Axis("heads", attention.num_heads * attention.head_dim)
    kv_heads = Axis("kv_heads", attention.num_kv_heads * attention.head_dim)
    axes = (heads, kv_heads, kv_heads)[: _num_projections(attention)]
    qkv = joined_outputs(names.qkv[: len(axes)], axes)
    specs = {
        **stack.projection("attention/qkv", embed, qkv, bias=attention.qkv_bias),
        **stack.projection(
            "attention/output", heads, {"self_attn.o_proj": embed}, bias=attention.output_bias
        ),
    }
    if attention.has_head_norms:
        head_dim = Axis("head_dim", attention.head_dim)
        specs |= {
            f"attention/{name}/scale": stack.norm(f"self_attn.{name}", head_dim)
            for name in (("q_norm", "k_norm") if attention.kv_layer is None else ("q_norm",))
        }
    if attention.has_projection_norms:
        specs |= {
            f"attention/{name}_projection_norm/scale": stack.norm(f"self_attn.{name}_norm", axis)
            for name, axis in (("q", heads), ("k", kv_heads))
        }
    if attention.has_sinks:
        specs["attention/sinks"] = stack.vector(
            "self_attn.sinks", Axis("heads", attention.num_heads), init="zeros"
        )
    return specs


def _num_projections(attention: AttentionConfig) -> int:
    """Queries, keys and values; keys that are values, too; or queries alone."""
    return 1 if attention.kv_layer is not None else 2 if attention.keys_are_values else 3


def _kv_scales(attention: AttentionConfig | LatentAttentionConfig, stack: StackSpecs) -> dict[str, ParamSpec]:
    """The scale of each KV head's keys in the cache, and then that of its values. A cache of latent vectors,
    or of another layer, has none."""
    if isinstance(attention, LatentAttentionConfig) or attention.kv_layer is not None:
        return {}
    num_heads = attention.num_kv_heads
    names = ("self_attn.k_scale", "self_attn.v_scale")
    spec = ParamSpec(
        shape=(len(stack.layers), 2 * num_heads),
        dtype=jnp.dtype(jnp.float32),
        axes=(LAYERS, JOINED),
        init="ones",
        tensors=tuple(CheckpointTensor(f"{stack.prefix}{name}", "kv_heads", num_heads) for name in names),
        layers=stack.layers,
    )
    return {KV_SCALES: spec}


def _vocabulary(config: ModelConfig, dtype: jnp.dtype) -> dict[str, ParamSpec]:
    """The embedding, and a head of its own or tied to it."""
    embedding = _vocabulary_matrix(config, dtype, "model.embed_tokens.weight")
    head = _vocabulary_matrix(config, dtype, "lm_head.weight")
    if config.tie_word_embeddings:
        return {EMBEDDING: replace(embedding, tied=TiedParam(HEAD, head))}
    return {EMBEDDING: embedding, HEAD: head}


def _vocabulary_matrix(config: ModelConfig, dtype: jnp.dtype, name: str) -> ParamSpec:
    return ParamSpec(
        shape=(config.vocab_size, config.hidden_size),
        dtype=dtype,
        axes=("vocab", "embed"),
        init="normal",
        tensors=(CheckpointTensor(name, "embed", config.hidden_size),),
    )
