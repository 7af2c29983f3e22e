"""The parameters of a decoder: the shape, the logical axes, the first value and the tensors of each, in one place."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax.numpy as jnp

from jinfer.models.config import ModelConfig
from jinfer.weights.param_spec import (
    JOINED,
    LAYERS,
    CheckpointTensor,
    IgnoredTensors,
    ParamSpec,
    ParamSpecs,
    TiedParam,
)

EMBEDDING, HEAD = "embedding/kernel", "head/kernel"
"""Paths of the two parameters that are one in a tied model."""
FOLLOW_FROM_CONFIG = re.compile(
    r"(^|\.)(rotary_emb\.((original_)?inv_freq|(cos|sin)(_cached)?)"
    r"|position_ids|masked_bias)$"  # 0, 1, 2, ...; and what masked scores are set to
)
CAUSAL_MASK = re.compile(r"(^|\.)(attn|self_attn|attention)\.bias$")
IGNORED = (IgnoredTensors(FOLLOW_FROM_CONFIG), IgnoredTensors(CAUSAL_MASK, dtypes=("BOOL", "U8")))


class Axis(NamedTuple):
    """A logical axis and its size."""

    name: str
    size: int


@dataclass(frozen=True)
class Stack:
    """Parameters of the same layers, stacked as [num_layers, ...]; `prefix` begins the names of their tensors."""

    dtype: jnp.dtype
    layers: tuple[int, ...]
    prefix: str = "model.layers.{layer}."

    def norm(self, name: str, features: Axis) -> ParamSpec:
        """The scale of a norm over `features`."""
        tensor = CheckpointTensor(f"{self.prefix}{name}.weight", features.name, features.size)
        return ParamSpec(
            shape=(len(self.layers), features.size),
            dtype=self.dtype,
            axes=(LAYERS, features.name),
            init="ones",
            tensors=(tensor,),
            layers=self.layers,
        )

    def projection(self, path: str, inputs: Axis, outputs: Mapping[str, Axis], *, bias: bool) -> dict[str, ParamSpec]:
        """A kernel [in, out], and a bias, of which checkpoints have one [out, in] tensor for each of `outputs`."""
        num_outputs = sum(axis.size for axis in outputs.values())
        (out, *others) = [axis.name for axis in outputs.values()]
        kernel = ParamSpec(
            shape=(len(self.layers), inputs.size, num_outputs),
            dtype=self.dtype,
            axes=(LAYERS, inputs.name, JOINED if others else out),
            init="normal",
            tensors=self._tensors(outputs, "weight"),
            is_transposed=True,
            layers=self.layers,
        )
        specs = {f"{path}/kernel": kernel}
        if bias:
            specs[f"{path}/bias"] = ParamSpec(
                shape=(len(self.layers), num_outputs),
                dtype=self.dtype,
                axes=(LAYERS, JOINED if others else out),
                init="zeros",
                tensors=self._tensors(outputs, "bias"),
                layers=self.layers,
            )
        return specs

    def _tensors(self, outputs: Mapping[str, Axis], kind: str) -> tuple[CheckpointTensor, ...]:
        return tuple(
            CheckpointTensor(f"{self.prefix}{name}.{kind}", axis.name, axis.size) for name, axis in outputs.items()
        )


def decoder_params(config: ModelConfig, dtype: jnp.dtype, more: Mapping[str, ParamSpec] | None = None) -> ParamSpecs:
    """The parameters of a pre-norm decoder, and `more` of a family's own."""
    embed, mlp = Axis("embed", config.hidden_size), Axis("mlp", config.intermediate_size)
    heads = Axis("heads", config.num_heads * config.head_dim)
    kv_heads = Axis("kv_heads", config.num_kv_heads * config.head_dim)
    qkv = {"self_attn.q_proj": heads, "self_attn.k_proj": kv_heads, "self_attn.v_proj": kv_heads}
    gate_up = {"mlp.gate_proj": mlp, "mlp.up_proj": mlp}
    layers = layer_stack(config, dtype)
    by_path = {
        **_vocabulary(config, dtype),
        "attention_norm/scale": layers.norm("input_layernorm", embed),
        "mlp_norm/scale": layers.norm("post_attention_layernorm", embed),
        "final_norm/scale": Stack(dtype, layers=(0,), prefix="model.").norm("norm", embed),
        **layers.projection("attention/qkv", embed, qkv, bias=config.qkv_bias),
        **layers.projection("attention/output", heads, {"self_attn.o_proj": embed}, bias=config.output_bias),
        **layers.projection("mlp/gate_up", embed, gate_up, bias=config.mlp_bias),
        **layers.projection("mlp/down", mlp, {"mlp.down_proj": embed}, bias=config.mlp_bias),
        **(more or {}),
    }
    return ParamSpecs(by_path, IGNORED)


def head_norms(config: ModelConfig, dtype: jnp.dtype) -> dict[str, ParamSpec]:
    """The scales of the norms on queries and keys, each head by itself."""
    layers = layer_stack(config, dtype)
    head_dim = Axis("head_dim", config.head_dim)
    return {f"attention/{name}/scale": layers.norm(f"self_attn.{name}", head_dim) for name in ("q_norm", "k_norm")}


def layer_stack(config: ModelConfig, dtype: jnp.dtype) -> Stack:
    """The stack of all layers of a decoder."""
    return Stack(dtype, tuple(range(config.num_layers)))


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
